"""Distillation: one network learns to answer as another denoiser does, which may be many networks at once.

L = w(σ) · mean over entries of |D(x₀ + σz, σ) − T(x₀ + σz, σ)|², with the teacher T in place of x₀. The minimum is at
D = T wherever x may lie; since T is all but E[x₀ | x], the loss lacks the variance of x₀ given x, which denoising has.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.diffusion.denoiser import Denoiser, expand
from pipeline.diffusion.precond import EDM, Precond
from pipeline.objectives.objective import Batch, Draws, Loss, Objective


@dataclass(frozen=True, eq=False)
class Distillation(Objective):
    """`teacher` is a frozen denoiser; the weight is that of `precond` (that of the learner, as a rule)."""

    teacher: nn.Module
    precond: Precond = EDM()

    def loss(self, D: Denoiser, batch: Batch, sigma: Tensor, drawn: Draws) -> Loss:
        """One loss per example (B,); the scalar `mse` is the unweighted one."""
        x = batch.x + expand(sigma, batch.x) * drawn["noise"]
        with torch.no_grad():
            wanted = self.teacher(x, sigma, batch.cond)
        mse = ((D(x, sigma, batch.cond) - wanted) ** 2).flatten(1).mean(1)
        return Loss(self.precond.weight(sigma) * mse, {"mse": mse.detach().mean()})
