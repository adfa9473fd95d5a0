"""A few steps of a training that is still to come: its own loop, network, batch and options, its rows perhaps noise.

What a training needs and is not made yet is stood in for by files in a temporary folder, which the course then opens
like any others: rows of random pixels of the right shape, and denoisers that have learned nothing.
"""

from __future__ import annotations

import resource
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch

from pipeline.backbones.condition import Embedded
from pipeline.data.damaged import EMBEDDING
from pipeline.data.manifest import Manifest, name
from pipeline.data.reader import OPERATOR
from pipeline.data.records import Examples
from pipeline.data.shards import write_shard
from pipeline.engine.train import speed_of
from pipeline.graph import Step
from pipeline.keys import Key
from pipeline.learning.course import Course
from pipeline.learning.stopwatch import Stopwatch
from pipeline.learning.weights import pack
from pipeline.physics.corruption import Clean
from pipeline.store import Artifact, Store
from stages.conditioned import condition_of
from stages.corrupt import Corrupt, shape_of
from stages.told import TrainTold
from stages.train import Trains

ROWS = 32  # of a set that is not there yet; the course reads them again and again


@dataclass(frozen=True)
class Probed:
    """What a training is and what its steps took.

    `seconds`: of each step after the first ones. `memory`: bytes, of the device or, on a CPU, by which the process grew
    at most. `device`: in words. `micro`: the images that were found to fit at once (None: all).
    """

    images: int
    batch: int
    workers: int
    parameters: int
    seconds: tuple[float, ...]
    memory: int
    device: str
    micro: int | None


def probe(node: Step, stage: Trains, store: Store, steps: int) -> Probed:
    """Take the first `steps` of a training, of which the first quarter counts as warm-up. Leaves nothing behind."""
    before, scale = _peak(), node.scale
    device = torch.device("cuda" if scale.gpus else "cpu")
    with _course(stage, store, device) as course:
        end, batches, watch = course.clock, course.batches, Stopwatch(device)
        course.clock = replace(end, images=steps * end.batch, validate=None)
        course.batches = lambda start, rank, world: watch.over(batches(start, rank, world))
        workers = scale.worlds(end.batch)[0]
        course.run(world=workers, speed=speed_of(scale), micro=scale.micro)
        watch.mark()
    on_gpu = device.type == "cuda"
    return Probed(
        end.images,
        end.batch,
        workers,
        sum(p.numel() for p in course.state.model.parameters() if p.requires_grad),
        tuple(watch.last(steps - steps // 4)),
        torch.cuda.max_memory_allocated(device) if on_gpu else max(0, _peak() - before),
        torch.cuda.get_device_name(device) if on_gpu else "CPU",
        course.state.micro,
    )


@contextmanager
def _course(stage: Trains, store: Store, device: torch.device) -> Iterator[Course]:
    with tempfile.TemporaryDirectory() as folder:
        aside = Store(folder)

        def opened(need: Step) -> Artifact:
            return (store if store.has(need) else _stand_in(need, stage, aside)).artifact(need.address)

        yield getattr(stage, "afresh", stage).make(opened)(device)


def _stand_in(need: Step, asked: Trains, aside: Store) -> Store:
    """Have the artifact of a step in `aside`, as it will be but for what it says; rows have what `asked` is told."""
    told = condition_of(asked)
    untrained = getattr(need.stage, "untrained", None)
    if aside.has(need):
        return aside
    with aside.writing(need) as out:
        if untrained is not None:
            for file, data in pack(untrained.build()).items():
                out.write(file, data)
            return aside
        shape = shape_of(need)
        pixels = Key(0).fold("probe").numpy().integers(0, 256, (ROWS, *shape), dtype=np.uint8)
        ids, labels = [str(i) for i in range(ROWS)], np.zeros(ROWS, np.int64)
        vectors = told.size if isinstance(told, Embedded) and told.column == OPERATOR + EMBEDDING else 0
        operator = {EMBEDDING: np.ones((ROWS, vectors), np.float32)} if vectors else {}
        captions = tuple(f"a caption like {i}" for i in ids)
        with out.writing(name(0)) as file:
            write_shard(file, Examples(tuple(ids), pixels, labels, _operator(need, asked) | operator, captions))
        Manifest.of([ROWS], shape, "uint8").write(out)
    return aside


def _operator(need: Step, asked: Trains) -> dict[str, np.ndarray]:
    """What is known of the operators of rows that a corruption is to make, drawn anew; of others nothing.

    Of rows that will arrive with masks, those of the corruption by which `asked` is told them.
    """
    stage = need.stage
    if not isinstance(stage, Corrupt):
        return {}
    corruption = stage.corruption
    if isinstance(corruption, Clean) and isinstance(asked, TrainTold) and asked.data.address == need.address:
        corruption = asked.corruption
    shape, key = shape_of(stage.data), Key(0).fold("probe operator")
    drawn = [corruption.draw(shape, key.fold("row", i)) for i in range(ROWS)]
    return {column: np.stack([np.asarray(row[column]) for row in drawn]) for column in drawn[0]}


def _peak() -> int:
    """The most bytes of memory that this process has had."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
