"""Guidance: two denoisers make a third, which leans away from what the second one knows.

    D_w(x, σ, c) = G + w (D − G),     D = D(x, σ, c) the one to follow, G = G(x, σ) the one to leave behind,

so that its score is that of p_Dʷ p_G¹⁻ʷ. If G is D itself without its condition, this is classifier-free guidance (Ho
and Salimans 2022, arXiv 2207.12598, whose weight is w − 1); if G is a smaller or less trained D, it is autoguidance
(Karras et al. 2024, arXiv 2406.02507). w = 1 is D alone. Guidance may be confined to σ_lo < σ ≤ σ_hi, which spares the
calls of G elsewhere (Kynkäänniemi et al. 2024, arXiv 2404.07724). The results are denoisers: any sampler takes them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pipeline.diffusion.denoiser import Denoiser, expand


class Autoguided:
    """G + weight (D − G) where low < σ <= high, D elsewhere; both are given the same condition."""

    def __init__(self, D: Denoiser, guide: Denoiser, weight: float, low: float = 0.0, high: float = math.inf) -> None:
        if not math.isfinite(weight) or not 0 <= low < high:
            raise ValueError(f"weight is {weight}, low {low} and high {high}: give a number, and 0 <= low < high.")
        self.D, self.guide, self.weight, self.low, self.high = D, guide, weight, low, high

    def __call__(self, x: Tensor, sigma: Tensor, cond: Tensor | None = None) -> Tensor:
        """The guided D (B, *) of x (B, *) at σ (B,); the guide is not called where no row needs it."""
        D = self.D(x, sigma, cond)
        inside = (self.low < sigma) & (sigma <= self.high)
        if self.weight == 1 or not bool(inside.any()):
            return D
        G = self.guide(x, sigma, cond)
        return torch.where(expand(inside, x), G + self.weight * (D - G), D)


class ClassifierFree(Autoguided):
    """D guided by itself with the condition `empty` (one row of it, for all; None: no condition at all)."""

    def __init__(
        self, D: Denoiser, weight: float, empty: Tensor | None = None, low: float = 0.0, high: float = math.inf
    ) -> None:
        def unconditional(x: Tensor, sigma: Tensor, cond: Tensor | None = None) -> Tensor:
            return D(x, sigma, None if empty is None else empty.to(x.device).expand(len(x), *empty.shape))

        super().__init__(D, unconditional, weight, low, high)
