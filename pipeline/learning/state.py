"""All that a training run is between two steps: weights, their average, the optimiser and what time it is.

No state of a random generator is among it: randomness is keyed by the step (see loop.py), so tensors and a few numbers
suffice to continue to the bit.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.learning.ema import EMA
from pipeline.learning.optim import AdamW


@dataclass
class State:
    """A run; time is `images` seen. `best` holds the averaged weights of the lowest validation so far, if any."""

    model: nn.Module
    average: nn.Module
    optimiser: torch.optim.Optimizer
    optim: AdamW
    ema: EMA
    images: int = 0
    step: int = 0
    skipped: int = 0
    best: dict[str, Tensor] | None = None
    best_score: float | None = None
    best_images: int | None = None
    stale: int = 0

    @classmethod
    def create(cls, model: nn.Module, optim: AdamW = AdamW(), ema: EMA = EMA()) -> State:
        """The state before the first step; the model is kept, not copied (move it to its device first)."""
        average = copy.deepcopy(model).eval().requires_grad_(False)
        return cls(model, average, optim.build(model), optim, ema)

    def consider(self, score: float) -> None:
        """Take note of a validation of the average at this moment; lower is better."""
        if self.best_score is None or score < self.best_score:
            self.best = {name: tensor.detach().clone() for name, tensor in self.average.state_dict().items()}
            self.best_score, self.best_images, self.stale = score, self.images, 0
        else:
            self.stale += 1

    def result(self) -> nn.Module:
        """A copy of the average, in evaluation mode, with the best weights if any were validated."""
        chosen = copy.deepcopy(self.average)
        if self.best is not None:
            chosen.load_state_dict(self.best)
        return chosen

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the run under one flat name (model., average., best., optimiser.); views, not copies."""
        parts = {"model": self.model.state_dict(), "average": self.average.state_dict(), "best": self.best or {}}
        flat = {f"{part}.{name}": tensor for part, held in parts.items() for name, tensor in held.items()}
        for i, moments in self.optimiser.state_dict()["state"].items():
            flat |= {f"optimiser.{i}.{name}": torch.as_tensor(value) for name, value in moments.items()}
        return {name: tensor.detach() for name, tensor in flat.items()}

    def meta(self) -> dict[str, Any]:
        """Every number of the run, as JSON can hold it."""
        names = ("images", "step", "skipped", "best_score", "best_images", "stale")
        return {name: getattr(self, name) for name in names}

    def load(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """Become the run that `tensors()` and `meta()` were taken from; raises ValueError if it had another model."""
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "average": {}, "best": {}, "optimiser": {}}
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = tensor.clone()
        try:
            self.model.load_state_dict(parts["model"])
            self.average.load_state_dict(parts["average"])
        except RuntimeError as error:
            raise ValueError("the checkpoint is of another model: build the one it was saved from.") from error
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in parts["optimiser"].items():
            i, _, kind = name.partition(".")
            moments.setdefault(int(i), {})[kind] = tensor
        # The groups (rates, decay) come from this run's configuration, the moments from the checkpoint.
        self.optimiser.load_state_dict({"state": moments, "param_groups": self.optimiser.state_dict()["param_groups"]})
        here = {name: tensor.device for name, tensor in self.average.state_dict().items()}
        self.best = {name: tensor.to(here[name]) for name, tensor in parts["best"].items()} or None
        for name in self.meta():
            setattr(self, name, meta[name])
