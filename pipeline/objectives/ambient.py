"""Learning from rows that hold noise of their own: one loss, of which denoising of clean rows is the case s = 0.

Observed is y = x₀ + s z, once and for all. At σ > s, x = y + √(σ² − s²) z' is x₀ + σ z″, and with k = s²/σ²

    E[y | x] = (1 − k) E[x₀ | x] + k x

(double Tweedie: "Consistent Diffusion Meets Tweedie", Daras, Dimakis and Daskalakis, arXiv 2404.10177), so that

    L = w(σ) u · mean over entries of |(1 − k) D(x, σ) + k x − y|²

is least at D = E[x₀ | x], although no x₀ was ever seen. It is w u (1 − k)² |D − x̃|² with x̃ = (y − k x)/(1 − k), whose
variance grows without bound towards σ = s. u = 1 lets such levels fade out ("How much is a noisy image worth?", Daras
et al., arXiv 2411.02780); u = (1 − k)⁻² weighs every level as clean rows would, and rows are then looked at only where
1/(1 − k) is below a cap, i.e. at σ > s √(cap/(cap − 1)) ("Ambient Diffusion Omni", Daras et al., arXiv 2506.10038).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

from pipeline.diffusion.denoiser import Denoiser, expand
from pipeline.diffusion.precond import EDM, Precond
from pipeline.objectives.objective import Batch, Draws, Loss, Objective


class Weighting(Enum):
    """What becomes of the weight w(σ) of a row's level as it comes near the noise that the row holds."""

    FADING = "fading"
    FULL = "full"


@dataclass(frozen=True)
class Ambient(Objective):
    """Denoising of rows whose `floor` says how much noise they hold; each is looked at above `least` of its floor.

    Args:
        precond: that of the denoiser.
        weighting: whether w fades out towards a row's floor, or is kept.
        cap: the largest 1/(1 − k) under `FULL`, above 1.
    """

    precond: Precond = EDM()
    weighting: Weighting = Weighting.FULL
    cap: float = 4.0

    def __post_init__(self) -> None:
        if not 1 < self.cap < math.inf:
            raise ValueError(f"cap is {self.cap}: give a number above 1, such as 4.")

    def least(self, floor: float) -> float:
        """The lowest σ at which a row that holds noise `floor` teaches."""
        return floor * (math.sqrt(self.cap / (self.cap - 1)) if self.weighting is Weighting.FULL else 1.0)

    def loss(self, D: Denoiser, batch: Batch, sigma: Tensor, drawn: Draws) -> Loss:
        """One loss per example (B,); the scalar `mse` is the unweighted one, of y. Every σ lies above its floor."""
        x, known = self.noised(batch, sigma, drawn)
        return self.judged(D(x, sigma, batch.cond), x, known, batch, sigma)

    def noised(self, batch: Batch, sigma: Tensor, drawn: Draws) -> tuple[Tensor, Tensor]:
        """X = y + √(σ² − s²) z' (B, *) and k = s²/σ² (B,)."""
        y = batch.x
        floor = torch.zeros_like(sigma) if batch.floor is None else batch.floor
        return y + expand((sigma**2 - floor**2).clamp_min(0).sqrt(), y) * drawn["noise"], (floor / sigma) ** 2

    def judged(self, guess: Tensor, x: Tensor, known: Tensor, batch: Batch, sigma: Tensor) -> Loss:
        """The loss of a guess D(x, σ) of x₀ (B, *)."""
        y = batch.x
        mse = ((expand(1 - known, y) * guess + expand(known, y) * x - y) ** 2).flatten(1).mean(1)
        return Loss(self.weigh(sigma, known) * mse, {"mse": mse.detach().mean()})

    def weigh(self, sigma: Tensor, known: Tensor) -> Tensor:
        """w(σ) u (B,) of rows of which so much is known."""
        weight = self.precond.weight(sigma)
        return weight * (1 / (1 - known)).clamp(max=self.cap) ** 2 if self.weighting is Weighting.FULL else weight
