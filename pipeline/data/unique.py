"""Unique: no id of a set occurs twice, found out with eight bytes an id on disk and a few of them in memory.

Every id becomes a 64-bit word (BLAKE2b). Groups of shards write their words in order to `_work/ids/`; the words' range
is cut into buckets of some millions, and of each bucket, merged over all groups, the words that occur more than once
are suspects. Two ids may share a word by chance, so the ids of suspects are read again and compared themselves.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial

import numpy as np

from pipeline.data.ids import Sweep, groups, ids_of
from pipeline.data.listing import shown
from pipeline.data.manifest import Manifest
from pipeline.place import Place

BUCKET = 1 << 22  # words that are sorted at once
SUSPECTS = 1 << 16  # words that are followed up at once


def words(ids: Iterable[str]) -> np.ndarray:
    """uint64 (N,): the word of each id."""
    digests = (hashlib.blake2b(text.encode(), digest_size=8, person=b"kintsugi.ids").digest() for text in ids)
    return np.frombuffer(b"".join(digests), "<u8")


def check_unique(out: Place, manifest: Manifest, sweep: Sweep, bucket: int = BUCKET) -> None:
    """Raises ValueError, with the first of them in order, where ids of the set written to `out` occur twice."""
    shards = groups(manifest.filled())
    parts = -(-manifest.rows // bucket)
    edges = np.array([(k << 64) // parts for k in range(1, parts)], np.uint64)
    ends = np.zeros((len(shards), parts), np.int64)
    for group, found in sweep(partial(_sorted, out, edges), list(enumerate(shards))):
        ends[group] = found
    starts = np.concatenate([np.zeros((len(shards), 1), np.int64), ends[:, :-1]], axis=1)
    pending: list[np.ndarray] = []
    for suspects in sweep(partial(_repeated, out), list(zip(starts.T.tolist(), ends.T.tolist(), strict=True))):
        pending.append(suspects)
        if sum(map(len, pending)) >= SUSPECTS:
            _follow_up(out, np.concatenate(pending), shards, sweep)
            pending = []
    if pending:
        _follow_up(out, np.concatenate(pending), shards, sweep)


def _sorted(out: Place, edges: np.ndarray, item: tuple[int, Sequence[int]]) -> tuple[int, np.ndarray]:
    """Writes the words of a group of shards, and says where each bucket ends among them."""
    group, shards = item
    found = np.sort(np.concatenate([words(ids) for ids in ids_of(out.open, shards)]))
    out.write(_file(group), found.tobytes())
    return group, np.append(np.searchsorted(found, edges), len(found))


def _repeated(out: Place, item: tuple[Sequence[int], Sequence[int]]) -> np.ndarray:
    """The words of one bucket that occur more than once, merged over all groups."""
    parts = []
    for group, (start, end) in enumerate(zip(*item, strict=True)):
        if start < end:
            with out.open(_file(group)) as file:
                file.seek(8 * start)
                parts.append(np.frombuffer(file.read(8 * (end - start)), "<u8"))
    merged = np.sort(np.concatenate(parts)) if parts else np.empty(0, np.uint64)
    return np.unique(merged[1:][merged[1:] == merged[:-1]])


def _follow_up(out: Place, suspects: np.ndarray, shards: Sequence[Sequence[int]], sweep: Sweep) -> None:
    found = Counter[str]()
    for here in sweep(partial(_suspected, out, suspects), shards) if len(suspects) else ():
        found.update(here)
    twice = sorted(text for text, count in found.items() if count > 1)
    if twice:
        more = " or more" if len(suspects) >= SUSPECTS else ""
        raise ValueError(f"{len(twice)}{more} ids occur more than once, such as '{shown(twice[0])}': make them differ")


def _suspected(out: Place, suspects: np.ndarray, shards: Sequence[int]) -> Counter[str]:
    found = Counter[str]()
    for ids in ids_of(out.open, shards):
        found.update(text for text, one in zip(ids, np.isin(words(ids), suspects), strict=True) if one)
    return found


def _file(group: int) -> str:
    return f"_work/ids/{group:06d}"
