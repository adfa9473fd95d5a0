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
# # Reading a sweep
#
# `search` tries options of a recipe with Ray Tune. Every trial's steps are artifacts like all others: a sweep that
# was stopped goes on where it was, and its winner is a name in the store. The same on the command line:
#
#     kintsugi search plain --over 'fit.optim.lr=loguniform(3e-4,3e-2)' --over 'fit.batch=choice(32,128)' --trials 6 \
#         --metric denoising_error/model --set fit.images=4000

# %%
import json
import os

import pandas as pd

from pipeline.engine.pictures import Axis, effects, parallel
from stages.notebook import Pictures, load
from stages.search import search

store = os.environ.get("KINTSUGI_STORE", "runs")
over = {"fit.optim.lr": "loguniform(3e-4, 3e-2)", "fit.batch": "choice(32, 128)"}
metric = "denoising_error/model"

# %%
found = search("plain", over, 6, options={"fit.images": 4_000, "test": 297, "samples": 16}, store=store, metric=metric)
found

# %% [markdown]
# ## All trials
#
# `trials.json` lies beside the report; an interval says within which numbers the metric would lie if the held-out
# images were drawn anew. Trials whose intervals overlap are not told apart by these images.

# %%
rows = json.loads(found.place.read("trials.json"))
table = pd.DataFrame(
    [{**row["options"], "value": row["value"], "ends": row["ends"], "seconds": row["seconds"]} for row in rows]
)
table.sort_values("value")

# %% [markdown]
# ## Which option mattered

# %%
done = [row for row in rows if row["status"] == "finished"]
axes = [
    Axis("fit.optim.lr", [row["options"]["fit.optim.lr"] for row in done], logarithmic=True),
    Axis("fit.batch", [row["options"]["fit.batch"] for row in done], listed=True),
]
scores = [row["value"] for row in done]
best = scores.index(found.best.value)
Pictures([("every trial", parallel(axes, scores, metric, best)), ("each option", effects(axes, scores, metric, best))])

# %% [markdown]
# ## The winner

# %%
print(found.place.read("best.yaml").decode()[:400])
load(found.name, store)

# %% [markdown]
# `kintsugi run plain --config best.yaml` makes its whole report on the test images. Call the search again with more
# trials and those above are not done again.
