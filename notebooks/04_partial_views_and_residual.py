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
# # Partial views and a residual
#
# Few perfect images and three sets of imperfect ones: left parts, right parts and coarse ones. One model a view, a
# joint model of everything, their combination by precision-weighted least squares, and a regularised residual on top.
# This is the recipe of `make demo` at a size that takes two minutes: the networks are small and see few images, so
# look at what is where rather than at the numbers, which `benchmarks/RESULTS.md` has for the real size.

# %%
import os

import matplotlib.pyplot as plt

from stages.notebook import Pictures, plan, run

store = os.environ.get("KINTSUGI_STORE", "runs")
small = {"is": "pipeline.backbones.mlp.Config", "width": 128, "blocks": 2}
models = ("view", "joint", "clean", "residual")
options = {f"{model}_backbone": small for model in models} | {f"{model}_fit.images": 24_000 for model in models}

# %% [markdown]
# ## What will be made
#
# A recipe is a function that joins steps into a graph; nothing runs yet.

# %%
plan("partial_views", options, store).target

# %% [markdown]
# ## Make it

# %%
found = run("partial_views", options, store)
found

# %% [markdown]
# `ratio` is the composed model's held-out denoising error over that of a model of the clean images alone.
#
# ## What each model draws, from the same starting noise

# %%
Pictures([(name, found[f"samples/{name}"].read("samples.png")) for name in ("composed", "base", "clean_only")])

# %% [markdown]
# ## Who is heard where
#
# The calibration measured each view's error on full images that trained nothing, in bins of noise level. Least
# squares weigh by it. The gate says how much of the residual is let through: 0 where it did not prove itself on
# held-out images.

# %%
views, gates = found["base"].json("calibration.json"), found["composed"].json("calibration.json")
fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
for name, error in zip(("left", "right", "pooled", "joint"), views["view_error"], strict=True):
    left.loglog(views["sigma"], error, label=name)
left.set(xlabel="σ", ylabel="mean squared error of a view's model")
left.legend()
right.semilogx(gates["sigma"], gates["gate"], "o-")
right.set(xlabel="σ", ylabel="share of the residual let through", ylim=(-0.05, 1.05))
plt.show()

# %% [markdown]
# `found.report` shows the page that `kintsugi run` writes: what went in, what was hidden, which view earned its cost.
