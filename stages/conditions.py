"""Conditions: the labels or captions of a set, some of them told wrong; which ones and how, the seed and the id decide.

A swapped label or caption is another row's, from a pool: the `pool` rows of the lowest ranks under a key of their own.
So the pool is a pure function of the seed and of the set's ids, the same for every worker and however the set is cut
into shards, and what is held is the pool and one shard. A set of no more rows than the pool is its own pool.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from typing import Any

import numpy as np

from pipeline.data.ids import groups, ids_of
from pipeline.data.manifest import Manifest, name
from pipeline.data.ranks import Between, Mark, between, marks
from pipeline.data.records import Examples
from pipeline.data.shards import read_shard
from pipeline.engine.shards import Report, map_shards
from pipeline.engine.tasks import sweep
from pipeline.graph import Context, Stage, Step
from pipeline.keys import Key
from pipeline.physics.conditions import Condition, LabelError, Swap, TokenRemoval, worsen
from pipeline.store import Artifact
from stages.corrupt import shape_of


class Told(Enum):
    """What is told of an image."""

    LABEL = "label"
    CAPTION = "caption"


NOTHING = {Told.LABEL: -1, Told.CAPTION: ""}


@dataclass(frozen=True)
class Worsen(Stage):
    """The rows of `data`, with what is told of them wrong by `condition.ratio`, keyed by (seed, id).

    The operator column "wrong_label" or "wrong_caption" (bool) says where; what was right is not kept. Rows without a
    label or caption stay without.
    """

    data: Step
    condition: Condition
    told: Told = Told.LABEL
    seed: int = 0
    pool: int = 4096

    def __post_init__(self) -> None:
        unfit = TokenRemoval if self.told is Told.LABEL else LabelError
        if isinstance(self.condition, unfit):
            raise ValueError(
                f"{type(self.condition).__name__} is not for a {self.told.value}: choose another condition"
            )
        if self.pool < 2:
            raise ValueError(f"pool is {self.pool}: give the number of rows to swap with, at least 2")

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one row."""
        return shape_of(self.data)

    def run(self, at: Context) -> None:
        data = at.open(self.data)
        manifest = Manifest.open(data.file)
        pool = self.swaps(data, manifest, at) if isinstance(self.condition, Swap) else []
        known = wrong = 0

        def heed(report: Report) -> None:
            nonlocal known, wrong
            known, wrong = known + report["known"], wrong + report["wrong"]

        pieces = manifest.filled().tolist()
        counts = map_shards(partial(_worsen, self, data, pool), pieces, at, heed)
        if not known:
            raise ValueError(f"no row has a {self.told.value} that could be told wrong: give {self.told.value}s")
        more = manifest.more | {self.column: {"known": known, "wrong": wrong, "ratio": self.condition.ratio}}
        Manifest.of(counts, manifest.shape, manifest.dtype, more).write(at.out)

    @property
    def column(self) -> str:
        """The operator column that says which rows are told wrong."""
        return f"wrong_{self.told.value}"

    def swaps(self, data: Artifact, manifest: Manifest, at: Context) -> list[Any]:
        """The pool's labels or captions, by rank."""
        key, swept = Key(self.seed).fold("pool", self.told.value), partial(sweep, at=at)
        rows = between(key, 0, min(self.pool, manifest.rows), manifest, data.place.open, swept)
        found = [
            one for part in swept(partial(_chosen, data, rows, self.told), groups(manifest.filled())) for one in part
        ]
        return [value for _, value in sorted(found) if value != NOTHING[self.told]]


def _values(shard: Examples, told: Told) -> list[Any]:
    return shard.label.tolist() if told is Told.LABEL else list(shard.caption) or [""] * len(shard)


def _chosen(data: Artifact, rows: Between, told: Told, shards: tuple[int, ...]) -> list[tuple[Mark, Any]]:
    """(mark, label or caption) of the rows that are in the pool."""
    found = []
    for i, ids in zip(shards, ids_of(data.place.open, shards), strict=True):
        if len(places := rows.places(ids)):
            here = read_shard(data.file(name(i)), name(i)).take(places)
            found += zip(marks(here.ids, rows.key), _values(here, told), strict=True)
    return found


def _worsen(stage: Worsen, data: Artifact, pool: list[Any], i: int) -> tuple[Examples, Report]:
    shard = read_shard(data.file(name(i)), name(i))
    if stage.column in shard.operator:
        raise ValueError(f"every {stage.told.value} of {data.address} was told wrong already: take the set before that")
    values = _values(shard, stage.told)
    known = [k for k, value in enumerate(values) if value != NOTHING[stage.told]]
    seed = Key(stage.seed).fold("told", stage.told.value).integer()  # labels and captions lie independently
    told = list(values)
    lies = worsen(stage.condition, [values[k] for k in known], [shard.ids[k] for k in known], seed, pool)
    for k, lie in zip(known, lies, strict=True):
        told[k] = lie
    wrong = np.array([a != b for a, b in zip(values, told, strict=True)])
    operator = shard.operator | {stage.column: wrong}
    if stage.told is Told.LABEL:
        shard = replace(shard, label=np.array(told, np.int64), operator=operator)
    else:
        shard = replace(shard, caption=tuple(told) if shard.caption else (), operator=operator)
    return shard, {"known": len(known), "wrong": int(wrong.sum())}
