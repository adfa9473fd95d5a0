"""Corrupt: part of an ingested set, seen through a corruption; the clean originals stay behind.

Which rows a part has is a pure function of their ids: ranked by a keyed hash, a part is a range of ranks. Parts with
one seed and ranges that do not meet have no image in common. The two rows at a part's ends are found first
(`pipeline/data/ranks.py`); then whoever holds a row knows whether it is in the part.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch

from pipeline.data.damaged import HIDES, NOISY
from pipeline.data.declared import SEEN_THROUGH
from pipeline.data.ids import Sweep, groups, ids_of
from pipeline.data.manifest import Manifest, name
from pipeline.data.ranks import Between, between
from pipeline.data.records import Examples
from pipeline.data.shards import read_shard
from pipeline.engine.shards import map_shards
from pipeline.engine.tasks import sweep
from pipeline.graph import Context, Stage, Step
from pipeline.keys import Key
from pipeline.physics.corruption import Clean, Corruption, corrupt
from pipeline.store import Artifact, Store
from stages.ingest import Ingest

WIDEST = 1024  # shards of which a piece gathers its rows, at most


@dataclass(frozen=True)
class Part:
    """The rows whose ids have rank `first` to `first + count - 1` (None: to the end) under the key `seed`."""

    first: int = 0
    count: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.first < 0 or (self.count is not None and self.count < 1):
            raise ValueError(f"first is {self.first} and count is {self.count}: give first >= 0 and count >= 1")

    def end(self, rows: int) -> int:
        """The rank behind the part's last, in a set of `rows`. Raises: ValueError: there are too few."""
        end = rows if self.count is None else self.first + self.count
        if end > rows or self.first >= end:
            asked = f"part {self.first}..{end - 1} was asked for"
            left = f"none is left after the first {self.first}" if self.count is None else asked
            raise ValueError(
                f"there are {rows} images and {left}: ask for fewer (clean images, images a view, or a view's count)"
            )
        return end

    def of(self, manifest: Manifest, data: Artifact, sweep: Sweep) -> Between:
        """Which rows of a set are the part's."""
        key = Key(self.seed).fold("split")
        return between(key, self.first, self.end(manifest.rows), manifest, data.place.open, sweep)


def rows_of(data: Step, store: Store) -> int | None:
    """How many rows a set has, or will have, if that is known without reading any. Raises ValueError as `Part.end`."""
    if store.has(data):
        return Manifest.open(store.artifact(data.address).file).rows
    if isinstance(data.stage, Ingest):
        return data.stage.source.count()
    if not isinstance(data.stage, Corrupt):
        return None
    rows, part = rows_of(data.stage.data, store), data.stage.part
    return part.count if rows is None else part.end(rows) - part.first


@dataclass(frozen=True)
class Corrupt(Stage):
    """Rows (id, y, operator row) with y = A x0 + noise z, keyed by (seed, id).

    `dataset.json` says whether something is hidden (`HIDES`) and whether there is noise (`NOISY`), for whoever trains.
    """

    version: ClassVar[int] = 2  # 2: shards.npy, and few rows of many shards packed into one

    data: Step
    part: Part = Part()
    corruption: Corruption = Clean()
    seed: int = 0

    def check(self, store: Store) -> None:
        rows = rows_of(self.data, store)
        if rows is not None:
            self.part.end(rows)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one row."""
        return tuple(self.corruption.out_shape(shape_of(self.data)))

    def run(self, at: Context) -> None:
        clean = at.open(self.data)
        told = Manifest.open(clean.file)
        damage = told.more.get("damage", [])
        if damage and not isinstance(self.corruption, Clean):
            raise ValueError(
                f"these images arrived already damaged ({', '.join(damage)}): take them as they are, or ingest "
                "undamaged ones to corrupt"
            )
        shown = self.corruption.out_shape(told.shape)
        uint8 = told.dtype == "uint8" and keeps_bytes(self.corruption, told.shape)
        chosen = self.part.of(told, clean, partial(sweep, at=at))
        size = self.part.end(told.rows) - self.part.first
        pieces = groups(told.filled(), min(told.rows // size, WIDEST))
        counts = map_shards(partial(_corrupt, self, clean, uint8, chosen), pieces, at)
        more = {name: told.more[name] for name in ("damage", SEEN_THROUGH, HIDES, NOISY) if name in told.more}
        more |= {HIDES: True} if self.corruption.hides(told.shape) else {}
        more |= {} if self.corruption.noiseless else {NOISY: True}
        Manifest.of(counts, shown, "uint8" if uint8 else "float16", more).write(at.out)


def shape_of(data: Step) -> tuple[int, ...]:
    """The shape of one row of what a step of this project will make."""
    return tuple(data.stage.shape)  # pyright: ignore[reportAttributeAccessIssue]


def keeps_bytes(corruption: Corruption, shape: tuple[int, ...]) -> bool:
    """Whether what the corruption shows of 8-bit images is again 8-bit: found out on one random image.

    An operator or noise that is drawn for each row could do to the next what it did not do to this one: False.
    """
    if not corruption.noiseless:
        return False
    u = Key(0).fold("probe").numpy().integers(0, 256, (1, *shape))
    y, drawn = corrupt(corruption, torch.from_numpy(u).float() / 127.5 - 1, ["probe"], 0)
    v = (y + 1) * 127.5
    return not drawn and bool(((v - v.round()).abs() < 1e-3).all() and v.min() > -0.5 and v.max() < 255.5)


def load(data: Artifact) -> Examples:
    """All rows of a set, in memory."""
    manifest = Manifest.open(data.file)
    return Examples.concat([read_shard(data.file(name(i)), name(i)) for i in manifest.filled().tolist()])


def _corrupt(
    stage: Corrupt, clean: Artifact, uint8: bool, chosen: Between, piece: tuple[int, ...]
) -> tuple[Examples | None, dict[str, Any]]:
    found = []
    for i in piece:
        (ids,) = ids_of(clean.place.open, [i])  # first: most shards have none of a small part's rows
        if len(rows := chosen.places(ids)):
            shard = read_shard(clean.file(name(i)), name(i))
            if list(shard.ids) != ids:
                raise ValueError(f"{name(i)} of {clean.address} changed while it was read: run again")
            found.append(shard.take(rows))
    if not found:
        return None, {}
    seen = Examples.concat(found)
    y, operator = corrupt(stage.corruption, seen.x(), seen.ids, stage.seed)
    return Examples.from_x(seen.ids, y, seen.label, seen.operator | operator, uint8, seen.caption), {}
