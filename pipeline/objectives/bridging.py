"""Learning a denoiser that sees a picture y beside its image, from pairs: L = w(σ) · mean |D(x₀ + σz, σ; y) − x₀|²."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from pipeline.objectives.denoising import Denoising
from pipeline.objectives.objective import Batch, Draws, Loss


@dataclass(frozen=True)
class Bridging(Denoising):
    """`Denoising` beside what the batch has `beside` its images; least at E[x₀ | x, y]."""

    def loss(self, D: nn.Module, batch: Batch, sigma: Tensor, drawn: Draws) -> Loss:
        """One loss per example (B,); the scalar `mse` is the unweighted one."""
        return super().loss(partial(D, beside=batch.beside), batch, sigma, drawn)
