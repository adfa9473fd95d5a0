"""Evaluate: how far a denoiser is from held-out images, over noise levels and in a feature space."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from pipeline.engine import cluster
from pipeline.graph import Context, Stage, Step
from pipeline.learning.weights import unpack
from pipeline.metrics.denoising import DenoisingError
from pipeline.metrics.frechet import Features, Pixels, frechet
from pipeline.store import Artifact
from stages.corrupt import load
from stages.labels import classes_of


@dataclass(frozen=True)
class Evaluate(Stage):
    """`metrics.json`: denoising error of `model` on `test`, per level and in all; Fréchet distance of `samples`.

    A model that takes labels is told those of the test images.
    """

    version: ClassVar[int] = 2  # 2: two noises an image and level, where there were four

    model: Step
    test: Step
    samples: Step | None = None
    error: DenoisingError = DenoisingError()
    features: Features = Pixels()

    def run(self, at: Context) -> None:
        made = None if self.samples is None else at.open(self.samples)
        found = cluster.call(at.scale, _evaluate, self, at.open(self.model), at.open(self.test), made)
        at.out.write("metrics.json", json.dumps(found))
        at.tracker.metrics({k: v for k, v in found.items() if isinstance(v, float)}, at=0)
        at.tracker.card("metric_card.json", found["cards"])


def _evaluate(stage: Evaluate, model: Artifact, test: Artifact, samples: Artifact | None) -> dict[str, Any]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    D, held = unpack(model.read, device), load(test)
    if tuple(D.config.shape) != held.shape:
        raise ValueError(
            f"the model makes images {tuple(D.config.shape)}, the test images are {held.shape}: name others"
        )
    x0, classes = held.x().to(device), classes_of(D.config)
    if classes and not ((held.label >= 0) & (held.label < classes)).all():
        raise ValueError(
            f"the model is told of {classes} classes: give test images with labels from 0 to {classes - 1}"
        )
    total, errors = stage.error(D, x0, held.ids, torch.from_numpy(held.label).to(device) if classes else None)
    found: dict[str, Any] = {
        "denoising_error": total,
        "sigma": stage.error.sigmas().tolist(),
        "mse": errors.tolist(),
        "cards": {"denoising_error": {**stage.error.card(len(held)), "reference": test.address}},
    }
    if samples is not None:
        made = load(samples).x()
        found["frechet"] = frechet(stage.features(made), stage.features(x0.cpu()))
        found["cards"]["frechet"] = {
            "metric": "Fréchet distance",
            "features": stage.features.name,
            "samples": len(made),
            "reference": test.address,
            "reference_images": len(held),
            "seed": samples.json("card.json")["seed"],
        }
    return found
