"""Noise levels above a least one: a distribution cut off where rows that are noisy themselves allow no lower level."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from pipeline.diffusion.levels import Levels
from pipeline.keys import Key

RARE = 0.01  # of all levels: when fewer lie above the least one, another distribution was meant


@dataclass(frozen=True)
class Above(Levels):
    """`of`, given that σ ≥ `least` > 0: drawn there and nowhere else, where clamping would heap levels up at `least`.

    Raises ValueError where `of` has next to nothing there.
    """

    of: Levels
    least: float

    def __post_init__(self) -> None:
        if not 0 < self.least < math.inf:
            raise ValueError(f"least is {self.least}: give a finite noise level above 0")
        if self.left < RARE:
            raise ValueError(
                f"only {self.left:.2%} of the levels lie above {self.least:.3g}, the least that these rows' own noise "
                "allows: choose fit.levels with a larger mean"
            )

    @cached_property
    def left(self) -> float:
        """The share of the levels of `of` that lie above."""
        return 1 - self.of.share_below(math.log(self.least))

    def quantile(self, u: Tensor) -> Tensor:
        """That of `of`, in the share that lies above."""
        above = (1 - self.left * (1 - u)).clamp(max=1 - 2.0**-53)
        return self.of.quantile(above).clamp_min(math.log(self.least))

    def density(self, log_sigma: Tensor) -> Tensor:
        """That of `of`, scaled up; 0 below."""
        return torch.where(log_sigma >= math.log(self.least), self.of.density(log_sigma) / self.left, 0)

    def uniforms(self, total: int, key: Key) -> np.ndarray:
        """Those of `of`."""
        return self.of.uniforms(total, key)
