# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A trained model, in Python
#
# Run `make demo` first: it leaves its models in the store `runs`. This notebook loads one by the name that the recipe
# gave it, draws 16 images and shows them. It also runs as a plain script: `.venv/bin/python notebooks/quickstart.py`.

# %%
"""Load a model from a store, draw 16 images and show them."""

import os
import sys
from pathlib import Path

from pipeline.diffusion.sample import Heun, samples
from pipeline.engine.pictures import grid
from pipeline.learning.weights import unpack
from pipeline.store import Store

# %% [markdown]
# Where the results are: a folder or any fsspec URL. The default is the `runs` folder of this repository.

# %%
here = Path(__file__).parent if "__file__" in globals() else Path.cwd()
runs = os.environ.get("KINTSUGI_STORE", str(here.parent / "runs"))
store = Store(runs)
store.refs()

# %% [markdown]
# A name leads to an address, the address to an artifact, whose files are checked against their SHA-256 when read.
# The model is a denoiser $D(x, \sigma) = E[x_0 \mid x_0 + \sigma z = x]$.

# %%
model = store.artifact(store.find("partial_views/composed"))
D = unpack(model.read)
print(model.address, "makes images", D.config.shape)

# %% [markdown]
# Image *i* depends on the seed and on *i* alone: it is the same in any batch. Values are in [-1, 1].

# %%
x = samples(D, Heun(steps=18), D.config.shape, ids=range(16), seed=0)
images = ((x.clamp(-1, 1) + 1) * 127.5).round().byte().numpy()
picture = grid(images, columns=8)

# %%
if "ipykernel" in sys.modules:
    from IPython.display import Image, display

    display(Image(picture))
else:
    Path("quickstart.png").write_bytes(picture)
    print("wrote quickstart.png")
