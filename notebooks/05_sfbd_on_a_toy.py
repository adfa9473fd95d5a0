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
# # SFBD on a toy: denoise the noisy set, learn from it, again
#
# Many noisy images, few clean ones. A model that learned from the clean ones denoises the noisy ones; the next model
# learns from those too; and so on (Lu et al. 2025). First on a Gaussian, where the rate is known, then on digits.

# %%
import os

import matplotlib.pyplot as plt
import torch

from pipeline.diffusion.exact import Gaussian
from pipeline.diffusion.sample import Heun
from pipeline.keys import Key
from stages.notebook import Images, run

store = os.environ.get("KINTSUGI_STORE", "runs")

# %% [markdown]
# ## The recursion on a Gaussian
#
# The truth has variance $S$, the noisy rows variance $S + \sigma_n^2$. A model that believes in variance $r$ restores
# them by the probability-flow ODE from $\sigma_n$; the next model believes in the variance of what came out. The
# error shrinks by $1 - a$ a round, $a = S/(S + \sigma_n^2)$, and by $(1-c)(1-a)$ where a share $c$ of the rows is
# clean.

# %%
S, noise = 0.25, 0.5
a = S / (S + noise**2)
y = torch.randn(500, 1, generator=Key(1).torch(), dtype=torch.float64)
y = y * ((S + noise**2) / y.square().mean()).sqrt()
flow = Heun(steps=400, sigma_min=1e-5, sigma_max=noise)
keys = [Key(0).fold(i) for i in range(len(y))]
history = {}
for c in (0.0, 0.3):
    believed = [0.5 * S]
    for _ in range(8):
        model = Gaussian(torch.zeros(1), torch.full((1, 1), believed[-1]))
        restored = flow(model, y, start=noise, keys=keys)
        believed.append(c * S + (1 - c) * float(restored.square().mean()))
    history[c] = believed

# %%
fig, axis = plt.subplots(figsize=(7, 3.6))
for c, believed in history.items():
    error = [abs(r - S) / S for r in believed]
    axis.semilogy(error, "o", label=f"{c:.0%} clean: measured")
    axis.semilogy(
        [error[4] * ((1 - c) * (1 - a)) ** (k - 4) for k in range(9)], "-", label=f"slope {(1 - c) * (1 - a):.2f}"
    )
axis.set(xlabel="round", ylabel="relative error of the variance")
axis.legend()
plt.show()

# %% [markdown]
# ## On digits
#
# 55 clean digits, 600 with noise 0.3, one round more than none, with networks small enough for a notebook.

# %%
small = {"is": "pipeline.backbones.mlp.Config", "width": 128, "blocks": 2}
options = {"harm.noise": 0.3, "harm.count": 600, "rounds.most": 2, "rounds.direct": True, "samples": 64}
options |= {"backbone": small, "fit.images": 24_000, "clean_fit.images": 16_000}
found = run("sfbd", options, store)
found

# %% [markdown]
# A line each: the noisy rows, and what the first round's and the second's restoring made of them.

# %%
Images(torch.cat([found.images(name, 8).x for name in ("data/noisy", "round/1/restored", "round/2/restored")]))

# %% [markdown]
# The stopping rule needs no clean test images: samples are made noisy like the data and compared with them.

# %%
found["round/2/proximal"].json("proximal.json")
