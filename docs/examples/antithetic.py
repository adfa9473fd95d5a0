"""Antithetic denoising: every image is looked at under a noise z and under −z.

L = w(σ) · ½ (|D(x₀ + σz, σ) − x₀|² + |D(x₀ − σz, σ) − x₀|²): the same expectation as plain denoising, hence the same
minimum, with less variance where the two errors pull in opposite directions (antithetic variates; Hammersley and
Morton, "A new Monte Carlo technique", 1956). It asks the network twice.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from pipeline.diffusion.denoiser import Denoiser, expand
from pipeline.diffusion.precond import EDM, Precond
from pipeline.objectives.objective import Batch, Draws, Loss, Objective


@dataclass(frozen=True)
class Antithetic(Objective):
    """Denoising under a noise and its negative, with the weight of `precond`."""

    precond: Precond = EDM()

    def loss(self, D: Denoiser, batch: Batch, sigma: Tensor, drawn: Draws) -> Loss:
        """One loss per example (B,); the scalar `mse` is the unweighted one."""
        x0 = batch.x
        z = expand(sigma, x0) * drawn["noise"]
        errors = [((D(x0 + sign * z, sigma, batch.cond) - x0) ** 2).flatten(1).mean(1) for sign in (1, -1)]
        mse = (errors[0] + errors[1]) / 2
        return Loss(self.precond.weight(sigma) * mse, {"mse": mse.detach().mean()})
