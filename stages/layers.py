"""Layers: rows that take the place of those with the same ids in a set that was made before, and so on behind it."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np

from pipeline.data.manifest import Manifest
from pipeline.data.records import Examples
from pipeline.graph import Given, Stage, Step
from pipeline.store import Artifact
from stages.corrupt import load

TURN = "refresh.json"  # by which a layer is known
KEPT = "kept.npy"  # bools (rows,) of a layer, in the order of its shards: those that count; all where there is no file


class Layer(Stage):
    """A stage whose rows stand in front of those of `before`; None: it has them all."""

    before: Step | None

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Of one row."""


def layers(data: Step) -> list[Step]:
    """A set and what lies behind its rows, newest first."""
    found = [data]
    while isinstance(found[-1].stage, Layer) and found[-1].stage.before is not None:
        found.append(found[-1].stage.before)
    return found


def known(data: Step) -> Step:
    """The same, known by its address alone: what a long chain of steps is pickled as."""
    return Given(label=data.label, known=data.address)


def in_front(sets: list[Artifact], memory: float) -> Examples:
    """Of every id the row of the newest set that has it, ascending by id: what those sets hold now does not tell how.

    Sets are gone through until all ids of the last one, which has them all, were found. Raises ValueError where they
    take more than `memory` GiB.
    """
    whole = Manifest.open(sets[-1].file)
    size = whole.rows * int(np.prod(whole.shape)) * np.dtype(whole.dtype).itemsize / 2**30
    if size > memory:
        raise ValueError(f"the rows of {sets[-1].address} take {size:.3g} GiB and are held: raise fit.memory")
    parts: list[Examples] = []
    seen: set[str] = set()
    for data in sets:
        if len(seen) == whole.rows:
            break
        rows = counting(data)
        new = [k for k, text in enumerate(rows.ids) if text not in seen]
        seen.update(rows.ids[k] for k in new)
        parts.append(rows.take(new))
    found = Examples.concat(parts)
    return found.take(np.argsort(found.ids, kind="stable"))


def counting(data: Artifact) -> Examples:
    """The rows of a layer that count."""
    rows = load(data)
    return rows if KEPT not in data.names() else rows.take(np.flatnonzero(np.load(data.file(KEPT))))
