"""Census: what a set of images holds, in statistics that add up: census(a) + census(b) = census(a and b).

Every number is an integer, so that sums are exact and the census of a set is the same whatever it was cut into and in
whichever order the parts were counted. Real numbers v are counted in units of 2⁻²⁴: half precision is exact in them,
and 8-bit values u/127.5 − 1 are off by 2⁻²⁵ at most. The space is bounded: of more than `KEPT` different values a tally
keeps those whose hashes are smallest, with exact counts, and the sum of the others.
"""

from __future__ import annotations

import functools
import hashlib
import heapq
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from pipeline.data.records import Examples

KEPT = 4096  # different values that a tally keeps
UNIT = 1 << 24
COLOURS = {1: ("grey",), 3: ("red", "green", "blue")}


@dataclass(frozen=True)
class Tally:
    """How often each value occurs: `counts` of those kept, `rest` of the others together."""

    counts: Mapping[str, int] = field(default_factory=dict)
    rest: int = 0

    @classmethod
    def of(cls, counts: Mapping[str, int]) -> Self:
        """The tally of these counts, bounded."""
        counts = {value: int(count) for value, count in counts.items() if count}
        if len(counts) <= KEPT:
            return cls(counts)
        kept = heapq.nsmallest(KEPT, counts, key=_hash)
        return cls({value: counts[value] for value in kept}, sum(counts.values()) - sum(counts[v] for v in kept))

    def __add__(self, other: Tally) -> Tally:
        both = {v: self.counts.get(v, 0) + other.counts.get(v, 0) for v in {*self.counts, *other.counts}}
        added = Tally.of(both)
        return Tally(added.counts, self.rest + other.rest + added.rest)

    @property
    def total(self) -> int:
        """Of all values."""
        return sum(self.counts.values()) + self.rest

    def most(self, count: int = 8) -> dict[str, int]:
        """The most frequent values that were kept."""
        return dict(sorted(self.counts.items(), key=lambda item: (-item[1], item[0]))[:count])


@dataclass(frozen=True)
class Moments:
    """Number, sum, sum of squares, least and greatest of numbers, each as a multiple of 1 / UNIT."""

    count: int = 0
    total: int = 0
    squares: int = 0
    low: int | None = None
    high: int | None = None

    @classmethod
    def of(cls, values: np.ndarray, times: np.ndarray | None = None) -> Self:
        """The moments of finite reals; `times` says how often each occurs."""
        values = np.asarray(values, np.float64).ravel()
        if not values.size:
            return cls()
        units = [int(k) for k in np.rint(values * UNIT)]
        often = [1] * len(units) if times is None else [int(n) for n in times]
        total, squares = (sum(n * k**p for k, n in zip(units, often, strict=True)) for p in (1, 2))
        return cls(sum(often), total, squares, min(units), max(units))

    def __add__(self, other: Moments) -> Moments:
        lows = [k for k in (self.low, other.low) if k is not None]
        highs = [k for k in (self.high, other.high) if k is not None]
        sums = (self.count + other.count, self.total + other.total, self.squares + other.squares)
        return Moments(*sums, min(lows, default=None), max(highs, default=None))

    @property
    def mean(self) -> float:
        """NaN where there are no numbers."""
        return self.total / self.count / UNIT if self.count else math.nan

    @property
    def std(self) -> float:
        """Of the numbers themselves, not an estimate of a population's."""
        if not self.count:
            return math.nan
        return math.sqrt(self.squares * self.count - self.total**2) / self.count / UNIT

    @property
    def range(self) -> tuple[float, float]:
        """Least and greatest."""
        return (math.nan, math.nan) if self.low is None or self.high is None else (self.low / UNIT, self.high / UNIT)


@dataclass(frozen=True)
class Census:
    """Tallies and moments by name; what one lacks counts as nothing. `Census()` is the census of no rows."""

    tallies: Mapping[str, Tally] = field(default_factory=dict)
    moments: Mapping[str, Moments] = field(default_factory=dict)

    def __add__(self, other: Census) -> Census:
        return Census(
            {n: self.tally(n) + other.tally(n) for n in {*self.tallies, *other.tallies}},
            {n: self.numbers(n) + other.numbers(n) for n in {*self.moments, *other.moments}},
        )

    def tally(self, name: str) -> Tally:
        """An empty one where there is none."""
        return self.tallies.get(name, Tally())

    def numbers(self, name: str) -> Moments:
        """Empty ones where there are none."""
        return self.moments.get(name, Moments())

    @property
    def rows(self) -> int:
        """How many images were counted."""
        return self.tally("size").total

    def json(self) -> dict[str, Any]:
        """As JSON values; `Census.read` is the inverse."""
        return {
            "tallies": {n: [dict(sorted(t.counts.items())), t.rest] for n, t in sorted(self.tallies.items())},
            "moments": {
                n: [m.count, m.total, m.squares, m.low, m.high] for n, m in sorted(self.moments.items()) if m.count
            },
        }

    @classmethod
    def read(cls, said: Mapping[str, Any]) -> Self:
        """From the values that `json` gave."""
        tallies = {name: Tally(*parts) for name, parts in said["tallies"].items()}
        return cls(tallies, {name: Moments(*parts) for name, parts in said["moments"].items()})


def look(rows: Examples, kinds: Mapping[str, Mapping[str, int]] | None = None) -> Census:
    """The census of rows of one shape: sizes, pixels, labels, captions, and images of one colour throughout.

    `kinds` are further tallies, such as how the rows were stored.
    """
    more = {name: Tally.of(counts) for name, counts in (kinds or {}).items()}
    if not rows.ids:
        return Census(more)
    channels = rows.shape[0]
    names = COLOURS.get(channels, tuple(f"channel {c}" for c in range(channels)))
    flat = rows.images.reshape(len(rows), -1)
    said = {
        "size": {"x".join(map(str, rows.shape[1:])): len(rows)},
        "channels": {str(channels): len(rows)},
        "stored as": {str(rows.images.dtype): len(rows)},
        "constant": {"images": int((flat == flat[:, :1]).all(1).sum())},
        "captions": {"with text": sum(bool(text.strip()) for text in rows.caption)},
        "label": {str(k): int(n) for k, n in zip(*np.unique(rows.label[rows.label >= 0], return_counts=True))},
    }
    pixels = {f"pixels, {name}": _pixels(rows.images[:, c]) for c, name in enumerate(names)}
    ends = sum(m.count for m in pixels.values()), int(_at_the_ends(rows.images))
    said["clipped"] = {"values at an end of 8 bits": ends[1], "other values": ends[0] - ends[1]}
    return Census({name: Tally.of(counts) for name, counts in said.items()} | more, pixels)


def total(parts: Iterable[Census]) -> Census:
    """The sum of many."""
    return functools.reduce(Census.__add__, parts, Census())


def _pixels(images: np.ndarray) -> Moments:
    """Moments of x in units of [-1, 1] images, over the (at most 65,536) different codes there are."""
    byte = images.dtype == np.uint8
    codes = np.ascontiguousarray(images).view(np.uint8 if byte else np.uint16).ravel()
    times = np.bincount(codes)
    found = np.flatnonzero(times)
    values = found / 127.5 - 1 if byte else found.astype(np.uint16).view(np.float16).astype(np.float64)
    return Moments.of(values, times[found])


def _at_the_ends(images: np.ndarray) -> np.integer | int:
    return ((images == 0) | (images == 255)).sum() if images.dtype == np.uint8 else 0


def _hash(value: str) -> bytes:
    return hashlib.blake2b(value.encode("utf-8", "surrogatepass"), digest_size=16, person=b"kintsugi.tally").digest()
