"""Leaks: clean images that a damaged set shows again, recognised through the damage.

Let y = A x₀ + σ z and L the lowest frequencies of the cosine transform, with orthonormal rows. For the image x₀ behind
y, T = |L y − L A x₀|² / σ² is χ² with k = dim L degrees of freedom, whatever A is; for another image x it is larger by
|L A (x − x₀)|² / σ². So y is called a copy of x where T is below the 99.9% quantile: a true copy is missed once in a
thousand. How often another image is taken for one is no constant of nature but depends on σ and on how alike the
images are: it is measured, on clean images damaged anew and compared with all others (`chance`). Where 8 bits cut
y off, A x and σ² give way to the mean and variance of clip(A x + σ z, -1, 1), which are known too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from pipeline.data.damaged import NO_MAP
from pipeline.data.records import Examples
from pipeline.data.similar import cosines
from pipeline.keys import Key
from pipeline.physics.corruption import Corruption
from pipeline.physics.linear import LinearMap, Shape

SIDE = 8  # frequencies kept along each axis
FLOOR = 0.02  # σ of what rounding and recoding may add, in units of [-1, 1] images
MISSED = 3.09  # standard normal quantile of 99.9%
TRIALS = 1024  # images damaged anew to measure `chance`
OWN_MAPS = (64, 1 << 21)  # damaged images, and numbers in all clean ones, where every row has its own operator
CHUNK = 256  # images whose L A x are made at once


@dataclass(frozen=True)
class Damage:
    """How a set was seen: a corruption of images of `shape`, and σ where it is known otherwise."""

    corruption: Corruption
    shape: Shape
    sigma: float | None = None

    def map(self, operator: Mapping[str, np.ndarray]) -> LinearMap | None:
        """The operators of rows with these columns; None where the corruption has none."""
        try:
            return self.corruption.at(operator, self.shape)
        except ValueError:
            return None

    def sigmas(self, rows: Examples) -> np.ndarray:
        """σ of each row (N,): as told, or in its own column, or of the corruption (the root of its mean variance)."""
        if self.sigma is not None:
            return np.full(len(rows), self.sigma)
        if "sigma" in rows.operator:
            return rows.operator["sigma"].reshape(len(rows)).astype(np.float64)
        variance = self.corruption.variance(rows.x(), rows.operator)
        return variance.double().flatten(1).mean(1).sqrt().numpy()

    @property
    def plain(self) -> bool:
        """Whether images are seen whole and without noise."""
        return self.sigma in (None, 0.0) and replace(self, sigma=None)._plain

    @property
    def _plain(self) -> bool:
        x = torch.linspace(-1, 1, math.prod(self.shape)).reshape(1, *self.shape)
        A = self.map({}) if self.corruption.noiseless and not self.corruption.draw(self.shape, Key(0)) else None
        return A is not None and bool(torch.equal(A(x), x))


@dataclass(frozen=True)
class Copies:
    """What a comparison found.

    `pairs` int64 (M, 2) are places among the ids `damaged` and `clean` that were compared, clearest first. `recall` and
    `chance` are the shares of `trials` clean images damaged anew that were recognised, and taken for another image.
    """

    pairs: np.ndarray
    damaged: tuple[str, ...]
    clean: tuple[str, ...]
    recall: float
    chance: float
    trials: int

    @property
    def likely(self) -> bool:
        """Whether there are more pairs than the measured chance explains, by three standard deviations."""
        return len(self.pairs) > _most(self.chance * len(self.damaged))

    @property
    def certain(self) -> bool:
        """The same, of a chance of one more in all trials: what was not seen once may still be."""
        chance = (self.chance * self.trials + 1) / (self.trials + 1)
        return len(self.pairs) > _most(chance * len(self.damaged))


def copies(clean: Examples, damaged: Examples, damage: Damage, seed: int = 0) -> Copies | None:
    """Which damaged images show one of the clean ones; None where the shapes or the operator do not allow to tell."""
    if clean.shape != damage.shape or not len(clean) or not len(damaged):
        return None
    own_maps = bool(set(damaged.operator) - NO_MAP)
    if own_maps:
        damaged = damaged.take(_some(len(damaged), OWN_MAPS[0], seed))
        clean = clean.take(_some(len(clean), max(1, OWN_MAPS[1] // math.prod(clean.shape)), seed))
    A = damage.map({n: v[:1] for n, v in damaged.operator.items()})
    if A is None or A.out_shape != damaged.shape:
        return None
    sigma = np.sqrt(damage.sigmas(damaged) ** 2 + FLOOR**2)
    chosen = _some(len(clean), TRIALS, seed)
    if own_maps:
        T, anew = _with_own_maps(clean, damaged, damage, sigma, chosen, seed)
    else:
        T, anew = _with_one_map(clean, damaged, A, sigma, chosen, seed)
    k = _low(torch.zeros(1, *damaged.shape)).shape[1]
    most = _quantile(k)
    best = T.argmin(1)
    least = T[np.arange(len(T)), best]
    found = np.flatnonzero(least <= most)
    found = found[np.argsort(least[found], kind="stable")]
    itself = anew[np.arange(len(chosen)), chosen] <= most
    # Its own copies among the clean ones are no other images, for which it would be taken by chance.
    alike = {image: i for i, image in enumerate(map(bytes, clean.images))}
    same = np.array([alike[bytes(image)] for image in clean.images])
    anew[same[chosen][:, None] == same[None]] = np.inf
    pairs = np.stack([found, best[found]], axis=1)
    others = float((anew <= most).any(1).mean())
    return Copies(pairs, damaged.ids, clean.ids, float(itself.mean()), others, len(chosen))


def _quantile(k: int) -> float:
    """Of χ² with k degrees of freedom, at 99.9% (Wilson and Hilferty, 1931)."""
    return k * (1 - 2 / (9 * k) + MISSED * math.sqrt(2 / (9 * k))) ** 3


def _most(expected: float) -> float:
    return expected + 3 * math.sqrt(expected)


def _with_one_map(
    clean: Examples, damaged: Examples, A: LinearMap, sigma: np.ndarray, chosen: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """T of damaged rows against clean ones (N, M), and of the chosen clean ones damaged anew (n, M)."""
    typical = float(np.median(sigma))
    cut = typical if damaged.images.dtype == np.uint8 else 0.0
    chunks = [np.arange(i, min(i + CHUNK, len(clean))) for i in range(0, len(clean), CHUNK)]
    parts = [_expected(A(clean.x(rows)), cut) for rows in chunks]
    there, share = torch.cat([_low(mean) for mean, _ in parts]), torch.cat([share for _, share in parts]).numpy()
    here = torch.cat([_low(damaged.x(range(i, min(i + CHUNK, len(damaged))))) for i in range(0, len(damaged), CHUNK)])
    noisy = _low(_anew(A(clean.x(chosen)), typical, cut > 0, Key(seed)))
    return (
        _distances(here, there) / (sigma[:, None] ** 2 * share),
        _distances(noisy, there) / (typical**2 * share),
    )


def _with_own_maps(
    clean: Examples, damaged: Examples, damage: Damage, sigma: np.ndarray, chosen: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """The same, where each damaged row has its operator; the i-th chosen image is damaged by that of row i mod N."""
    clipped, x, y = damaged.images.dtype == np.uint8, clean.x(), damaged.x()
    T, anew = np.empty((len(y), len(x)), np.float32), np.empty((len(chosen), len(x)), np.float32)
    for i in range(len(y)):
        A = damage.map({name: values[i : i + 1] for name, values in damaged.operator.items()})
        if A is None:
            raise ValueError(f"the operator of {damaged.ids[i]} cannot be rebuilt from its row")
        ax = A(x)
        mean, share = _expected(ax, float(sigma[i]) if clipped else 0.0)
        there, variance = _low(mean), sigma[i] ** 2 * share.numpy()
        seen = A(A.pinv(y[i : i + 1]))  # what lies where nothing was seen says nothing
        T[i] = _distances(_low(seen), there)[0] / variance
        for j in range(i, len(chosen), len(y)):
            noisy = A(A.pinv(_anew(ax[chosen[j] : chosen[j] + 1], float(sigma[i]), clipped, Key(seed).fold(j))))
            anew[j] = _distances(_low(noisy), there)[0] / variance
    return T, anew


def _low(x: Tensor) -> Tensor:
    """L x: the SIDE lowest frequencies along both axes of each channel and frame of x (N, *, H, W), flattened."""
    h, w = x.shape[-2:]
    down, across = (torch.from_numpy(cosines(n, min(n, SIDE))) for n in (h, w))
    return (down @ x @ across.T).flatten(1)


def _expected(ax: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    """The mean of clip(A x + σ z, -1, 1), and for each image the share of σ² that is left of its variance (N,).

    A x and 1 where σ is 0: nothing is cut off.
    """
    if sigma == 0:
        return ax, torch.ones(len(ax))
    low, high = (-1 - ax) / sigma, (1 - ax) / sigma
    cdf, pdf = torch.special.ndtr, lambda v: torch.exp(-(v**2) / 2) / math.sqrt(2 * math.pi)
    inside, bend = cdf(high) - cdf(low), pdf(low) - pdf(high)
    mean = -cdf(low) + ax * inside + sigma * bend + cdf(-high)
    # With u = A x + sigma z: E[u^2; |u| < 1] = (ax^2 + sigma^2) inside + sigma (low-end - high-end terms).
    square = (ax**2 + sigma**2) * inside + sigma * ((ax - 1) * pdf(low) - (ax + 1) * pdf(high))
    variance = square + cdf(low) + cdf(-high) - mean**2
    return mean, (variance.flatten(1).mean(1) / sigma**2).clamp(min=0.01)


def _anew(ax: Tensor, sigma: float, clipped: bool, key: Key) -> Tensor:
    z = torch.from_numpy(key.fold("anew").numpy().standard_normal(tuple(ax.shape), dtype=np.float32))
    y = ax + sigma * z
    return y.clamp(-1, 1) if clipped else y


def _distances(a: Tensor, b: Tensor) -> np.ndarray:
    """|aᵢ − bⱼ|², (N, M)."""
    return torch.cdist(a, b, compute_mode="use_mm_for_euclid_dist").square().numpy()


def _some(rows: int, most: int, seed: int) -> np.ndarray:
    """`most` of the rows, or all: a keyed choice, ascending."""
    if rows <= most:
        return np.arange(rows)
    return np.sort(Key(seed).fold("some").numpy().permutation(rows)[:most])
