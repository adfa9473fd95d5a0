"""Precision, recall, density and coverage: how two sets of features lie among each other's nearest neighbours.

The ball of a row reaches to its k-th nearest neighbour in its own set. Of M samples and N real rows,

    precision = share of samples in some real ball,          recall = share of real rows in some sample's ball,
    density   = (1/kM) Σ_j |{real balls that hold sample j}|, coverage = share of real balls that hold some sample

(Kynkäänniemi et al., "Improved precision and recall metric", 2019; Naeem et al., "Reliable fidelity and diversity
metrics", 2020). For two sets of one law density has mean 1, and coverage of large sets

    1 − (N−1)(N−2) … (N−k) / ((M+N−1)(M+N−2) … (M+N−k))

(Naeem et al., eq. 9, exact for every N and M). Without a group, the balls of what is left are those of fewer rows.
These numbers are no smooth functions of the sets, and the jackknife is wide of what they do by up to a half: its
intervals promise at least their level.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.metrics.features import TooFew
from pipeline.metrics.interval import Estimate, estimate, of_share

CHUNK = 1024
SPARE = 16  # neighbours beyond the k-th among which it is looked for, without a group


@dataclass(frozen=True)
class _Held:
    """What balls hold: with all rows (0), without each group of centres (1 .. G), and of points (G+1 .. 2G)."""

    precision: list[float]
    density: list[float]
    coverage: list[float]


def judged(
    made: Tensor, real: Tensor, group_made: Tensor, group_real: Tensor, groups: int, k: int
) -> dict[str, Estimate]:
    """{"precision", "recall", "density", "coverage"} of features (M, n) and (N, n), with intervals.

    Raises TooFew: a set has no more than `least(k)` rows, so that groups could be left out of it.
    """
    for rows in (len(made), len(real)):
        if rows < least(k):
            raise TooFew(f"{k} neighbours need at least {least(k)} images of each set, not {rows}: sample more")
    in_made, in_real = (torch.bincount(g, minlength=groups).tolist() for g in (group_made, group_real))
    there, back = (
        _held(real, made, group_real, group_made, groups, k),
        _held(made, real, group_made, group_real, groups, k),
    )
    found = {}
    for name, values, most in (
        ("precision", there.precision, 1.0),
        ("density", there.density, float("inf")),
        ("coverage", there.coverage, 1.0),
    ):
        without = [(values[1 : groups + 1], in_real), (values[groups + 1 :], in_made)]
        found[name] = estimate(values[0], without, 0.0, most)
    without = [(back.precision[1 : groups + 1], in_made), (back.precision[groups + 1 :], in_real)]
    found["recall"] = estimate(back.precision[0], without, 0.0, 1.0)
    among = {"precision": len(made), "recall": len(real), "density": 0, "coverage": len(real)}
    return {name: of_share(found[name], rows) if rows else found[name] for name, rows in among.items()}


def least(k: int) -> int:
    """How many rows a set must have, so that half of them have k neighbours among themselves."""
    return 2 * (k + 1)


def coverage_of_one_law(k: int, made: int, real: int) -> float:
    """What coverage is on average where samples and real rows are of one law."""
    missed = 1.0
    for i in range(1, k + 1):
        missed *= (real - i) / (made + real - i)
    return 1 - missed


def _held(centres: Tensor, points: Tensor, of_centre: Tensor, of_point: Tensor, groups: int, k: int) -> _Held:
    radii = _radii(centres, of_centre, groups, k)  # (N, G + 1)
    inside = torch.zeros(groups + 1, len(points), dtype=torch.int64)  # balls that hold a point, by group left out
    holds = torch.zeros(len(centres), groups + 1, dtype=torch.bool)
    counts = torch.zeros(len(centres), groups, dtype=torch.float64)
    member = torch.nn.functional.one_hot(of_point, groups).double()
    for start in range(0, len(centres), CHUNK):
        rows = slice(start, start + CHUNK)
        near = _distances(centres[rows], points)
        for g in range(groups + 1):
            hit = (near <= radii[rows, g : g + 1]) & (of_centre[rows, None] != g - 1)
            inside[g] += hit.sum(0)
            holds[rows, g] = hit.any(1)
            if not g:
                counts[rows] = hit.double() @ member
    in_centre = torch.bincount(of_centre, minlength=groups)
    alone = counts.sum(1, keepdim=True) - counts  # (N, G): points in a ball that are not of a group
    left = [len(centres), *(len(centres) - in_centre).tolist()]
    precision = (inside > 0).double().mean(1).tolist()
    density = (inside.double().mean(1) / k).tolist()
    coverage = (holds.sum(0).double() / torch.tensor(left)).tolist()
    for g in range(groups):
        rest = of_point != g
        precision.append(float((inside[0, rest] > 0).double().mean()))
        density.append(float(inside[0, rest].double().mean() / k))
        coverage.append(float((alone[:, g] > 0).double().mean()))
    return _Held(precision, density, coverage)


def _radii(x: Tensor, group: Tensor, groups: int, k: int) -> Tensor:
    """Distance (N, G + 1) to the k-th nearest other row, among all (0) and without each group."""
    radii = torch.empty(len(x), groups + 1, dtype=torch.float64)
    for start in range(0, len(x), CHUNK):
        rows = torch.arange(start, min(start + CHUNK, len(x)))
        near = _distances(x[rows], x)
        near[torch.arange(len(rows)), rows] = torch.inf
        first = near.topk(min(k + SPARE, len(x)), largest=False)
        radii[rows, 0] = first.values[:, k - 1]
        for g in range(groups):
            count = (group[first.indices] != g).cumsum(1)
            there = count[:, -1] >= k
            at = (count >= k).int().argmax(1, keepdim=True)
            radii[rows, g + 1] = first.values.gather(1, at)[:, 0]
            if not bool(there.all()):  # most of the nearest are of the group that is left out
                others = near[~there].masked_fill(group == g, torch.inf)
                radii[rows[~there], g + 1] = others.topk(k, largest=False).values[:, -1]
    return radii


def _distances(a: Tensor, b: Tensor) -> Tensor:
    """(M, N), float64, and exactly 0 between equal rows."""
    a, b = a.double(), b.double()
    size = (a**2).sum(1)[:, None] + (b**2).sum(1)
    square = size - 2 * a @ b.T
    return torch.where(square <= 1e-13 * size, 0.0, square).sqrt()
