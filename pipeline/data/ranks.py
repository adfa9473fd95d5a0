"""Ranks: the rows that stand at given places of a keyed order, found without holding or sorting all of them.

The order is that of the marks (h, id), where h is 128 bits that the key and the id alone decide. The row of rank r is
found by radix selection: h's first 16 bits are counted over the whole set, the bin in which rank r lies is counted by
its next 16 bits, and so on until the bin is small enough to be listed and sorted. A billion rows take one pass that
counts and one that lists; what is held are 65,536 counts and the marks of one bin.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import IO

import numpy as np

from pipeline.data.ids import Sweep, groups, ids_of
from pipeline.data.manifest import Manifest
from pipeline.keys import Key

Mark = tuple[bytes, str]
MOST = 1 << 18  # marks in a bin that is listed
BYTES = 16  # of a key's bits


@dataclass(frozen=True)
class Between:
    """The rows with low <= mark < high under `key`; `high` None: all from `low` on."""

    key: Key
    low: Mark
    high: Mark | None

    def places(self, ids: Sequence[str]) -> np.ndarray:
        """Where they stand among `ids`, ascending: int64 (*,)."""
        return np.flatnonzero([self.low <= m and (self.high is None or m < self.high) for m in marks(ids, self.key)])


def marks(ids: Sequence[str], key: Key) -> list[Mark]:
    """(bits of the key folded with the id, id) of each."""
    return list(zip(key.bits_of(ids), ids, strict=True))


def between(
    key: Key, first: int, end: int, manifest: Manifest, file: Callable[[str], IO[bytes]], sweep: Sweep, most: int = MOST
) -> Between:
    """The rows of rank first .. end - 1 of a set, 0 <= first < end <= rows; `file` opens its shards by name."""
    items = groups(manifest.filled())
    wanted = [first] if end == manifest.rows else [first, end]

    def count(prefix: bytes) -> np.ndarray:
        return sum(sweep(partial(_counted, file, key, prefix), items), np.zeros(1 << 16, np.int64))

    def listed(prefixes: tuple[bytes, ...]) -> list[Mark]:
        return [mark for found in sweep(partial(_listed, file, key, prefixes), items) for mark in found]

    low, *high = select(wanted, manifest.rows, count, listed, most)
    return Between(key, low, high[0] if high else None)


def select(
    ranks: Sequence[int],
    rows: int,
    count: Callable[[bytes], np.ndarray],
    listed: Callable[[tuple[bytes, ...]], list[Mark]],
    most: int = MOST,
) -> list[Mark]:
    """The marks that have these ranks among all `rows` of them.

    `count` gives int64 (65536,), how many marks begin with some bytes, by the two bytes that follow; `listed` every
    mark that begins with one of several, at most `most` of each.
    """
    count = functools.cache(count)
    bins = []
    for rank in ranks:
        prefix, before, size = b"", 0, rows
        while size > most and len(prefix) < BYTES:
            ends = before + np.cumsum(count(prefix))
            digit = int(np.searchsorted(ends, rank, side="right"))
            before = int(ends[digit - 1]) if digit else before
            size, prefix = int(ends[digit]) - before, prefix + digit.to_bytes(2, "big")
        bins.append((rank - before, prefix))
    found = sorted(listed(tuple(sorted({prefix for _, prefix in bins}))))
    return [[mark for mark in found if mark[0].startswith(prefix)][place] for place, prefix in bins]


def _counted(file: Callable[[str], IO[bytes]], key: Key, prefix: bytes, shards: Sequence[int]) -> np.ndarray:
    total, skip = np.zeros(1 << 16, np.int64), len(prefix)
    for ids in ids_of(file, shards):
        bits = np.frombuffer(b"".join(key.bits_of(ids)), np.uint8).reshape(-1, BYTES)
        here = bits[(bits[:, :skip] == np.frombuffer(prefix, np.uint8)).all(1), skip : skip + 2].astype(np.int64)
        total += np.bincount(here[:, 0] * 256 + here[:, 1], minlength=1 << 16)
    return total


def _listed(
    file: Callable[[str], IO[bytes]], key: Key, prefixes: tuple[bytes, ...], shards: Sequence[int]
) -> list[Mark]:
    return [mark for ids in ids_of(file, shards) for mark in marks(ids, key) if mark[0].startswith(prefixes)]
