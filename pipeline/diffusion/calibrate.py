"""What must be measured on full images before views can be combined: sums per noise bin, mergeable across workers.

All of it is means over (image, noise draw) pairs in each bin, so partial sums from any split of the images add up to
the same table, whatever the split. What is measured later may need what was measured before: a `Calibration` asks for
one kind of sums after the other, and whoever drives it, one process (`here`) or many, measures them.
"""

from __future__ import annotations

import functools
import itertools
import math
import operator
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from pipeline.diffusion.bins import Bins
from pipeline.diffusion.blue import common
from pipeline.diffusion.compose import Base
from pipeline.diffusion.denoiser import expand
from pipeline.diffusion.residual import Residual
from pipeline.keys import Key


@dataclass(frozen=True)
class Sums:
    """Sums (rows, bins) of some quantities and how many pairs were added."""

    total: Tensor
    count: int

    def __add__(self, other: Sums) -> Sums:
        return Sums(self.total + other.total, self.count + other.count)

    @property
    def mean(self) -> Tensor:
        """The means (rows, bins)."""
        return self.total / self.count


RIDGE = 1e-3
FOLDS = 10
GATE_DRAWS = 32  # noise draws an image by which gates are measured
PIECE = 64  # images whose sums are added up by themselves, so that they are the same numbers wherever that is done
T = TypeVar("T")
Measure = Callable[[Tensor, Tensor, Tensor], list[Tensor]]


@dataclass(frozen=True)
class Wanted:
    """Sums that somebody asks for: what `measure` takes."""

    of: Measure
    key: Key
    draws: int


Calibration = Generator[Wanted, Sums, T]


def here(asks: Calibration[T], bins: Bins, x0: Tensor, ids: Sequence[str]) -> T:
    """What comes of a calibration on images x0 (B, *), all in this process."""
    return answered(asks, lambda wanted: total(part(wanted, bins, x0, ids, i) for i in range(pieces(len(x0)))))


def answered(asks: Calibration[T], sums: Callable[[Wanted], Sums]) -> T:
    """What comes of a calibration whose every question is answered."""
    wanted = next(asks)
    while True:
        found = sums(wanted)
        try:
            wanted = asks.send(found)
        except StopIteration as end:
            return end.value


def asked(asks: Calibration[T], known: Sequence[Sums]) -> Wanted:
    """What a calibration asks for after it was told the first sums."""
    wanted = next(asks)
    for sums in known:
        wanted = asks.send(sums)
    return wanted


def pieces(count: int) -> int:
    """How many pieces so many images make."""
    return -(-count // PIECE)


def part(wanted: Wanted, bins: Bins, x0: Tensor, ids: Sequence[str], piece: int) -> Sums:
    """The sums of one piece of images x0 (B, *)."""
    rows = slice(piece * PIECE, (piece + 1) * PIECE)
    return measure(wanted.of, x0[rows], ids[rows], bins, wanted.key, wanted.draws)


def total(parts: Iterator[Sums] | Sequence[Sums]) -> Sums:
    """The sums of all pieces, added from the first to the last."""
    return functools.reduce(operator.add, parts)


@torch.no_grad()
def measure(
    of: Measure, x0: Tensor, ids: Sequence[str], bins: Bins, key: Key, draws: int = 8, batch: int = 512
) -> Sums:
    """Add up `of(x0, x, sigma) -> rows of (B,)` over images, noise draws and bin centres.

    The noise is keyed by example id, so that the sums do not depend on how the images are split.
    """
    columns = []
    for sigma in bins.centres().to(x0.device):
        column = None
        for z, clean in _noised(x0, ids, key, draws, batch):
            level = sigma.expand(len(clean))
            rows = torch.stack([row.double().sum().cpu() for row in of(clean, clean + sigma * z, level)])
            column = rows if column is None else column + rows
        columns.append(column)
    return Sums(torch.stack(columns, dim=1), len(x0) * draws)


def calibrate_base(base: Base, x0: Tensor, ids: Sequence[str], key: Key, draws: int = 8) -> Tensor:
    """Set a base's view errors, weights, stack and then c_r from full images x0 (B, *) that no view was trained on.

    Returns: the covariance (K, K, bins) of the views' errors, as in blue.py.
    """
    return here(calibration(base, key, draws), base.config.bins, x0, ids)


def calibration(base: Base, key: Key, draws: int) -> Calibration[Tensor]:
    """`calibrate_base`, by sums that are asked for: of errors, of lifts, of what the combination leaves."""
    K = len(base.maps)
    pairs = list(itertools.combinations(range(K), 2))

    def errors(clean: Tensor, x: Tensor, sigma: Tensor) -> list[Tensor]:
        off = [D(A(x), sigma) - A(clean) for A, D in zip(base.maps, base.models, strict=True)]
        back = [A.adjoint(e) for A, e in zip(base.maps, off, strict=True)]
        together = [(back[k] * back[l]).flatten(1).sum(1) for k, l in pairs]
        return [(e**2).flatten(1).mean(1) for e in off] + together

    means = (yield Wanted(errors, key, draws)).mean
    base.error.copy_(means[:K])
    covariance = torch.diag_embed(means[:K].T).permute(1, 2, 0).contiguous()
    shared = common(base.maps)
    for (k, l), row in zip(pairs, means[K:], strict=True):
        covariance[k, l] = covariance[l, k] = row / shared[k, l] if shared[k, l] > 1e-6 else 0.0
    if base.shares is not None:
        base.shares.set(covariance, base.config.bins.centres(), [view.least for view in base.config.views])
    base.stack.copy_((yield from _stack(base, key, draws)))
    base.scale.copy_((yield from _left(base, key.fold("scale"), draws)))
    return covariance


def _stack(base: Base, key: Key, draws: int) -> Calibration[Tensor]:
    """The a (directions, bins) that makes Σ a_k direction_k nearest to x₀ − D in each bin, by ridge regression."""
    return Products.of((yield Wanted(products(base), key, draws)).mean).best().T.float()


def products(base: Base, without: int | None = None) -> Measure:
    """What the regression along a base's directions needs, `without` one group of views, as rows for `Products`."""

    def of(clean: Tensor, x: Tensor, sigma: Tensor) -> list[Tensor]:
        shown = base.shown(x, sigma)
        mean = base.combine(x, sigma, shown, without=without)
        ways = torch.stack([way.flatten(1) for way in base.directions(mean, x, sigma, shown, without)])
        grams = torch.einsum("kbn,lbn->klb", ways, ways).flatten(0, 1)
        left = (clean - mean).flatten(1)
        return [*grams, *torch.einsum("kbn,bn->kb", ways, left), (left**2).sum(1)]

    return of


@dataclass(frozen=True)
class Products:
    """Mean products a bin: G (bins, n, n) of directions, b (bins, n) of them and what is left, e (bins,) of that."""

    G: Tensor
    b: Tensor
    e: Tensor

    @classmethod
    def of(cls, rows: Tensor) -> Products:
        """From means (n² + n + 1, bins)."""
        n = math.isqrt(len(rows))
        grams, wanted, energy = rows.T.split([n**2, n, 1], dim=1)
        return cls(grams.reshape(-1, n, n), wanted, energy[:, 0])

    def best(self) -> Tensor:
        """The coefficients a (bins, n).

        The ridge is in units of what is to be explained: views that agree with each other can explain nothing.
        """
        ridge = RIDGE * self.e[:, None, None] * torch.eye(self.b.shape[1])
        return torch.linalg.solve(self.G + ridge, self.b[..., None])[..., 0]

    def error(self) -> Tensor:
        """What the best coefficients leave (bins,), summed over an image."""
        a = self.best()
        return self.e - 2 * (a * self.b).sum(1) + torch.einsum("bk,bkl,bl->b", a, self.G, a)


def residual_scale(base: Base, x0: Tensor, ids: Sequence[str], key: Key, draws: int = 8) -> Tensor:
    """c_r (bins,): the root of the base's mean-square error per pixel."""
    return here(_left(base, key, draws), base.config.bins, x0, ids)


def _left(base: Base, key: Key, draws: int) -> Calibration[Tensor]:
    def error(clean: Tensor, x: Tensor, sigma: Tensor) -> list[Tensor]:
        return [((base(x, sigma) - clean) ** 2).flatten(1).mean(1)]

    return (yield Wanted(error, key, draws)).mean[0].sqrt().float()


def gates(base: Base, residual: Residual, x0: Tensor, ids: Sequence[str], key: Key, draws: int = 8) -> Tensor:
    """How far to go along ρ = c_r F, from x0 (B, *), at least two images that did not train F: g (bins,) in [0, 1].

    The best step is ⟨x₀ − D_base, ρ⟩/⟨ρ, ρ⟩; a few images know it only so well, so one standard error is taken off it
    (the jackknife's, over up to FOLDS groups of images), and what cannot be told from no use is not used.

    Raises ValueError when there are fewer than two images.
    """
    if len(x0) < 2:
        raise ValueError(f"gates need at least 2 held-out images, got {len(x0)}: hold out more")

    def products(clean: Tensor, x: Tensor, sigma: Tensor) -> list[Tensor]:
        seen = base.see(x, sigma)
        unit = base.config.bins.read(base.scale, sigma)
        rho = expand(unit, x) * residual(x, sigma, seen, unit)
        return [((clean - seen.mean) * rho).flatten(1).sum(1), (rho**2).flatten(1).sum(1)]

    groups = [g for g in np.array_split(np.arange(len(x0)), FOLDS) if len(g)]
    folds = [
        measure(products, x0[g[0] : g[-1] + 1], ids[g[0] : g[-1] + 1], base.config.bins, key, draws).total
        for g in groups
    ]
    total = torch.stack(folds).sum(0)

    def step(sums: Tensor) -> Tensor:
        return sums[0] / sums[1].clamp_min(1e-20)

    without = torch.stack([step(total - fold) for fold in folds])
    n = len(folds)
    error = ((n - 1) / n * ((without - without.mean(0)) ** 2).sum(0)).sqrt()
    return (step(total) - error).clamp(0, 1).float()


def _noised(x0: Tensor, ids: Sequence[str], key: Key, draws: int, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Noise and images, every image `draws` times, in batches of about `batch` rows however few images there are."""
    images = max(1, batch // draws)
    for start in range(0, len(x0), images):
        clean, names = x0[start : start + images], ids[start : start + images]
        shape = (draws, *clean.shape[1:])
        z = torch.cat([torch.randn(shape, generator=key.fold("calibrate", name).torch()) for name in names])
        yield z.to(clean), clean.repeat_interleave(draws, 0)
