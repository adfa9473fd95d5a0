"""Bands: rows that hold noise of their own are looked at only at levels above it, and the levels are drawn first.

A row measured at noise s teaches at σ > s alone. To draw the row first, and then to clamp its σ or draw it anew, would
spend fewer steps at low levels than `Levels` asks for. Here σ comes first: floors and ceilings of all sets cut its
distribution into bands, a band takes as many of the positions in the order as it has mass, and shares them among the
sets that may teach there, by their weights. Which position belongs to which band and set is the pattern of a mixture
(`mix.py`), so any position is found in O(1). Levels at which no set may teach are left out. ("How much is a noisy image
worth?", Daras et al., arXiv 2411.02780, clamps; "Ambient Diffusion Omni", Daras et al., arXiv 2506.10038, draws σ and
then rows until one may teach, which has the law of what is done here.)
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.data.mix import Mixed
from pipeline.data.reader import Reader, Rows, Telling
from pipeline.diffusion.levels import Levels
from pipeline.keys import Key
from pipeline.objectives.objective import Batch

FLOOR, LOW, HIGH = "floor", "low", "high"
FINEST = 10_000  # positions of which a cell has a whole number
GROUPS = 8  # at least, into which many rows with noise of their own are divided, by how much that is
WIDEST = 1.5  # the largest noise of a group over the least: its noisiest row says where all of it teach
log = logging.getLogger("kintsugi")


@dataclass(frozen=True)
class Allowed:
    """Where the rows of one set may teach, σ in [low, high], and their weight among others that may.

    What is `spare` may have no position at all; of other sets that is refused.
    """

    low: float = 0.0
    high: float = math.inf
    weight: float = 1.0
    spare: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high or not 0 < self.weight < math.inf:
            raise ValueError(f"{self} is no range of noise levels: give 0 <= low < high and a weight above 0.")


@dataclass(frozen=True)
class Cell:
    """One set in one band: `count` of every FINEST positions or so, with σ between two quantiles of the levels."""

    set: int
    low: float
    high: float
    count: int


def cells(allowed: Sequence[Allowed], levels: Levels) -> tuple[Cell, ...]:
    """The bands' shares of the positions among the sets, in the order of σ.

    Raises ValueError where no level is left for any set.
    """
    ends = [tuple(levels.share_below(math.log(end)) if end else 0.0 for end in (a.low, a.high)) for a in allowed]
    cuts = sorted({0.0, 1.0, *(end for pair in ends for end in pair)})
    shares: list[tuple[int, float, float, float]] = []
    for low, high in itertools.pairwise(cuts):
        able = [k for k, (first, last) in enumerate(ends) if first <= low and high <= last]
        total = sum(allowed[k].weight for k in able)
        shares += [(k, low, high, (high - low) * allowed[k].weight / total) for k in able]
    whole = sum(share for *_, share in shares)
    if not whole:
        raise ValueError("no noise level is left at which any of the rows may teach: they hold more noise than that.")
    counts = [round(FINEST * share / whole) for *_, share in shares]
    for k, range_ in enumerate(allowed):
        if not range_.spare and not any(count for (j, *_), count in zip(shares, counts) if j == k):
            raise ValueError(
                f"a set may teach at σ from {range_.low:.3g} to {range_.high:.3g} only, where next to nothing is "
                "learned: leave it out, or look at the noise that it is said to hold"
            )
    found = [(k, low, high, count) for (k, low, high, _), count in zip(shares, counts) if count]
    shrink = math.gcd(*(count for *_, count in found))
    return tuple(Cell(k, low, high, count // shrink) for k, low, high, count in found)


def grouped(floors: np.ndarray) -> Iterator[tuple[int, int]]:
    """(first, end) of groups of rows, `floors` (N,) being their noise in order: as many in each, or of like noise."""
    first, most = 0, math.ceil(len(floors) / GROUPS)
    while first < len(floors):
        upto = min(floors[min(first + most, len(floors)) - 1], WIDEST * floors[first])
        end = int(np.searchsorted(floors, upto, side="right"))  # all that hold as much are in one
        yield first, end
        first = end


@dataclass(frozen=True, eq=False)
class Annotated(Telling):
    """Rows that say how much noise they hold and between which quantiles of the levels they are looked at.

    The columns "floor", "low" and "high" (B,) float64 come along; `floors` (N,) are the rows' own, or one for all.
    """

    floors: np.ndarray | float
    low: float
    high: float

    @property
    def columns(self) -> tuple[str, ...]:
        return (*self.rows.columns, FLOOR, LOW, HIGH)

    def spans(self, seed: int, spans: Iterable[tuple[int, int]]) -> Iterator[Rows]:
        for rows in self.rows.spans(seed, spans):
            floor = self.floors[rows.index] if isinstance(self.floors, np.ndarray) else self.floors
            more = {FLOOR: floor, LOW: self.low, HIGH: self.high}
            wide = {name: np.broadcast_to(np.asarray(value, np.float64), len(rows)) for name, value in more.items()}
            yield Rows(rows.index, rows.images, rows.columns | wide)


Part = tuple[Reader, np.ndarray | float, Allowed]


def heard(sets: Sequence[Part], levels: Levels) -> list[Part]:
    """Those of the sets that have a position; what is left out of spare ones is said."""
    taken = {cell.set for cell in cells([allowed for *_, allowed in sets], levels)}
    for rows, _, where in (each for k, each in enumerate(sets) if k not in taken):
        log.warning(
            "%d rows, such as %s, teach from σ = %.3g only, where next to nothing is learned, and are left out: look "
            "at the noise they are said to hold",
            *(len(rows), rows.ids(range(1))[0], where.low),
        )
    return [each for k, each in enumerate(sets) if k in taken]


def banded(sets: Sequence[Part], levels: Levels) -> Mixed:
    """(rows, floors, where they may teach) of every set as one reader, every row annotated."""
    found = cells([allowed for *_, allowed in sets], levels)
    parts = tuple(Annotated(sets[cell.set][0], sets[cell.set][1], cell.low, cell.high) for cell in found)
    return Mixed(parts, tuple(cell.count for cell in found))


def levelled(levels: Levels, rows: Rows, key: Key, batch: Batch) -> Tensor:
    """σ (B,) float32 of annotated rows, each within its band, drawn for the global batch of `batch`."""
    u = levels.uniforms(batch.whole, key)[batch.offset : batch.offset + len(rows)]
    low, high = rows.columns[LOW], rows.columns[HIGH]
    inside = torch.from_numpy(low + (high - low) * u).clamp(2.0**-53, 1 - 2.0**-53)
    return levels.quantile(inside).exp().float()
