"""Fréchet distance between two sets of images in a stated feature space.

d² = |μ₁ − μ₂|² + tr(C₁ + C₂ − 2 (C₁C₂)^½) for Gaussians with the sets' means and covariances (Dowson and Landau, "The
Fréchet distance between multivariate normal distributions", 1982). It is comparable only within one feature space:
with pixels as features this is no "FID".
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor


class Features(ABC):
    """A map from images (B, C, H, W) in [-1, 1] to features (B, n); a frozen dataclass that names itself."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What must be said beside every number made with it."""

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """Features (B, n), float64."""


@dataclass(frozen=True)
class Pixels(Features):
    """The pixels themselves, averaged down until no side is longer than `side`."""

    side: int = 8

    @property
    def name(self) -> str:
        """Says the size."""
        return f"pixels, averaged to at most {self.side}x{self.side}"

    def __call__(self, x: Tensor) -> Tensor:
        """(B, C · h · w) with h, w ≤ side."""
        height, width = x.shape[-2:]
        size = (min(self.side, height), min(self.side, width))
        return torch.nn.functional.adaptive_avg_pool2d(x.double(), size).flatten(1)


def moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (n,) and unbiased covariance (n, n) of features (B, n). Raises: ValueError: fewer than two."""
    if len(features) < 2:
        raise ValueError(f"a covariance needs at least 2 images, not {len(features)}: sample more")
    return features.mean(0), torch.cov(features.T)


def frechet(a: Tensor, b: Tensor) -> float:
    """d² between features a (M, n) and b (N, n), in squared units of the features; 0 up to rounding for equal sets."""
    (mean_a, cov_a), (mean_b, cov_b) = moments(a), moments(b)
    # tr (C₁C₂)^½ is the nuclear norm of C₁^½ C₂^½, which needs no square root of a non-symmetric matrix.
    cross = torch.linalg.svdvals(_root(cov_a) @ _root(cov_b)).sum()
    distance = ((mean_a - mean_b) ** 2).sum() + cov_a.trace() + cov_b.trace() - 2 * cross
    return float(distance.clamp(min=0))


def _root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T
