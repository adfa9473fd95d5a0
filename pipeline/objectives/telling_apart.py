"""Telling apart: a network learns under noise which images are damaged, by the log-likelihood of what they are."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from pipeline.diffusion.denoiser import expand
from pipeline.objectives.objective import Batch, Draws, Loss, Objective


@dataclass(frozen=True)
class TellingApart(Objective):
    """L = −ln p(what the row is | x₀ + σz); `batch.cond` (B,) is 1 where a row is damaged. Least at the truth."""

    def loss(self, D: nn.Module, batch: Batch, sigma: Tensor, drawn: Draws) -> Loss:
        """One loss per example (B,); the scalar `right` is the share that is told right."""
        if batch.cond is None:
            raise ValueError("to be told apart, rows must say what they are: give cond")
        logit = D(batch.x + expand(sigma, batch.x) * drawn["noise"], sigma)
        what = batch.cond.to(logit)
        each = binary_cross_entropy_with_logits(logit, what, reduction="none")
        return Loss(each, {"right": ((logit.detach() > 0) == (what > 0.5)).float().mean()})
