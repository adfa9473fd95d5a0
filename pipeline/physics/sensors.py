"""Sensors: measurement noise that is not white, counted photons and rounded numbers, with its variance stated.

A sensor takes y = A x0 to a measurement m. Photon counts: m = 2 n / peak - 1 with n ~ Poisson(peak (y + 1) / 2), so
E[m | y] = y and Var[m | y] = 2 (y + 1) / peak. Rounding to multiples of Δ: an error of mean square Δ²/12 where y is
spread evenly over a step; at random to one of the two neighbours: E[m | y] = y, Var[m | y] = Δ² f (1 - f).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.keys import Key
from pipeline.physics.corruption import Corruption, Row
from pipeline.physics.linear import LinearMap, Shape


@dataclass(frozen=True)
class Sensor(ABC):
    """How y = A x0 is measured."""

    @abstractmethod
    def __call__(self, y: Tensor, key: Key) -> Tensor:
        """A measurement of y (B, *) in y's dtype."""

    @abstractmethod
    def variance(self, y: Tensor) -> Tensor:
        """Var[measurement | y] of each number of y (B, *)."""


@dataclass(frozen=True)
class Poisson(Sensor):
    """Counted photons, `peak` of them on average where y = 1 and none where y = -1."""

    peak: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.peak) and self.peak > 0):
            raise ValueError(f"Poisson.peak must be a finite number of photons above 0, got {self.peak}.")

    def _light(self, y: Tensor) -> Tensor:
        if not (y >= -1.001).all():
            raise ValueError("Poisson needs A x0 of at least -1, black: scale the map so, as in 0.5 * Pool(shape, 2).")
        return ((y + 1) / 2).clamp(min=0)

    def __call__(self, y: Tensor, key: Key) -> Tensor:
        counts = key.numpy().poisson(self.peak * self._light(y).double().cpu().numpy())
        return torch.from_numpy(2 * counts / self.peak - 1).to(y)

    def variance(self, y: Tensor) -> Tensor:
        return 4 * self._light(y) / self.peak


@dataclass(frozen=True)
class Quantised(Sensor):
    """To the nearest of `steps` levels from -1 to 1 (and on beyond), or with `dither` to one of two at random."""

    steps: int
    dither: bool = False

    def __post_init__(self) -> None:
        if self.steps < 2:
            raise ValueError(f"Quantised.steps is the number of levels from -1 to 1, at least 2, got {self.steps}.")

    @property
    def width(self) -> float:
        """Δ, the distance of two levels."""
        return 2 / (self.steps - 1)

    def __call__(self, y: Tensor, key: Key) -> Tensor:
        level = (y.double() + 1) / self.width
        shift = torch.from_numpy(key.numpy().random(tuple(y.shape))).to(level) if self.dither else 0.5
        return ((level + shift).floor() * self.width - 1).to(y)

    def variance(self, y: Tensor) -> Tensor:
        if not self.dither:
            return torch.full_like(y, self.width**2 / 12)
        fraction = ((y.double() + 1) / self.width) % 1
        return (self.width**2 * fraction * (1 - fraction)).to(y)


@dataclass(frozen=True)
class Measured(Corruption):
    """A noiseless corruption seen by a sensor, with white read-out noise on top: m = by(A x0) + noise · ε."""

    of: Corruption
    by: Sensor

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.of.noiseless:
            raise ValueError(f"Measured needs a noiseless corruption, got {self.of}: give the noise to Measured.")

    @property
    def noiseless(self) -> bool:
        return False

    def draw(self, shape: Shape, key: Key) -> Row:
        return self.of.draw(shape, key)

    def at(self, rows: Mapping[str, np.ndarray], shape: Shape) -> LinearMap:
        return self.of.at(rows, shape)

    def out_shape(self, shape: Shape) -> Shape:
        return self.of.out_shape(shape)

    def in_shape(self, out: Shape) -> Shape:
        return self.of.in_shape(out)

    def linear(self, v: Tensor) -> Tensor:
        return self.of.linear(v)

    def simulate(self, x0: Tensor, rows: Mapping[str, np.ndarray], key: Key) -> Tensor:
        return self.measure(self.of.simulate(x0, rows, key), key)

    def measure(self, y: Tensor, key: Key) -> Tensor:
        return super().measure(self.by(y, key.fold("sensor")), key)

    def variance(self, y: Tensor, rows: Mapping[str, np.ndarray]) -> Tensor:
        return self.by.variance(y) + self.noise**2
