"""Mixtures of sets: clean, noisy and restored rows by stated proportions, each set in epochs of its own.

Of every M positions, M the sum of the whole-numbered weights, set k has w_k, and which ones is a pattern that repeats.
The pattern spreads every set evenly: before any position t it has had t w_k / M rows, give or take less than one.
(Row i of set k belongs between positions i M / w_k and (i + 1) M / w_k, and the earliest deadline comes first:
Tijdeman, "The chairman assignment problem", Discrete Mathematics 32, 1980.) How many rows of set k come before t is a
division and a look-up, so that any position is found in O(1), and row j of a set is position j of that set's own order.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np

from pipeline.data.reader import Reader, Rows
from pipeline.data.stream import joined
from pipeline.keys import Key

LONGEST = 100_000  # positions until the pattern repeats


def whole(shares: Sequence[float | Fraction]) -> tuple[int, ...]:
    """The smallest whole numbers in these proportions, decimals taken as they are written: (0.7, 0.3) is (7, 3).

    Raises ValueError for a share that is not positive, or proportions whose pattern would be too long.
    """
    exact = [Fraction(str(share)) if math.isfinite(share) else Fraction(0) for share in shares]
    if not exact or min(exact) <= 0:
        raise ValueError(f"shares are {tuple(shares)}: give every set of a mixture a positive one.")
    scale = math.lcm(*(share.denominator for share in exact))
    counts = [int(share * scale) for share in exact]
    counts = tuple(count // math.gcd(*counts) for count in counts)
    if sum(counts) > LONGEST:
        raise ValueError(f"shares {tuple(shares)} repeat after {sum(counts)} rows only; round them to fewer digits.")
    return counts


@dataclass(frozen=True)
class Pattern:
    """Which set each position belongs to: `weights[k]` of every sum(weights) to set k."""

    weights: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.weights or min(self.weights) < 1 or sum(self.weights) > LONGEST:
            raise ValueError(f"weights are {self.weights}: give positive whole numbers, {LONGEST} in all at most.")

    @cached_property
    def period(self) -> np.ndarray:
        """The set int64 (M,) of each of the first M positions."""
        total, had, out = sum(self.weights), [0] * len(self.weights), []
        for t in range(total):
            # Row `had` of set k is due in [had M / w, (had + 1) M / w); whole numbers keep the comparison exact.
            open_ = [k for k, w in enumerate(self.weights) if had[k] * total < (t + 1) * w]
            chosen = min(open_, key=lambda k: (-(-(had[k] + 1) * total // self.weights[k]), k))
            had[chosen] += 1
            out.append(chosen)
        return np.array(out)

    @cached_property
    def _before(self) -> np.ndarray:
        each = self.period[:, None] == np.arange(len(self.weights))
        return np.concatenate([np.zeros((1, each.shape[1]), np.int64), np.cumsum(each, 0)])

    def counts(self, position: int) -> list[int]:
        """How many rows of each set come before a position."""
        rounds, place = divmod(position, sum(self.weights))
        return [rounds * w + int(n) for w, n in zip(self.weights, self._before[place])]

    def sets(self, start: int, count: int) -> np.ndarray:
        """The sets int64 (count,) of positions start .. start + count − 1."""
        return self.period[(start + np.arange(count)) % sum(self.weights)]


@dataclass(frozen=True, eq=False)
class Mixed(Reader):
    """Rows of several sets of one image shape, by `weights` as whole numbers (`whole` makes them of shares).

    Row i of set k has index `firsts[k]` + i. Sets of other dtypes than each other are given as x, in float32. An epoch,
    as far as `len` tells, is as many rows as there are in all sets.

    Raises ValueError where the sets do not go together.
    """

    sets: tuple[Reader, ...]
    weights: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.sets) != len(self.weights):
            raise ValueError(f"There are {len(self.sets)} sets and {len(self.weights)} weights; give one for each.")
        if len(shapes := sorted({each.shape for each in self.sets})) > 1:
            raise ValueError(f"The sets have images of shapes {', '.join(map(str, shapes))}; bring them to one first.")
        if len({tuple(each.columns) for each in self.sets}) > 1:
            raise ValueError("The sets are read with different columns; ask all of them for the same ones.")
        _ = self.pattern  # its complaints are due now

    @cached_property
    def pattern(self) -> Pattern:
        """Which set has which position."""
        return Pattern(self.weights)

    @property
    def columns(self) -> tuple[str, ...]:
        return self.sets[0].columns

    @property
    def firsts(self) -> list[int]:
        """The index of each set's first row."""
        return np.cumsum([0, *map(len, self.sets)])[:-1].tolist()

    @property
    def shape(self) -> tuple[int, ...]:
        return self.sets[0].shape

    def __len__(self) -> int:
        return sum(map(len, self.sets))

    def ids(self, index: Sequence[int]) -> list[str]:
        sets = np.searchsorted(self.firsts, index, side="right") - 1
        return [self.sets[k].ids([i - self.firsts[k]])[0] for k, i in zip(sets, index, strict=True)]

    def spans(self, seed: int, spans: Iterable[tuple[int, int]]) -> Iterator[Rows]:
        asked: list[tuple[int, int]] = [(0, 0)] * len(self.sets)

        def own(k: int) -> Iterator[tuple[int, int]]:
            while True:
                yield asked[k]

        keys = [Key(seed).fold("mix", k).integer() for k in range(len(self.sets))]
        readers = [each.spans(key, own(k)) for k, (each, key) in enumerate(zip(self.sets, keys))]

        def read() -> Iterator[Rows]:
            for first, count in spans:
                begin, end = self.pattern.counts(first), self.pattern.counts(first + count)
                asked[:] = [(b, e - b) for b, e in zip(begin, end)]
                parts = [
                    Rows(rows.index + start, rows.images, rows.columns)
                    for k, start in enumerate(self.firsts)
                    if asked[k][1]
                    for rows in [next(readers[k])]
                ]
                yield _woven(parts, self.pattern.sets(first, count))

        return read()


def _woven(parts: list[Rows], sets: np.ndarray) -> Rows:
    """The rows of the sets, one set after the other, brought to the order in which `sets` has them."""
    if len({part.images.dtype for part in parts}) > 1:
        parts = [Rows(part.index, part.x().numpy(), part.columns) for part in parts]
    rows, at = joined(parts), np.argsort(np.argsort(sets, kind="stable"), kind="stable")
    return Rows(rows.index[at], rows.images[at], {name: column[at] for name, column in rows.columns.items()})
