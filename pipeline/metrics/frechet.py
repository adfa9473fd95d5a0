"""Fréchet distance between two sets of images in a stated feature space.

d² = |μ₁ − μ₂|² + tr(C₁ + C₂ − 2 (C₁C₂)^½) for Gaussians with the sets' means and covariances (Dowson and Landau, "The
Fréchet distance between multivariate normal distributions", 1982). It is comparable only within one feature space and
for one number of images: few of them raise it, and fewer than features a lot.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pipeline.metrics.interval import Estimate, estimate, left_out
from pipeline.metrics.moments import Moments, total


def frechet(a: Moments, b: Moments) -> float:
    """d² in squared units of the features; 0 up to rounding for equal sets. Raises TooFew: a set has one image."""
    # tr (C₁C₂)^½ is the nuclear norm of C₁^½ C₂^½, which needs no square root of a non-symmetric matrix.
    cross = torch.linalg.svdvals(a.root @ b.root).sum()
    distance = ((a.mean - b.mean) ** 2).sum() + a.covariance.trace() + b.covariance.trace() - 2 * cross
    return float(distance.clamp(min=0))


def judged(a: Sequence[Moments], b: Sequence[Moments]) -> Estimate:
    """d² of two sets that are given in groups, with its interval."""
    whole_a, whole_b = total(a), total(b)
    without_a = left_out(lambda g: frechet(whole_a - a[g], whole_b), [part.count for part in a])
    without_b = left_out(lambda g: frechet(whole_a, whole_b - b[g]), [part.count for part in b])
    return estimate(frechet(whole_a, whole_b), [without_a, without_b], low=0.0)
