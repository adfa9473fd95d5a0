"""What draws images from a model in MLflow: the code of the model, which MLflow copies beside the weights and runs.

Rows (n, seed, steps) become images, uint8 (sum of n, C, *), those that `kintsugi sample --seed --steps` draws; a model
that is told labels or captions may be given `label` or `caption`, too.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from mlflow.exceptions import MlflowException
from mlflow.models.model import set_model
from mlflow.pyfunc.model import PythonModel

from pipeline.diffusion.sample import Heun, samples
from pipeline.learning.weights import unpack

MOST = 4096  # images of one request: they are answered in one go
BATCH = 256
COLUMNS = {"label": np.int64, "caption": object}


class Sampler(PythonModel):
    """Images from a denoiser."""

    def load_context(self, context: Any) -> None:
        """Read the weights; nothing of a model is a pickle."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        files = {Path(path).name: Path(path) for path in context.artifacts.values()}
        self.D = unpack(lambda name: files[name].read_bytes(), device)
        self.device = device
        self.sampler = Heun(sigma_min=max(context.model_config["least"], Heun().sigma_min))

    def predict(self, context, model_input: pd.DataFrame, params=None):  # MLflow warns of other hints
        """The images of all rows, one row's after the other's. Raises MlflowException: nobody could draw those."""
        try:
            return self._all(model_input.to_dict("records"))
        except ValueError as error:  # whose sentence MLflow's server would hide behind a stack trace
            raise MlflowException.invalid_parameter_value(str(error)) from error

    def _all(self, rows: list[dict[Any, Any]]) -> np.ndarray:
        if not rows or sum(int(row["n"]) for row in rows) > MOST or any(row["n"] < 1 for row in rows):
            raise ValueError(f"n is how many images: give 1 to {MOST} in all")
        return np.concatenate([self._drawn(row) for row in rows])

    def _drawn(self, row: dict[str, Any]) -> np.ndarray:
        row = {name: value for name, value in row.items() if value is not None and value == value}  # NaN: not given
        count = int(row["n"])
        sampler = replace(self.sampler, steps=int(row["steps"])) if "steps" in row else self.sampler
        condition = getattr(getattr(self.D.config, "backbone", None), "condition", None)
        cond = None
        for name in COLUMNS.keys() & row.keys():
            if condition is None or condition.column != name:
                raise ValueError(f"the model is told no {name}: leave it out")
            cond = condition.told(np.array([row[name]] * count, COLUMNS[name]))
        seed, shape = int(row.get("seed", 0)), tuple(self.D.config.shape)
        x = samples(self.D, sampler, shape, range(count), seed, BATCH, cond, self.device)
        return ((x.clamp(-1, 1) + 1) * 127.5).round().byte().numpy()


set_model(Sampler())
