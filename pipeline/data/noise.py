"""Noise: how much white noise images hold, estimated from differences that smooth images do not have.

With an odd, normalised row of weights w, d = Σᵢⱼ wᵢ wⱼ y[·+i, ·+j] is N(0, σ²) on y = x₀ + σ z wherever x₀ is a
polynomial of degree below that of the zeros of w, and the median of |d| is 0.6745 σ whatever a minority of edges do
(Donoho and Johnstone, "Ideal spatial adaptation by wavelet shrinkage", 1994, section 4). Texture of strength τ adds to
it: σ̂² ≈ σ² + τ². It is told from noise at half the size: the mean of 2 x 2 pixels times 2 leaves white noise at σ,
while texture of clean images grows: τ² by `TEXTURE` or more. So σ̂ coarse tells how much of σ̂ may be texture.

|d| is kept as a tally of bins 2^(1/16) wide, which adds up; the median is found to about 0.1% of itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from pipeline.data.census import Tally

LONG = np.array([1, -3, 3, -1]) / math.sqrt(20)  # blind to quadratic shades
SHORT = np.array([1, -1]) / math.sqrt(2)  # Haar: needs fewer neighbours that are all seen
PER_OCTAVE = 16
LEAST = -20.0  # log2 of the smallest |d| told from 0
FEWEST = 200  # differences that an estimate needs
TEXTURE = 6.0  # (σ̂ coarse / σ̂ fine)² of clean images, at least: of five real sets 8 (digits) to 200 (emoji)
FAINT = 0.03  # σ above which an image said to be clean is not
LOWEST, HIGHEST = 0.85, 1.25  # σ̂ / σ that are let pass


def differences(x: np.ndarray, seen: np.ndarray | None = None) -> np.ndarray:
    """All d of images x (N, *, H, W) at places where every pixel used is seen: flat, float32.

    With `seen` (N, *, H, W) the differences are Haar's, else over 4 x 4 pixels where the images have as many.
    """
    w = SHORT if seen is not None or min(x.shape[-2:]) < len(LONG) else LONG
    if min(x.shape[-2:]) < len(w):
        return np.empty(0, np.float32)
    d = _along(_along(x.astype(np.float32), w, -1), w, -2)
    if seen is None:
        return d.ravel()
    full = _along(_along(seen.astype(np.float32), np.abs(np.sign(w)), -1), np.abs(np.sign(w)), -2)
    return d[np.broadcast_to(full > len(w) ** 2 - 0.5, d.shape)]


def halved(x: np.ndarray) -> np.ndarray:
    """Images of half the size, each pixel twice the mean of four: white noise keeps its σ."""
    h, w = x.shape[-2] // 2 * 2, x.shape[-1] // 2 * 2
    x = x[..., :h, :w].astype(np.float32)
    return (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 2


def tally(d: np.ndarray) -> Tally:
    """How many |d| fall into each bin; bin k begins at 2^(k / 16)."""
    with np.errstate(divide="ignore"):
        bins = np.floor(PER_OCTAVE * np.maximum(np.log2(np.abs(d)), LEAST)).astype(np.int64)
    return Tally.of({str(k): int(n) for k, n in zip(*np.unique(bins, return_counts=True))})


def estimate(found: Tally) -> float:
    """σ̂ = median |d| / 0.6745; NaN of too few differences, 0 where most are 0."""
    if found.total < FEWEST:
        return math.nan
    bins = np.array(sorted(map(int, found.counts)))
    ends = np.cumsum([found.counts[str(k)] for k in bins])
    at = int(np.searchsorted(ends, found.total / 2))
    before, here = (ends[at - 1] if at else 0), found.counts[str(bins[at])]
    if bins[at] <= LEAST * PER_OCTAVE:
        return 0.0
    median = 2 ** ((bins[at] + (found.total / 2 - before) / here) / PER_OCTAVE)
    return float(median / NormalDist().inv_cdf(0.75))


@dataclass(frozen=True)
class Noise:
    """Estimates of one set: `ratio` is σ̂ / σ over the rows declared noisy, `fine` and `coarse` are σ̂ at two sizes.

    `declared` is the root mean square σ of the rows (0: said to be clean). NaN is what could not be estimated.
    """

    declared: float
    fine: float
    coarse: float
    ratio: float = math.nan

    @property
    def bounds(self) -> tuple[float, float]:
        """σ lies between these: all texture that the coarse size allows is taken off, or none."""
        if math.isnan(self.coarse):
            return 0.0, self.fine
        texture = max(0.0, self.coarse**2 - self.fine**2) / (TEXTURE - 1)
        return math.sqrt(max(0.0, self.fine**2 - texture)), self.fine

    def complaint(self) -> str:
        """What is wrong with the declared σ, "" if nothing is known to be."""
        low, high = self.bounds
        if self.declared == 0:
            return f"is declared to be without noise and has noise of σ about {low:.2g}" if low > FAINT else ""
        if self.ratio < LOWEST:
            found = f"no more than {self.ratio * self.declared:.3g}"
        elif low > HIGHEST * self.declared:
            found = f"{low:.3g} to {high:.3g}"
        else:
            return ""
        return f"is declared to have noise of σ = {self.declared:.3g}, and {found} is found"


def _along(x: np.ndarray, w: np.ndarray, axis: int) -> np.ndarray:
    """The sum of x shifted along an axis, weighted, where every term is inside."""
    n = x.shape[axis] - len(w) + 1
    at = [slice(None)] * x.ndim
    out = np.zeros((), np.float32)
    for i, weight in enumerate(w):
        at[axis] = slice(i, i + n)
        out = out + np.float32(weight) * x[tuple(at)]
    return out
