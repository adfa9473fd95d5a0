"""Held-out denoising error over noise levels, and its integral: the yardstick that needs no feature network.

For levels σ_i spaced evenly in ln σ, error_i = E |D(x₀ + σ_i z, σ_i) − x₀|² per pixel, and

    E = Σ p(ln σ_i) λ(σ_i) error_i / Σ p(ln σ_i),      p = N(−1.2, 1.2²),  λ(σ) = (σ² + s²)/(σ s)²,  s = 0.5

(the training distribution and weight of Karras et al. 2022). By ½ ∫ E|s − ŝ|² dσ² ≥ KL, excess error in D bounds what
samples can lose.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipeline.diffusion.bins import weighted
from pipeline.diffusion.denoiser import Denoiser, expand
from pipeline.keys import Key


@dataclass(frozen=True)
class DenoisingError:
    """`levels` log-spaced σ in [low, high], `draws` noises for each image; the same ones for every model."""

    low: float = 0.02
    high: float = 10.0
    levels: int = 16
    draws: int = 2
    seed: int = 0
    batch: int = 512

    def sigmas(self) -> Tensor:
        """The levels (levels,), ascending."""
        return torch.logspace(torch.tensor(self.low).log10(), torch.tensor(self.high).log10(), self.levels)

    def __call__(self, D: Denoiser, x0: Tensor, ids: Sequence[str], cond: Tensor | None = None) -> tuple[float, Tensor]:
        """(E, errors (levels,)) of D, told `cond`, on x0 (B, *); noise is keyed by an image's id, level and draw."""
        errors = self.each(D, x0, ids, cond).mean(0)
        return float(self.integral(errors)), errors

    @torch.no_grad()
    def each(self, D: Denoiser, x0: Tensor, ids: Sequence[str], cond: Tensor | None = None) -> Tensor:
        """Errors (B, levels) of the images one by one, float64: what their mean varies by is known from them."""
        errors = torch.zeros(len(x0), self.levels, dtype=torch.float64)
        sigmas = self.sigmas()
        for start in range(0, len(x0), self.batch):
            x, names = x0[start : start + self.batch], ids[start : start + self.batch]
            told = None if cond is None else cond[start : start + self.batch]
            noise = torch.stack([self._noise(name, x.shape[1:]) for name in names], dim=2).to(x.device)
            for i, sigma in enumerate(sigmas):
                level = sigma.to(x.device).expand(len(x))
                for z in noise[i]:
                    D0 = D(x + expand(level, x) * z, level, told)
                    errors[start : start + len(x), i] += ((D0 - x) ** 2).flatten(1).mean(1).double().cpu()
        return errors / self.draws

    def integral(self, errors: Tensor) -> Tensor:
        """Σ p λ error / Σ p over the last axis (levels)."""
        return weighted(self.sigmas(), errors)

    def card(self, count: int) -> dict[str, Any]:
        """How the number was measured."""
        return {
            "metric": "denoising error",
            "levels": [self.low, self.high, self.levels],
            "weight": "EDM, sigma_data 0.5",
            "density": "ln sigma ~ N(-1.2, 1.2^2)",
            "draws": self.draws,
            "seed": self.seed,
            "images": count,
        }

    def _noise(self, name: str, shape: torch.Size) -> Tensor:
        generator = Key(self.seed).fold("denoising error", name).torch()
        return torch.randn((self.levels, self.draws, *shape), generator=generator)
