"""A Gaussian as a denoiser on disk: all that is known of data when only their mean and covariance are.

Σ = U (Λ − ψ) Uᵀ + ψ I with orthonormal U (n, r): r directions of variance Λ, ψ in all others (probabilistic principal
components, Tipping and Bishop 1999). Then D(x, σ) = μ + c d + U (Λ/(Λ + σ²) − c) Uᵀ d, d = x − μ and c = ψ/(ψ + σ²).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.diffusion.denoiser import Network, Trained, expand


class Gaussian(Network):
    """E[x₀ | x] of x₀ ~ N(`centre`, Σ): zero mean and unit variance until `set` says otherwise."""

    @dataclass(frozen=True)
    class Config(Trained):
        """Images of `shape` (C, *) and how many directions have a variance of their own."""

        shape: tuple[int, ...]
        rank: int

        def __post_init__(self) -> None:
            n = math.prod(self.shape)
            if not 1 <= self.rank <= n:
                raise ValueError(f"rank is {self.rank}: give it from 1 to {n}, the numbers of an image")

        def build(self) -> Gaussian:
            """The module."""
            return Gaussian(self)

    config: Config
    centre: Tensor
    axes: Tensor
    values: Tensor
    rest: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("centre", torch.zeros(config.shape))
        self.register_buffer("axes", torch.eye(math.prod(config.shape), config.rank))
        self.register_buffer("values", torch.ones(config.rank))
        self.register_buffer("rest", torch.ones(()))

    def set(self, mean: Tensor, cov: Tensor) -> None:
        """Take this mean (*shape or flat) and the nearest covariance of the rank to `cov` (n, n)."""
        values, axes = torch.linalg.eigh(cov.double())
        values = values.clamp_min(0)
        rank, n = self.config.rank, len(values)
        self.centre.copy_(mean.reshape(self.config.shape))
        self.axes.copy_(axes[:, n - rank :])
        self.values.copy_(values[n - rank :])
        self.rest.copy_(values[: n - rank].mean() if rank < n else torch.zeros(()))

    def forward(self, x: Tensor, sigma: Tensor, cond: Tensor | None = None) -> Tensor:
        """E[x₀ | x] (B, *) in float32, from x (B, *) and σ (B,)."""
        off, square = (x.float() - self.centre).flatten(1), sigma.float()[:, None] ** 2
        least = self.rest / (self.rest + square)
        along = (off @ self.axes) * (self.values / (self.values + square) - least)
        return self.centre + (expand(least[:, 0], off) * off + along @ self.axes.T).view_as(x)
