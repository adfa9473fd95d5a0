"""The residual objective: what is left of x₀ after the views, regularised hard.

L = mean |(D_base + c_r F − x₀)/c_r|² + λ mean |F|². Unregularised and in a class that can express the base, F would
undo the base and be plain training from scratch; the penalty shrinks its optimum towards no correction, F* → F*/(1 + λ)
("Bootstrapping Diffusion", Ma, arXiv 2505.11825, requires such a regulariser for its bound).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.diffusion.compose import Base, Residual
from pipeline.diffusion.denoiser import expand
from pipeline.objectives.objective import Batch, Draws, Loss, Objective


@dataclass(frozen=True, eq=False)
class ResidualDenoising(Objective):
    """`base` is frozen and calibrated (its `scale` is c_r), `output_l2` is λ ≥ 0."""

    base: Base
    output_l2: float = 0.0

    def loss(self, F: Residual, batch: Batch, sigma: Tensor, drawn: Draws) -> Loss:
        """One loss per example (B,); `kept` is the share of the base's error that remains."""
        x0 = batch.x
        x = x0 + expand(sigma, x0) * drawn["noise"]
        with torch.no_grad():
            seen = self.base.see(x, sigma, batch.cond)
            unit = self.base.config.bins.read(self.base.scale, sigma)
            target = (x0 - seen.mean) / expand(unit, x)
        out = F(x, sigma, seen, unit, batch.cond)
        fit = ((out - target) ** 2).flatten(1).mean(1)
        size = (out**2).flatten(1).mean(1)
        kept = fit.detach().sum() / (target**2).flatten(1).mean(1).sum()
        return Loss(fit + self.output_l2 * size, {"kept": kept, "output": size.detach().mean()})
