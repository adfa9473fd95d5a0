"""Rows a second that `Denoise` restores on its pool of actors over a plain loop of the same sampler in one process.

    python benchmarks/restoring.py --repeats 5

Both have the same network, batch, sampler and one thread, and take turns. Three ratios: once the pool has its model
(from the first shard that is done to the last), by the clock and by the processor's time in the process that works,
which other work on the machine does not lengthen as much; and by the clock of a whole step, from asking for it to its
manifest, of which the pool's start is part. The plain loop reads no shards and writes none. It has the thresholds of
glibc's allocator that Ray's workers are given, without which it is slower.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import tyro

from pipeline.backbones import unet
from pipeline.backbones.backbone import Backbone
from pipeline.data.manifest import Manifest, name
from pipeline.data.records import Examples
from pipeline.data.shards import write_shard
from pipeline.diffusion.precond import Preconditioned
from pipeline.diffusion.sample import Heun
from pipeline.engine import cluster
from pipeline.graph import Context, Scale, Stage, step
from pipeline.keys import Key
from pipeline.learning.weights import pack, unpack
from pipeline.store import Store
from stages.denoise import Denoise

SHAPE, NOISE = (1, 16, 16), 0.2


@dataclass(frozen=True)
class Rows(Stage):
    """Noisy rows in shards of equal size."""

    count: int
    shard: int

    def run(self, at: Context) -> None:
        for i, start in enumerate(range(0, self.count, self.shard)):
            y = torch.randn(self.shard, *SHAPE, generator=Key(i).torch()) / 2
            with at.out.writing(name(i)) as file:
                write_shard(file, Examples.from_x([f"row-{start + k}" for k in range(self.shard)], y))
        Manifest.of([self.shard] * (self.count // self.shard), SHAPE, "float16").write(at.out)


@dataclass(frozen=True)
class Model(Stage):
    """A network as it was drawn."""

    backbone: Backbone

    def run(self, at: Context) -> None:
        torch.manual_seed(0)
        for file, content in pack(Preconditioned.Config(SHAPE, self.backbone).build()).items():
            at.out.write(file, content)


@dataclass
class Watch:
    """A tracker that notes when each shard was done."""

    done: list[tuple[float, float]] = field(default_factory=list)

    def metrics(self, values: Mapping[str, float], at: int) -> None:
        self.done.append((time.perf_counter(), worked()))

    def picture(self, name: str, png: bytes) -> None:
        """Nothing to see."""

    def card(self, name: str, content: Mapping[str, Any]) -> None:
        """Nothing to say."""

    def warn(self, text: str) -> None:
        """Nothing to say."""


def main(repeats: int = 5, rows: int = 2048, shard: int = 256, width: int = 16, steps: int = 64) -> None:
    """Print a line a repeat, then both ratios' medians and ranges."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, cluster.connect():
        store = Store(folder)
        data, model = step(Rows(rows, shard)), step(Model(unet.Config(width=width)))
        for node in (data, model):
            with store.writing(node) as out:
                node.stage.run(Context(out, store, Scale(), Watch()))
        said: dict[str, list[float]] = {"by the clock": [], "by the processor's time": [], "with the start": []}
        for repeat in range(repeats):
            asked = Denoise(model, data, NOISE, Heun(steps=steps), seed=repeat, batch=shard)
            turns = {"bare": lambda asked=asked: bare(asked, store), "pool": lambda asked=asked: pool(asked, store)}
            order = list(turns)[:: 1 if repeat % 2 == 0 else -1]
            found = {who: turns[who]() for who in order}
            for what, mine, plain in zip(said, found["pool"], found["bare"], strict=True):
                said[what].append(mine / plain)
            print(f"rows/s bare {found['bare'][0]:.1f}, pool {found['pool'][0]:.1f}   ratios ", end="")
            print(", ".join(f"{ratios[-1]:.3f} {what}" for what, ratios in said.items()), flush=True)
    for what, ratios in said.items():
        print(f"{what}: median {statistics.median(ratios):.3f}, range {min(ratios):.3f} to {max(ratios):.3f}")


def worked() -> float:
    """Seconds of the processor that the pool's one actor, below this process, has had (of Linux's /proc)."""
    parents, ticks = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # ended since
            name, _, rest = stat.read_text().partition(") ")
            fields = rest.split()
            parents[int(stat.parent.name)] = int(fields[1])
            if "(ray::MapWor" in name:
                ticks[int(stat.parent.name)] = int(fields[11]) + int(fields[12])
    return sum(spent for pid, spent in ticks.items() if _below(pid, parents)) / os.sysconf("SC_CLK_TCK")


def _below(pid: int, parents: Mapping[int, int]) -> bool:
    while pid > 1 and pid != os.getpid():
        pid = parents.get(pid, 0)
    return pid == os.getpid()


def bare(asked: Denoise, store: Store) -> tuple[float, float, float]:
    """Rows a second of the sampler on rows in memory, as the pool's."""
    data = store.artifact(asked.data.address)
    D, told = unpack(store.artifact(asked.model.address).read), Manifest.open(data.file)
    x = torch.randn(told.rows, *SHAPE, generator=Key(0).torch()) / 2
    asked.sampler(D, x[: asked.batch], torch.full((asked.batch,), NOISE))  # the pool's first shard counts no more
    start, busy = time.perf_counter(), time.process_time()
    for part in x.split(asked.batch):
        asked.sampler(D, part, torch.full((len(part),), NOISE))
    spent, busy = time.perf_counter() - start, time.process_time() - busy
    return told.rows / spent, told.rows / busy, told.rows / spent


def pool(asked: Denoise, store: Store) -> tuple[float, float, float]:
    """Rows a second of the stage: from the first shard that is done to the last, by clock and processor; over all."""
    watch, node, start = Watch(), step(asked), time.perf_counter()
    with store.writing(node) as out:
        asked.run(Context(out, store, Scale(), watch))
    spent = time.perf_counter() - start
    rows = Manifest.open(store.artifact(node.address).file).rows
    after = rows * (len(watch.done) - 1) / len(watch.done)
    (first, before), (last, busy) = watch.done[0], watch.done[-1]
    return after / (last - first), after / (busy - before), rows / spent


if __name__ == "__main__":
    malloc = {name: value for name, value in cluster.QUIET.items() if name.startswith("MALLOC")}
    if not malloc.keys() <= os.environ.keys():
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | malloc)  # glibc reads them as it starts
    tyro.cli(main)
