"""What a step needs and is not made yet, stood in for by files in a temporary folder, which are opened like any others.

Rows are random pixels of the right shape, with what their operators tell; networks have learned nothing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from pipeline.backbones.condition import Embedded
from pipeline.data.damaged import EMBEDDING
from pipeline.data.manifest import Manifest, name
from pipeline.data.reader import OPERATOR
from pipeline.data.records import Examples
from pipeline.data.shards import write_shard
from pipeline.graph import Stage, Step
from pipeline.keys import Key
from pipeline.learning.course import Course
from pipeline.learning.weights import pack
from pipeline.physics.corruption import Clean
from pipeline.store import Artifact, Store
from stages.ambient import SIGMA
from stages.annotate import Annotate
from stages.conditioned import condition_of
from stages.corrupt import Corrupt, shape_of
from stages.told import TrainTold
from stages.train import Trains, save

ROWS = 32  # of a set that is not there yet; a course reads them again and again


@contextmanager
def opening(store: Store, asked: Stage) -> Iterator[Callable[[Step], Artifact]]:
    """What opens a step from the store or, where it is not there, as it will be but for what it says.

    Rows have what the network of `asked` is told.
    """
    with _aside(asked) as stand_in:
        yield lambda need: store.artifact(need.address) if store.has(need) else stand_in(need)


def networked(stage: Stage) -> bool:
    """Whether what a stage makes is a network that can be stood in for."""
    return hasattr(stage, "untrained") or (isinstance(stage, Trains) and hasattr(stage, "network"))


def course_of(stage: Trains, opened: Callable[[Step], Artifact], device: torch.device) -> Course:
    """A training as it will begin, or one of as much work where that is not known yet."""
    return getattr(stage, "afresh", stage).make(opened)(device)


@contextmanager
def _aside(asked: Stage) -> Iterator[Callable[[Step], Artifact]]:
    with tempfile.TemporaryDirectory() as folder:
        aside = Store(folder)

        def stand_in(need: Step) -> Artifact:
            if not aside.has(need):
                files = _untaught(need.stage) if networked(need.stage) else None
                with aside.writing(need) as out:
                    for file, data in (files or {}).items():
                        out.write(file, data)
                    if files is None:
                        _write_rows(need, asked, out)
            return aside.artifact(need.address)

        yield stand_in


def _untaught(stage: Any) -> Mapping[str, bytes]:
    """The files of a network that has learned nothing; no row is read for it, though there be some."""
    if hasattr(stage, "untrained"):
        return pack(stage.untrained.build())
    with _aside(stage) as stand_in:
        return save(course_of(stage, stand_in, torch.device("cpu")).state)


def _write_rows(need: Step, asked: Stage, out: Any) -> None:
    told, shape = condition_of(asked), shape_of(need)
    pixels = Key(0).fold("probe").numpy().integers(0, 256, (ROWS, *shape), dtype=np.uint8)
    ids, labels = [str(i) for i in range(ROWS)], np.zeros(ROWS, np.int64)
    vectors = told.size if isinstance(told, Embedded) and told.column == OPERATOR + EMBEDDING else 0
    operator = {EMBEDDING: np.ones((ROWS, vectors), np.float32)} if vectors else {}
    captions = tuple(f"a caption like {i}" for i in ids)
    with out.writing(name(0)) as file:
        write_shard(file, Examples(tuple(ids), pixels, labels, _operator(need, asked) | operator, captions))
    Manifest.of([ROWS], shape, "uint8").write(out)


def _operator(need: Step, asked: Stage) -> dict[str, np.ndarray]:
    """What is known of the operators of rows that a corruption is to make, drawn anew; of others at most their noise.

    Of rows that will arrive with masks, those of the corruption by which `asked` is told them.
    """
    stage = need.stage
    if isinstance(stage, Annotate):
        return {SIGMA: np.resize(stage.grid.numpy(), ROWS)}
    if not isinstance(stage, Corrupt):
        return {}
    corruption = stage.corruption
    if isinstance(corruption, Clean) and isinstance(asked, TrainTold) and asked.data.address == need.address:
        corruption = asked.corruption
    shape, key = shape_of(stage.data), Key(0).fold("probe operator")
    drawn = [corruption.draw(shape, key.fold("row", i)) for i in range(ROWS)]
    return {column: np.stack([np.asarray(row[column]) for row in drawn]) for column in drawn[0]}
