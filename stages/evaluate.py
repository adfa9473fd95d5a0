"""Evaluate: how far a denoiser is from held-out images, over noise levels."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from pipeline.diffusion.calibrate import GATE_DRAWS, gates
from pipeline.diffusion.denoiser import Continued
from pipeline.diffusion.residual import Composed
from pipeline.engine import cluster
from pipeline.graph import Context, Stage, Step
from pipeline.keys import Key
from pipeline.learning.weights import unpack
from pipeline.metrics.denoising import DenoisingError
from pipeline.metrics.interval import mean
from pipeline.store import Artifact
from stages.conditioned import cond_of, condition_of
from stages.corrupt import load
from stages.ending import least_of
from stages.layers import known


@dataclass(frozen=True)
class Evaluate(Stage):
    """`metrics.json`: denoising error of `model` on `test`, per level and in all, with its interval over the images.

    A model that takes labels, captions or embeddings is told those of the test images. Below `least`, or where its
    training says that it learned nothing if that is higher up, its score is held to be that there. Samples are judged
    by `stages/judge.py`. `crossed`: the gates of a composed model were measured on these images; those of each half are
    measured on the other half instead, so that no image judges gates that it opened itself.
    """

    version: ClassVar[int] = 3  # 3: intervals; samples have a stage of their own

    model: Step
    test: Step
    error: DenoisingError = DenoisingError()
    least: float = 0.0
    crossed: bool = False

    def run(self, at: Context) -> None:
        model = at.open(self.model)
        least = max(self.least, least_of(model, at.store))
        bare = replace(self, model=known(self.model), test=known(self.test), least=least)
        found = cluster.call(at.scale, _evaluate, bare, model, at.open(self.test))
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

    if stage.crossed and isinstance(D, Composed):
        each = crossed(D, stage.error, x0, held.ids)
    else:
        asked = D if not stage.least else Continued(D, stage.least)
        each = stage.error.each(asked, x0, held.ids, None if told is None else told.to(device))
    total = mean(stage.error.integral(each).tolist())
    card = {**stage.error.card(len(held)), "reference": test.address, "interval": total.interval}
    card |= {"least": stage.least} if stage.least else {}
    card |= {"gates": "of each half of the images by the other half"} if stage.crossed else {}
    return {
        "denoising_error": total.value,
        "sigma": stage.error.sigmas().tolist(),
        "mse": each.mean(0).tolist(),
        "ends": {"denoising_error": [total.low, total.high]},
        "cards": {"denoising_error": card},
    }


def crossed(D: Composed, error: DenoisingError, x0: Tensor, ids: Sequence[str]) -> Tensor:
    """Errors (B, levels) of images x0 (B, *), four at least, by gates that the other half of them opens.

    Raises ValueError: they are too few.
    """
    if len(x0) < 4:
        raise ValueError(f"{len(x0)} images have no two halves to measure gates on: hold out 4 at least")
    each = torch.zeros(len(x0), error.levels, dtype=torch.float64)
    halves = torch.arange(len(x0)).chunk(2)
    for mine, other in (halves, halves[::-1]):
        theirs = [ids[int(i)] for i in other]
        D.gate.copy_(gates(D.base, D.residual, x0[other], theirs, Key(error.seed).fold("crossed"), draws=GATE_DRAWS))
        each[mine] = error.each(D, x0[mine], [ids[int(i)] for i in mine])
    return each
