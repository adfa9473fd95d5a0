"""Averages of the weights that are chosen after training (Karras et al. 2024, section 3 and appendix C).

A power profile weighs the weights of time τ in the average of time t by p(τ; t, γ) = (γ + 1) τ^γ / t^(γ+1), τ ≤ t, with
time in images. Its width is σ_rel, its standard deviation over t. Two profiles, tracked while training and written
down now and then, span others: least squares on their inner products says which mixture of what was written comes
nearest to the profile wanted, its shares adding up to 1 as those of any average do. Beginnings do not matter: β of the
first step is 0, so what a network was drawn as has no share.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.learning.ema import Average

WIDEST = math.sqrt(1 / 12)  # σ_rel of the flat profile, γ = 0


@dataclass(frozen=True)
class Power(Average):
    """The power profile of width `sigma_rel`, a share of the training so far: 0.05 or 0.1 as a rule."""

    sigma_rel: float

    def __post_init__(self) -> None:
        if not 0 < self.sigma_rel < WIDEST:
            raise ValueError(f"sigma_rel is {self.sigma_rel}: give a width above 0 and below {WIDEST:.3f}.")

    @functools.cached_property
    def gamma(self) -> float:
        """γ > 0: the root of σ_rel² = (γ + 1)/((γ + 2)²(γ + 3)) (eq. 126)."""
        t = self.sigma_rel**-2
        return float(np.roots([1, 7, 16 - t, 12 - t]).real.max())

    def beta(self, images: int, batch: int) -> float:
        """(images/(images + batch))^(γ+1), which makes the average that of the profile exactly (eq. 127)."""
        return (images / (images + batch)) ** (self.gamma + 1)


@dataclass(frozen=True)
class PostHoc:
    """The profiles that a run tracks, and how often in all it writes them down."""

    sigma_rel: tuple[float, ...] = (0.05, 0.1)
    snapshots: int = 32

    def __post_init__(self) -> None:
        if not self.sigma_rel or len(set(self.sigma_rel)) < len(self.sigma_rel) or self.snapshots < 1:
            raise ValueError(f"{self.snapshots} snapshots of widths {self.sigma_rel}: give at least one of each, once.")
        _ = self.profiles

    @property
    def profiles(self) -> tuple[Power, ...]:
        """One a width."""
        return tuple(map(Power, self.sigma_rel))


def inner(t: np.ndarray, gamma: np.ndarray, other_t: np.ndarray, other_gamma: np.ndarray) -> np.ndarray:
    """∫ p(τ; t, γ) p(τ; t', γ') dτ of profiles that broadcast (eq. 148)."""
    later, earlier = np.maximum(t, other_t), np.minimum(t, other_t)
    power = np.where(t < other_t, other_gamma, gamma)  # the later profile reaches into the earlier one's time
    return (gamma + 1) * (other_gamma + 1) / (gamma + other_gamma + 1) * (earlier / later) ** power / later


def shares(kept: Sequence[tuple[int, float]], wanted: Power, images: int) -> tuple[np.ndarray, float]:
    """How much of each kept average, (images, sigma_rel), is in the wanted profile of time `images`: float64 (n,).

    And how far what comes of it is from that profile, relative to its norm: 0 where it was tracked, 1 where nothing of
    it is there. Raises ValueError when nothing was kept up to then.
    """
    if not any(0 < at <= images for at, _ in kept):
        raise ValueError(f"no averages of up to {images} images were kept: train with fit.posthoc, or ask for later.")
    t = np.array([at for at, _ in kept], np.float64)
    gamma = np.array([Power(width).gamma for _, width in kept])
    usable = (t > 0) & (t <= images)
    t, gamma = t[usable] / images, gamma[usable]
    gram = inner(t[:, None], gamma[:, None], t, gamma)
    right = inner(t, gamma, np.ones(()), np.array(wanted.gamma))
    size = np.sqrt(np.diag(gram))  # unit profiles: early ones are short and high
    n, whole = len(t), 1 / size
    system = np.zeros((n + 1, n + 1))  # least squares under one constraint (Lagrange): the shares add up to 1
    system[:n, :n], system[:n, n], system[n, :n] = gram / np.outer(size, size), whole, whole
    mine = np.linalg.lstsq(system, np.append(right / size, 1.0), rcond=1e-13)[0][:n] / size
    norm = float(inner(np.ones(()), np.array(wanted.gamma), np.ones(()), np.array(wanted.gamma)))
    left = float(mine @ gram @ mine - 2 * mine @ right) + norm
    found = np.zeros(len(kept))
    found[usable] = mine
    return found, math.sqrt(max(left, 0.0) / norm)
