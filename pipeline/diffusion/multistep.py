"""Multistep samplers: of second order with one call of D a step, because the call before is remembered.

With λ = −log σ the probability-flow ODE is dx/dλ = D − x, whose linear part is solved exactly: over a step h = λ′ − λ

    x′ = (σ′/σ) x + (1 − σ′/σ)(D + (D − D₋)/2r),     r = h₋/h,

with D₋ the denoised image one step of length h₋ earlier: DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095, Alg. 2)
for x = x₀ + σz. Without D₋ it is first order, and the same as Euler's step in σ.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.diffusion.denoiser import Denoiser, expand
from pipeline.diffusion.sample import Sampler, Transition

LONGER = 10.0  # times the step before, beyond which that one says nothing of this one; on a grid it is about 1


@dataclass(frozen=True)
class DPMSolver2M(Sampler):
    """DPM-Solver++(2M): second order, `steps` calls of D.

    Each row's first step is of first order, having no D₋, and so is the last, into σ = 0, where λ is infinite, and one
    after a step that was much shorter, as where a row starts just above a level: D − D₋ would be rounding alone.
    """

    def step(self, D: Denoiser, x: Tensor, sigma: Tensor, down: Tensor, cond: Tensor | None) -> Transition:
        """A first step, of first order."""
        return self.begin()(D, x, sigma, down, cond)

    def begin(self) -> Callable[[Denoiser, Tensor, Tensor, Tensor, Tensor | None], Transition]:
        """A step that remembers σ and D of the one before."""
        before: tuple[Tensor, Tensor] | None = None

        def step(D: Denoiser, x: Tensor, sigma: Tensor, down: Tensor, cond: Tensor | None) -> Transition:
            nonlocal before
            last, old = before or (sigma, x)
            guess = D(x, sigma, cond)
            before = sigma, guess
            # A row that has waited at its start (last = σ) has no D₋ yet.
            h, before_h = (sigma / down).log(), (last / sigma).log()
            second = (last > sigma) & (down > 0) & (h <= LONGER * before_h)
            half = torch.where(second, h / (2 * before_h), 0)
            ahead = torch.where(expand(second, x), guess + expand(half, x) * (guess - old), guess)
            ratio = expand(down / sigma, x)
            return Transition(ratio * x + (1 - ratio) * ahead)

        return step
