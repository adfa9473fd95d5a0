# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Quickstart: train a model, look at it, use it
#
# Everything that the command line does can be done here: `run` makes what a recipe needs and is not made yet, `load`
# gives a finished model. This notebook trains a small diffusion model of 8x8 digits on the processor.

# %%
import os

import torch

from pipeline.keys import Key
from stages.notebook import Images, digits, load, run

store = os.environ.get("KINTSUGI_STORE", "runs")

# %% [markdown]
# ## What it learns from
#
# Images are in $[-1, 1]$, and every example has an id, to which all randomness is keyed.

# %%
rows = digits(32)
print(rows.ids[:3], rows.label[:10])
Images(rows.x())

# %% [markdown]
# ## Training
#
# `kintsugi run plain --test 297 --set fit.images=20000` is the same on the command line. Options are named by their
# paths, as `kintsugi show plain` lists them. Run the cell again and nothing is done twice: results are found by what
# made them.

# %%
found = run("plain", {"test": 297, "samples": 64, "fit.images": 20_000}, store)
found

# %% [markdown]
# Each step's result is an artifact with a name: its files, when it was made, and its pictures.

# %%
found["samples/model"]

# %% [markdown]
# ## The model is a function
#
# A denoiser $D(x, \sigma) = E[x_0 \mid x_0 + \sigma z = x]$: given a noisy image and its noise level, the mean of the
# clean images that it may have been. First line: noise added; second line: what the model makes of it.

# %%
model = load("plain/model", store)
model

# %%
x0 = digits(40, first=1500).x()[:8]
z = torch.randn(x0.shape, generator=Key(0).fold("quickstart").torch())
noisy = x0 + 0.5 * z
Images(torch.cat([noisy, model(noisy, 0.5)]))

# %% [markdown]
# ## Samples
#
# Image *i* depends on the seed and on *i* alone, so it is the same in any batch, on any number of machines.

# %%
model.sample(16, seed=1)

# %% [markdown]
# Where to go on: `02_operators_and_views` shows what may happen to images, `04_partial_views_and_residual` and
# `05_sfbd_on_a_toy` learn from such images, and `found.report` is the page that was written beside the numbers above.
