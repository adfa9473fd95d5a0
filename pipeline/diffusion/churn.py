"""Stochastic churn: before each step down the noise is raised a little, and the step then takes more away.

Karras et al. 2022, Alg. 2: σ̂ᵢ = (1 + γ)σᵢ with γ = min(S_churn/N, √2 − 1) where S_min ≤ σᵢ ≤ S_max, and 0 elsewhere;
x̂ = x + √(σ̂ᵢ² − σᵢ²) S_noise z; then Heun from σ̂ᵢ to σᵢ₊₁. What both halves do together to x is no Gaussian, but each
half is a `Transition` of its own, so the grid of this sampler is σ₀, σ̂₀, σ₁, σ̂₁, ..., 0, and goes up as well as down.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.diffusion.denoiser import Denoiser
from pipeline.diffusion.sample import Heun, Transition


@dataclass(frozen=True)
class Churn(Heun):
    """Karras et al. 2022, Alg. 2, 2·steps − 1 calls of D; weak order 2 at s_noise = 1, since added noise is exact.

    The defaults are the authors' for ImageNet at 64x64, who took 256 steps. s_churn = 0 is `Heun`.
    """

    s_churn: float = 40.0
    s_min: float = 0.05
    s_max: float = 50.0
    s_noise: float = 1.003

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.s_churn >= 0 and 0 <= self.s_min <= self.s_max and self.s_noise > 0):
            raise ValueError(f"{self} cannot churn: it needs s_churn >= 0, 0 <= s_min <= s_max and s_noise > 0.")

    def sigmas(self, start: float | Tensor | None = None) -> Tensor:
        """That of `Grid` with σ̂ after each σ; a row that waits for others does not churn meanwhile."""
        grid = super().sigmas(start)
        now, rise = grid[:-1], 1 + min(self.s_churn / self.steps, math.sqrt(2) - 1)
        churned = (now > grid[1:]) & (now >= self.s_min) & (now <= self.s_max)
        both = torch.stack([now, torch.where(churned, rise * now, now)], 1).flatten(0, 1)
        grid = torch.cat([both, grid[-1:]])
        moves = (grid[:-1] != grid[1:]).any(1)
        return torch.cat([grid[:-1][moves], grid[-1:]])

    def step(self, D: Denoiser, x: Tensor, sigma: Tensor, down: Tensor, cond: Tensor | None) -> Transition:
        """Up by fresh noise, without D, where `down` lies above σ; else that of `Heun`."""
        if bool((down >= sigma).all()):
            return Transition(x, self.s_noise * (down**2 - sigma**2).sqrt())
        return super().step(D, x, sigma, down, cond)
