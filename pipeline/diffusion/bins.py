"""Noise bins: a quantity measured at log-spaced σ, read between them, and its mean as training weighs them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.diffusion.levels import LogNormal
from pipeline.diffusion.precond import EDM


@dataclass(frozen=True)
class Bins:
    """`count` centres evenly spaced in ln σ from `low` to `high`, both in data units."""

    low: float = 0.02
    high: float = 20.0
    count: int = 16

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high or self.count < 2:
            raise ValueError(f"bins from {self.low} to {self.high} in {self.count}: give 0 < low < high and 2 or more")

    def centres(self) -> Tensor:
        """σ at the centres (count,), float32, ascending."""
        return torch.exp(torch.linspace(math.log(self.low), math.log(self.high), self.count))

    def read(self, table: Tensor, sigma: Tensor) -> Tensor:
        """`table` (..., count) at σ (B,), linear in ln σ and constant beyond the ends; (..., B)."""
        step = math.log(self.high / self.low) / (self.count - 1)
        position = ((sigma.log() - math.log(self.low)) / step).clamp(0, self.count - 1)
        below = position.floor().long().clamp(max=self.count - 2)
        share = (position - below).to(table)
        return table[..., below] * (1 - share) + table[..., below + 1] * share


def weighted(sigma: Tensor, errors: Tensor) -> Tensor:
    """Σ p λ error / Σ p of errors (..., N) at σ (N,) evenly spaced in ln σ, float64.

    With p = N(−1.2, 1.2²) over ln σ and λ(σ) = (σ² + s²)/(σs)², s = 0.5: the training distribution and weight of Karras
    et al. (2022), Table 1.
    """
    sigma = sigma.double()
    p = LogNormal().density(sigma.log())
    return (p * EDM().weight(sigma) * errors.double()).sum(-1) / p.sum()
