"""Intervals: how far a number would move if the images were drawn anew, by the delete-a-group jackknife.

A set of n rows lies in G groups of m_j rows. With θ of all rows, θ_j of all but group j and h_j = n/m_j, the
pseudo-values τ_j = h_j θ − (h_j − 1) θ_j give

    var θ = (1/G) Σ (τ_j − θ_J)² / (h_j − 1),     θ_J = G θ − Σ (1 − m_j/n) θ_j

(Busing, Meijer and van der Leeden, "Delete-m jackknife for unequal m", 1999). The sets are independent, so their
variances add up; the interval is Student's with the degrees of freedom of Welch and Satterthwaite. It is centred on
the number itself: it tells what chance does to it, not the bias that few images give to a distance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

LEVEL = 0.95
SAYS = "95%, delete-a-group jackknife over the images of both sets"
MEAN = "95%, delete-one jackknife over the images"
WILSON = "95%, Wilson score over the samples"
Z = 1.959963984540054  # of the normal law at 97.5%


@dataclass(frozen=True)
class Estimate:
    """A number between two ends; None where there is no telling. `interval` says how they were found."""

    value: float
    low: float | None
    high: float | None
    interval: str = SAYS


Left = tuple[Sequence[float], Sequence[int]]  # a number without each group, and how many rows each group has


def left_out(without: Callable[[int], float], rows: Sequence[int]) -> Left:
    """`without(g)` of every group g that has rows, but not all of them."""
    some = [g for g, count in enumerate(rows) if 0 < count < sum(rows)]
    return [without(g) for g in some], [rows[g] for g in some]


def variance(whole: float, without: Sequence[float], rows: Sequence[int]) -> float:
    """Of θ = `whole`, from `without` (G,), each without the `rows[j]` rows of group j. NaN: fewer than two groups."""
    theta, m = np.asarray(without, np.float64), np.asarray(rows, np.float64)
    theta, m = theta[m > 0], m[m > 0]
    if len(m) < 2:
        return math.nan
    h = m.sum() / m
    centre = len(m) * whole - ((1 - 1 / h) * theta).sum()
    return float((((h * whole - (h - 1) * theta - centre) ** 2) / (h - 1)).mean())


def estimate(
    whole: float,
    without: Sequence[Left],
    low: float = -math.inf,
    high: float = math.inf,
) -> Estimate:
    """The number with its interval, which ends at `low` and `high`, the ends of its range.

    `without` is of each set.
    """
    from scipy.special import stdtrit

    parts = [(variance(whole, theta, rows), sum(m > 0 for m in rows) - 1) for theta, rows in without]
    spread = sum(v for v, _ in parts)
    if not math.isfinite(spread):
        return Estimate(whole, None, None)
    weights = sum(v * v / free for v, free in parts)
    free = spread**2 / weights if weights else min(free for _, free in parts)
    half = float(stdtrit(free, (1 + LEVEL) / 2)) * math.sqrt(spread)
    return Estimate(whole, max(low, whole - half), min(high, whole + half))


def of_share(found: Estimate, among: int) -> Estimate:
    """The estimate of a share, with an interval that is never narrower than Wilson's of as many independent rows.

    Where all rows agree no group makes a difference, and the jackknife alone would say that nothing is left to chance.
    """
    if found.low is None or found.high is None:
        return found
    alone = share(round(found.value * among), among)
    return Estimate(
        found.value, min(found.low, alone.low or 0.0), max(found.high, alone.high or 0.0), f"{SAYS}; at least Wilson's"
    )


def mean(values: Sequence[float]) -> Estimate:
    """That of independent numbers; of a mean the jackknife that leaves out one at a time is known: s/√n."""
    from scipy.special import stdtrit

    found, n = np.asarray(values, np.float64), len(values)
    if n < 2:
        return Estimate(float(found.mean()), None, None, MEAN)
    half = float(stdtrit(n - 1, (1 + LEVEL) / 2)) * float(found.std(ddof=1)) / math.sqrt(n)
    return Estimate(float(found.mean()), float(found.mean()) - half, float(found.mean()) + half, MEAN)


def share(count: int, among: int) -> Estimate:
    """A share of independent rows, by Wilson (1927), whose interval has a width even where the share is 0 or 1."""
    p, z2 = count / among, Z * Z
    centre = (p + z2 / (2 * among)) / (1 + z2 / among)
    half = Z / (1 + z2 / among) * math.sqrt(p * (1 - p) / among + z2 / (4 * among * among))
    low, high = (0.0 if not count else centre - half), (1.0 if count == among else centre + half)
    return Estimate(p, max(0.0, low), min(1.0, high), WILSON)
