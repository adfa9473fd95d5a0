"""Corrupt: part of an ingested set, seen through a corruption; the clean originals stay behind.

Which rows a part has is a pure function of their ids: ranked by a keyed hash, a part is a range of ranks. Parts with
one seed and ranges that do not meet have no image in common.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from pipeline.data.records import Examples
from pipeline.data.shards import read_shard
from pipeline.engine.shards import map_shards
from pipeline.graph import Context, Stage, Step
from pipeline.keys import Key
from pipeline.physics.corruption import Clean, Corruption, corrupt
from pipeline.store import Artifact
from stages.ingest import describe


@dataclass(frozen=True)
class Part:
    """The rows whose ids have rank `first` to `first + count - 1` (None: to the end) under the key `seed`."""

    first: int = 0
    count: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.first < 0 or (self.count is not None and self.count < 1):
            raise ValueError(f"first is {self.first} and count is {self.count}: give first >= 0 and count >= 1")

    def choose(self, ids: list[str]) -> list[int]:
        """The positions of the part's rows among `ids`, ascending. Raises: ValueError: there are too few."""
        ranked = sorted(range(len(ids)), key=lambda i: (Key(self.seed).fold("split", ids[i]).bits(), ids[i]))
        end = len(ids) if self.count is None else self.first + self.count
        if end > len(ids) or self.first >= end:
            raise ValueError(
                f"there are {len(ids)} images and part {self.first}..{end - 1} was asked for: "
                "ask for fewer clean images or fewer a view"
            )
        return sorted(ranked[self.first : end])


@dataclass(frozen=True)
class Corrupt(Stage):
    """Rows (id, y, operator row) with y = A x0 + noise z, keyed by (seed, id)."""

    data: Step
    part: Part = Part()
    corruption: Corruption = Clean()
    seed: int = 0

    def run(self, at: Context) -> None:
        clean = at.open(self.data)
        described = clean.json("dataset.json")
        damage = described.get("damage", [])
        if damage and not isinstance(self.corruption, Clean):
            raise ValueError(
                f"these images arrived already damaged ({', '.join(damage)} beside them): take them as they are, or "
                "ingest undamaged ones to corrupt"
            )
        ids = clean.json("ids.json")
        chosen = set(self.part.choose([i for group in ids.values() for i in group]))
        pieces, start = [], 0
        for name, group in ids.items():
            rows = tuple(i - start for i in range(start, start + len(group)) if i in chosen)
            start += len(group)
            if rows:
                pieces.append((name, rows))
        shape = tuple(described["shape"])
        reports = map_shards(partial(_corrupt, self, clean, keeps_bytes(self.corruption, shape)), pieces, at)
        shown = self.corruption.out_shape(shape)
        dtype = "uint8" if keeps_bytes(self.corruption, shape) else "float16"
        describe(at.out, reports, shown, dtype, {"damage": damage} if damage else {})


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
    return Examples.concat([read_shard(data.file(shard["name"])) for shard in data.json("dataset.json")["shards"]])


def _corrupt(
    stage: Corrupt, clean: Artifact, uint8: bool, piece: tuple[str, tuple[int, ...]]
) -> tuple[Examples, dict[str, Any]]:
    name, rows = piece
    seen = read_shard(clean.file(name)).take(np.asarray(rows))
    y, operator = corrupt(stage.corruption, seen.x(), seen.ids, stage.seed)
    return Examples.from_x(seen.ids, y, seen.label, seen.operator | operator, uint8, seen.caption), {}
