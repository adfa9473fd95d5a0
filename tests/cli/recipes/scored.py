"""scored: an untrained denoiser whose score is an option: a search in no time, whose winner is a model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import import_module

from pipeline.graph import Context, Stage, Step, step


@dataclass(frozen=True)
class Score(Stage):
    model: Step
    error: float

    def run(self, at: Context) -> None:
        at.out.write("metrics.json", json.dumps({"error": self.error}))


def scored(error: float = 1.0, side: int = 4, classes: int = 0) -> Step:
    """Score a model.

    Args:
        error: its score, but for what its classes do for it.
        side: of its images.
        classes: that it is told of; the more, the better it scores.
    """
    return step(Score(import_module("stages.recipes.model").model(side, classes), error - classes), "score")
