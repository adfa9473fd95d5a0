"""Where training spends its noise levels: distributions of ln σ, drawn so that a slice of a batch knows its place.

A distribution is its quantile function Q and its density p: ln σ = Q(u). Uniforms u are drawn for the whole global
batch and sliced, so the ranks of any world size together draw the same set.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.keys import Key


class Levels(ABC):
    """A distribution over ln σ; subclasses are frozen dataclasses."""

    @abstractmethod
    def quantile(self, u: Tensor) -> Tensor:
        """The ln σ below which a share u in (0, 1) of the draws lies, shaped as u."""

    @abstractmethod
    def density(self, log_sigma: Tensor) -> Tensor:
        """p(ln σ), which integrates to 1 over ln σ."""

    def share_below(self, log_sigma: float) -> float:
        """The share in [0, 1] of the draws that lie below ln σ: the quantile function, inverted by bisection."""
        low, high = 2.0**-53, 1 - 2.0**-53
        ends = self.quantile(torch.tensor([low, high], dtype=torch.float64))
        if log_sigma <= ends[0] or log_sigma >= ends[1]:
            return 0.0 if log_sigma <= ends[0] else 1.0
        for _ in range(60):
            middle = (low + high) / 2
            if float(self.quantile(torch.tensor(middle, dtype=torch.float64))) < log_sigma:
                low = middle
            else:
                high = middle
        return (low + high) / 2

    def uniforms(self, total: int, key: Key) -> np.ndarray:
        """The (total,) uniforms of one global batch."""
        return key.numpy().random(total)

    def draw(self, n: int, key: Key, offset: int = 0, total: int | None = None) -> Tensor:
        """σ (n,) float32 on the CPU: rows offset..offset+n of the `total` (default n) that the key draws.

        Raises ValueError when the slice does not lie within the batch.
        """
        total = offset + n if total is None else total
        if offset < 0 or offset + n > total:
            raise ValueError(f"rows {offset}..{offset + n} do not lie within a global batch of {total}: check offset.")
        u = torch.from_numpy(self.uniforms(total, key))[offset : offset + n]
        return self.quantile(u.clamp(2.0**-53, 1 - 2.0**-53)).exp().float()  # u = 0 would be σ = 0


@dataclass(frozen=True)
class LogNormal(Levels):
    """ln σ ~ N(mean, std²) (Karras et al. 2022, Table 1)."""

    mean: float = -1.2
    std: float = 1.2

    def __post_init__(self) -> None:
        if not self.std > 0:
            raise ValueError(f"std is {self.std}: give the spread of ln σ, above 0.")

    def quantile(self, u: Tensor) -> Tensor:
        """The normal quantile, mean + std Φ⁻¹(u)."""
        return self.mean + self.std * torch.special.ndtri(u)

    def density(self, log_sigma: Tensor) -> Tensor:
        """The normal density."""
        z = (log_sigma - self.mean) / self.std
        return torch.exp(-(z**2) / 2) / (self.std * math.sqrt(2 * math.pi))


@dataclass(frozen=True)
class Stratified(Levels):
    """The same distribution with one draw in every 1/total of its mass: uᵢ = (u₀ + i/total) mod 1.

    Each σ alone still follows `of`; a batch covers all levels, so its mean loss varies less (Kingma et al. 2021, I.1).
    """

    of: Levels = LogNormal()

    def quantile(self, u: Tensor) -> Tensor:
        """That of `of`."""
        return self.of.quantile(u)

    def density(self, log_sigma: Tensor) -> Tensor:
        """That of `of`."""
        return self.of.density(log_sigma)

    def uniforms(self, total: int, key: Key) -> np.ndarray:
        """A comb of `total` teeth at one random offset."""
        return (key.numpy().random() + np.arange(total) / total) % 1.0


@dataclass(frozen=True)
class Tabulated(Levels):
    """ln σ from ln `low` to ln `high`: a density in proportion to `values`, evenly spaced and linear in between."""

    low: float
    high: float
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high or len(self.values) < 2:
            raise ValueError(f"low is {self.low}, high {self.high}: give 0 < low < high and two values at least.")
        if not all(0 <= value < math.inf for value in self.values) or sum(self.values) <= 0:
            raise ValueError("the values of a density must be finite, at least 0 and not all 0.")

    def quantile(self, u: Tensor) -> Tensor:
        """The root of a quadratic in each cell, where the distribution function is one."""
        mass, values, width = self._cells()
        below = torch.cat([torch.zeros(1), mass.cumsum(0)]).double()
        cell = (torch.searchsorted(below, u.double(), right=True) - 1).clamp(0, len(mass) - 1)
        left, right = values[cell], values[cell + 1]
        rest = (u.double() - below[cell]).clamp_min(0) / width  # ∫ of left + (right − left) t over t, to be reached
        root = (left**2 + 2 * (right - left) * rest).clamp_min(0).sqrt()
        t = (2 * rest / (left + root).clamp_min(1e-300)).clamp(0, 1)
        return math.log(self.low) + width * (cell + t)

    def density(self, log_sigma: Tensor) -> Tensor:
        """Linear between the values, 0 outside."""
        _, values, width = self._cells()
        place = (log_sigma.double() - math.log(self.low)) / width
        cell = place.floor().long().clamp(0, len(values) - 2)
        inside = (place >= 0) & (place <= len(values) - 1)
        return torch.where(inside, values[cell] + (values[cell + 1] - values[cell]) * (place - cell), 0).to(log_sigma)

    def _cells(self) -> tuple[Tensor, Tensor, float]:
        """The mass of each cell, the normalised densities at the points, and the width of a cell in ln σ."""
        values = torch.tensor(self.values, dtype=torch.float64)
        width = math.log(self.high / self.low) / (len(self.values) - 1)
        mass = width * (values[1:] + values[:-1]) / 2
        return mass / mass.sum(), values / mass.sum(), width
