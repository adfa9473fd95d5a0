"""Denoising of rows that were each seen through their own mask or window, by one network that is told which.

L = w(σ) |D(v + σz, σ; A) − v|² / (numbers that A shows), on what the rows show alone: what is hidden neither reaches
the network nor is asked of it, so that its minimum is E[A x₀ | v + σz] for the A of every row.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from pipeline.diffusion.denoiser import expand
from pipeline.diffusion.precond import EDM, Precond
from pipeline.diffusion.telling import Telling
from pipeline.objectives.objective import Batch, Draws, Loss, Objective


@dataclass(frozen=True, eq=False)
class ToldDenoising(Objective):
    """`codes` (N, *) says of each example what it shows, by `batch.index`; the weight is that of `precond`."""

    telling: Telling
    codes: Tensor
    precond: Precond = EDM()

    def loss(self, D: nn.Module, batch: Batch, sigma: Tensor, drawn: Draws) -> Loss:
        """One loss per example (B,); `mse` is the unweighted one. Raises ValueError: the batch has no index."""
        if batch.index is None:
            raise ValueError("rows with masks or places of their own need an index, by which those are known")
        code = self.codes.to(batch.x.device)[batch.index]
        x = batch.x + expand(sigma, batch.x) * drawn["noise"]
        error = self.telling.seen(D(x, sigma, batch.cond, code) - batch.x, code).square().flatten(1).sum(1)
        mse = error / self.telling.counts(code)
        return Loss(self.precond.weight(sigma) * mse, {"mse": mse.detach().mean()})
