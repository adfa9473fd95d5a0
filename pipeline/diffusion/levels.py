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
