"""Blur: Gaussian, anisotropic and motion blur of periodic images, diagonal in frequency.

A Gaussian of covariance S (pixels²) multiplies a wave of angular frequency ω by exp(-ωᵀ S ω / 2); a motion along a line
of length L in the direction d multiplies it by sin(u)/u, u = L ω·d / 2. A mean brightness stays as it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.physics.linear import Shape
from pipeline.physics.spectral import Spectral
from pipeline.physics.views import require_axes


@dataclass(frozen=True)
class GaussianBlur(Spectral):
    """Standard deviations `along` and `across` (None: as `along`) in pixels; `along` points `angle` degrees down from
    the row direction.
    """

    shape: Shape
    along: float
    across: float | None = None
    angle: float = 0.0

    def __post_init__(self) -> None:
        require_axes("GaussianBlur", self.shape, 2, "(..., H, W)")
        wide = self.along if self.across is None else self.across
        if not (math.isfinite(self.along + wide + self.angle) and self.along >= 0 and wide >= 0):
            raise ValueError(
                f"GaussianBlur needs finite widths of at least 0, got along {self.along} and across {self.across}."
            )

    def transfer(self, down: Tensor, across: Tensor) -> Tensor:
        """exp(-((along ω₁)² + (across ω₂)²) / 2), with ω₁ and ω₂ along and across the blur."""
        turn = math.radians(self.angle)
        first = math.cos(turn) * across + math.sin(turn) * down
        second = math.cos(turn) * down - math.sin(turn) * across
        wide = self.along if self.across is None else self.across
        return torch.exp(-((self.along * first) ** 2 + (wide * second) ** 2) / 2)


@dataclass(frozen=True)
class MotionBlur(Spectral):
    """The camera moved `length` pixels, `angle` degrees down from the row direction, at an even speed."""

    shape: Shape
    length: float
    angle: float = 0.0

    def __post_init__(self) -> None:
        require_axes("MotionBlur", self.shape, 2, "(..., H, W)")
        if not (math.isfinite(self.length + self.angle) and self.length >= 0):
            raise ValueError(f"MotionBlur needs a finite length of at least 0 pixels, got {self.length}.")

    def transfer(self, down: Tensor, across: Tensor) -> Tensor:
        """sin(u)/u with u = length ω·d / 2."""
        turn = math.radians(self.angle)
        moved = self.length * (math.cos(turn) * across + math.sin(turn) * down)
        return torch.sinc(moved / (2 * math.pi))
