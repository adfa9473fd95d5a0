"""Evaluate: how far a denoiser is from held-out images, over noise levels."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from pipeline.engine import cluster
from pipeline.graph import Context, Stage, Step
from pipeline.learning.weights import unpack
from pipeline.metrics.denoising import DenoisingError
from pipeline.metrics.interval import mean
from pipeline.store import Artifact
from stages.conditioned import cond_of, condition_of
from stages.corrupt import load


@dataclass(frozen=True)
class Evaluate(Stage):
    """`metrics.json`: denoising error of `model` on `test`, per level and in all, with its interval over the images.

    A model that takes labels, captions or embeddings is told those of the test images. Below `least`, to which it was
    trained, it is asked as at `least`. Samples are judged by `stages/judge.py`.
    """

    version: ClassVar[int] = 3  # 3: intervals; samples have a stage of their own

    model: Step
    test: Step
    error: DenoisingError = DenoisingError()
    least: float = 0.0

    def run(self, at: Context) -> None:
        found = cluster.call(at.scale, _evaluate, self, at.open(self.model), at.open(self.test))
        at.out.write("metrics.json", json.dumps(found))
        at.tracker.metrics({k: v for k, v in found.items() if isinstance(v, float)}, at=0)
        at.tracker.card("metric_card.json", found["cards"])


def _evaluate(stage: Evaluate, model: Artifact, test: Artifact) -> dict[str, Any]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    D, held = unpack(model.read, device), load(test)
    if tuple(D.config.shape) != held.shape:
        raise ValueError(
            f"the model makes images {tuple(D.config.shape)}, the test images are {held.shape}: name others"
        )
    x0, condition, told = held.x().to(device), condition_of(D.config), cond_of(D.config, held)
    if condition is not None and told is not None and bool(condition.untold(told).all()):
        what = condition.column.removeprefix("operator.")
        raise ValueError(f"the model is told of a {what} and no test image has one: give test images that have")

    def above(x: Tensor, sigma: Tensor, cond: Tensor | None = None) -> Tensor:
        return D(x, sigma.clamp_min(stage.least), cond)

    each = stage.error.each(above, x0, held.ids, None if told is None else told.to(device))
    total = mean(stage.error.integral(each).tolist())
    card = {**stage.error.card(len(held)), "reference": test.address, "interval": total.interval}
    card |= {"least": stage.least} if stage.least else {}
    return {
        "denoising_error": total.value,
        "sigma": stage.error.sigmas().tolist(),
        "mse": each.mean(0).tolist(),
        "ends": {"denoising_error": [total.low, total.high]},
        "cards": {"denoising_error": card},
    }
