"""Denoising: D learns E[x₀ | x] as the least-squares guess of x₀ from x = x₀ + σz.

L = w(σ) · mean over entries of |D(x₀ + σz, σ) − x₀|²: the mean, not the sum, so that a rate fits every image size.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from pipeline.diffusion.denoiser import Denoiser, expand
from pipeline.diffusion.precond import EDM, Precond
from pipeline.objectives.objective import Batch, Draws, Loss, Objective


@dataclass(frozen=True)
class Denoising(Objective):
    """Karras et al. 2022, eq. 2 and 8, with the weight of `precond` (that of the denoiser, as a rule)."""

    precond: Precond = EDM()

    def loss(self, D: Denoiser, batch: Batch, sigma: Tensor, drawn: Draws) -> Loss:
        """One loss per example (B,); the scalar `mse` is the unweighted one."""
        x0 = batch.x
        x = x0 + expand(sigma, x0) * drawn["noise"]
        mse = ((D(x, sigma, batch.cond) - x0) ** 2).flatten(1).mean(1)
        return Loss(self.precond.weight(sigma) * mse, {"mse": mse.detach().mean()})
