"""AdamW and its learning rate, as functions of images seen and of nothing else.

rate(n) = lr · min(1, n/warmup) · schedule(n), with n the images seen, those of the present step included.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import nn


class Schedule(ABC):
    """A factor on the learning rate; subclasses are frozen dataclasses."""

    @abstractmethod
    def __call__(self, images: int) -> float:
        """The factor once so many images have been seen."""


@dataclass(frozen=True)
class Constant(Schedule):
    """No change."""

    def __call__(self, images: int) -> float:
        """Always 1."""
        return 1.0


@dataclass(frozen=True)
class Cosine(Schedule):
    """Half a cosine from 1 at no images to `floor` at `images`, then `floor` (Loshchilov and Hutter 2017, eq. 5)."""

    images: int
    floor: float = 0.0

    def __post_init__(self) -> None:
        if self.images <= 0:
            raise ValueError(f"images is {self.images}: give the number at which the cosine ends, above 0.")

    def __call__(self, images: int) -> float:
        """The factor floor + (1 − floor)(1 + cos(π images/self.images))/2."""
        share = min(1.0, images / self.images)
        return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * share)) / 2


@dataclass(frozen=True)
class InverseSqrt(Schedule):
    """1 up to `images`, then 1/√(n/images), with no end to plan for (Karras et al. 2024, eq. 67)."""

    images: int

    def __post_init__(self) -> None:
        if self.images <= 0:
            raise ValueError(f"images is {self.images}: give the number after which the rate falls, above 0.")

    def __call__(self, images: int) -> float:
        """The factor 1/√max(1, images/self.images)."""
        return 1 / math.sqrt(max(1.0, images / self.images))


@dataclass(frozen=True)
class AdamW:
    """AdamW (Loshchilov and Hutter 2019) with warm-up in images and the gradient's norm clipped (None: not clipped)."""

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    warmup: int = 0
    schedule: Schedule = Constant()
    clip: float | None = 1.0

    def __post_init__(self) -> None:
        for name in ("lr", "eps", "weight_decay", "warmup"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}: give a number from 0.")
        if torch.tensor(self.eps) == 0:  # in the numbers of the weights: a gradient that is zero would be 0/0
            raise ValueError(f"eps is {self.eps}: give a number above 0 that 32 bits can hold, as 1e-8.")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas is {self.betas}: give two numbers within [0, 1).")
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"clip is {self.clip}: give the largest norm of a gradient, above 0, or none.")

    def lr_at(self, images: int) -> float:
        """The learning rate of the step that brings the images seen to `images`."""
        ramp = min(1.0, images / self.warmup) if self.warmup > 0 else 1.0
        return self.lr * ramp * self.schedule(images)

    def build(self, *models: nn.Module) -> torch.optim.AdamW:
        """The optimiser of all trainable parameters; biases, gains and other vectors do not decay."""
        trained = [[p for p in model.parameters() if p.requires_grad] for model in models]
        # A group for each model: one kernel does not take what is divided among processes with what is not.
        groups = [{"params": [p for p in ps if p.ndim > 1], "weight_decay": self.weight_decay} for ps in trained]
        groups += [{"params": [p for p in ps if p.ndim <= 1], "weight_decay": 0.0} for ps in trained]
        # Fused: one pass over memory for all tensors, a tenth of a small network's step on a CPU.
        return torch.optim.AdamW(
            [g for g in groups if g["params"]], lr=self.lr, betas=self.betas, eps=self.eps, fused=True
        )
