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
    """`of`, given that σ ≥ `least`: drawn there and nowhere else, where clamping would heap levels up at `least`.

    Raises ValueError where `of` has next to nothing there.
    """

    of: Levels
    least: float

    def __post_init__(self) -> None:
        if not 0 <= self.least < math.inf:
            raise ValueError(f"least is {self.least}: give a finite noise level, from 0")
        if 1 - self.below < RARE:
            raise ValueError(
                f"only {1 - self.below:.2%} of the levels lie above {self.least:.3g}, the least that the noise of these "
                "rows allows: choose fit.levels with a larger mean"
            )

    @cached_property
    def below(self) -> float:
        """The share of the levels of `of` that lie below `least`."""
        if self.least == 0:
            return 0.0
        low, high, wanted = 2.0**-53, 1 - 2.0**-53, math.log(self.least)
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if self._at(middle) < wanted else (low, middle)
        return high

    def _at(self, u: float) -> float:
        return float(self.of.quantile(torch.tensor(u, dtype=torch.float64)))

    def quantile(self, u: Tensor) -> Tensor:
        """That of `of`, of the share that lies above."""
        above = (self.below + u * (1 - self.below)).clamp(max=1 - 2.0**-53)
        return self.of.quantile(above).clamp_min(math.log(self.least) if self.least else -math.inf)

    def density(self, log_sigma: Tensor) -> Tensor:
        """That of `of`, scaled up; 0 below."""
        inside = log_sigma >= (math.log(self.least) if self.least else -math.inf)
        return torch.where(inside, self.of.density(log_sigma) / (1 - self.below), 0)

    def uniforms(self, total: int, key: Key) -> np.ndarray:
        """Those of `of`."""
        return self.of.uniforms(total, key)
