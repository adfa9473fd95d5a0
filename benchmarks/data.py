"""The figures of data: readers side by side, seeking, a billion rows, Ray Data against a plain loop, bounded ingest.

    python benchmarks/data.py --parts readers seek scale --repeats 5
    python benchmarks/data.py --parts first corruption ingest

`readers` compares with what `pip install kintsugi[benchmark]` brings, interleaved, the first batch by itself.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from loaders import BATCH, loaders, packed, pictures

from pipeline.data.arrays import Arrays
from pipeline.data.manifest import Manifest
from pipeline.data.stream import Order, Streamed
from pipeline.engine import cluster
from pipeline.graph import Context, Scale, Step, step
from pipeline.graph import run as run_graph
from pipeline.physics.corruption import Noisy
from pipeline.place import Place
from pipeline.store import Store
from stages.corrupt import Corrupt, keeps_bytes
from stages.corrupt import _corrupt as corrupt_piece
from stages.ingest import Ingest
from stages.train import opened

Part = Literal["readers", "seek", "scale", "first", "corruption", "ingest"]


def main(
    parts: tuple[Part, ...] = ("readers", "seek", "scale", "first", "corruption", "ingest"),
    repeats: int = 5,
    images: int = 20_480,
) -> None:
    """Print each part's table."""
    torch.set_num_threads(1)
    print(f"load {os.getloadavg()[0]:.1f} on {cluster.cores()} cores")
    for part in parts:
        with tempfile.TemporaryDirectory() as folder:
            PARTS[part](Path(folder), repeats, images)
    print(f"load {os.getloadavg()[0]:.1f}")


def spread(values: list[float], digits: int = 0) -> str:
    """Median and range."""
    return f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def readers(folder: Path, repeats: int, images: int) -> None:
    """Images a second to a loop that only takes them, after the first batch; ours for five epochs, the others for one.

    A first batch of ours has a whole window behind it, so one epoch would leave out what reading costs.
    """
    made = loaders(pictures(images), folder)
    rates: dict[str, list[float]] = {which: [] for which in made}
    waits: dict[str, list[float]] = {which: [] for which in made}
    for repeat in range(repeats):
        for which in made if repeat % 2 == 0 else reversed(made):
            began = time.perf_counter()
            batches = made[which](repeat)
            next(batches)
            start = time.perf_counter()
            count = images // BATCH * (5 if "kintsugi" in which else 1)
            for _ in range(count):
                next(batches)
            rates[which].append(count * BATCH / (time.perf_counter() - start))
            waits[which].append(start - began)
            del batches
    best = max(statistics.median(rates[which]) for which in made if "kintsugi" not in which)
    print("| reader | images/s | first batch s | of the best other |\n| --- | --- | --- | --- |")
    for which in made:
        ratio = statistics.median(rates[which]) / best
        print(f"| {which} | {spread(rates[which])} | {spread(waits[which], 2)} | {ratio:.2f} |")


def seek(folder: Path, repeats: int, images: int) -> None:
    """From nothing to the rows at position 10 million, and to the images that are there."""
    place = packed(pictures(images), folder)
    known, taken = [], []
    for repeat in range(repeats):
        order = Order(10**9)
        start = time.perf_counter()
        order.rows(repeat, 10_000_000, BATCH)
        known.append(1e3 * (time.perf_counter() - start))
        reader = Streamed(place, Manifest.open(place.at))
        start = time.perf_counter()
        next(reader.batches(BATCH, repeat, 10_000_000))
        taken.append(1e3 * (time.perf_counter() - start))
    print(f"seek to image 10 million, of 10^9 rows: which rows, {spread(known, 1)} ms")
    print(f"seek to image 10 million, of {images} rows: the images, {spread(taken, 1)} ms (two windows begun)")


SCALE = """
import resource, sys, time
import numpy as np
from pipeline.data.manifest import Manifest
from pipeline.data.stream import Order, Permutation
from pipeline.keys import Key
from pipeline.place import Place

def memory():
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB"

def took(what, work):
    start = time.perf_counter()
    out = work()
    print(f"| {what} | {1e3 * (time.perf_counter() - start):,.1f} ms |")
    return out

def seek(k):
    return manifest.shard_of(order.rows(0, 10**10 + 987_654_321 * k, 64))

loaded, place = memory(), Place(sys.argv[1])
manifest = took("opened and checked", lambda: Manifest.open(place.at))
order, blocks = Order(manifest.rows), manifest.rows // 1024
took("first window planned: its blocks, their shards", lambda: manifest.shard_of(order.blocks(0, 0, 0) * 1024))
took(f"a whole epoch's {blocks:,} blocks shuffled", lambda: Permutation(blocks, Key(0))(np.arange(blocks)))
took("100 seeks of 64 rows, each to its shard and row", lambda: [seek(k) for k in range(100)])
print(f"| peak memory; before opening | {memory()}; {loaded} |")
"""


def scale(folder: Path, repeats: int, images: int) -> None:
    """A million shards of a thousand rows, of which there is only the manifest."""
    Manifest.of(np.full(1_000_000, 1000), (3, 32, 32), "uint8").write(Place(str(folder)))
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"| 1,000,000 shards, 10^9 rows | {size / 1e6:.1f} MB of files |\n| --- | --- |", flush=True)
    subprocess.run([sys.executable, "-c", SCALE, str(folder)], check=True)


def rows_of(folder: Path, images: int) -> tuple[Store, Step]:
    """A store and the step that ingests `images` pictures."""
    np.save(folder / "images.npy", pictures(images).transpose(0, 2, 3, 1))
    return Store(str(folder / "store")), step(Ingest(Arrays(str(folder / "images.npy")), (3, 32, 32)))


def first(folder: Path, repeats: int, images: int) -> None:
    """From Ray being up to a worker's first batch of an ingested set."""
    ways = {"rows, streamed": rows, "tensors, streamed": tensors, "tensors, in memory": partial(tensors, memory=4.0)}
    seconds: dict[str, list[tuple[float, float]]] = {which: [] for which in ways}
    store, data = rows_of(folder, images)
    with cluster.connect() as capacity:
        run_graph(data, store, Clocked, capacity)
    for _ in range(repeats):
        for which, way in ways.items():
            with cluster.connect():
                start = time.perf_counter()
                own = cluster.call(Scale(), way, store.url, data.address)
                seconds[which].append((time.perf_counter() - start, own))
    for which, pairs in seconds.items():
        waits, owns = map(list, zip(*pairs))
        print(f"first batch in a worker, {which}, after Ray is up: {spread(waits, 2)} s, reading {spread(owns, 2)} s")


def rows(url: str, address: str) -> float:
    """Seconds from opening the store to a batch of uint8 rows, which takes no torch."""
    start = time.perf_counter()
    data = Store(url).artifact(address)
    next(Streamed(data.place, Manifest.open(data.file), (), 0).batches(BATCH, 0))
    return time.perf_counter() - start


def tensors(url: str, address: str, memory: float = 0.0) -> float:
    """Seconds from opening the store to a batch of tensors, of what is streamed or fits into `memory` GiB."""
    start = time.perf_counter()
    next(opened(Store(url).artifact(address), memory).batches(BATCH, 0)).x()
    return time.perf_counter() - start


def corruption(folder: Path, repeats: int, images: int) -> None:
    """Rows a second of the corrupt stage on one core, from its second piece on, over those of a loop."""
    store, data = rows_of(folder, images)
    ratios, rates = [], {"loop": [], "Ray Data": []}
    with cluster.connect() as capacity:
        run_graph(data, store, Clocked, capacity)
        clean = store.artifact(data.address)
        counts = np.diff(Manifest.open(clean.file).ends, prepend=0)
        for repeat in range(repeats):
            stage, clock = Corrupt(data, corruption=Noisy(noise=0.5), seed=repeat), Clocked()
            out = store.place / f"measured-{repeat}"
            for side in ("loop", "Ray Data") if repeat % 2 else ("Ray Data", "loop"):
                if side == "loop":
                    rates[side].append(loop(stage, clean, out / "loop", counts))
                else:
                    stage.run(Context(out, store, Scale(), clock))
                    rates[side].append(counts[1:].sum() / (clock.at[-1] - clock.at[0]))
            ratios.append(rates["Ray Data"][-1] / rates["loop"][-1])
    print(f"corruption: loop {spread(rates['loop'])} rows/s, Ray Data {spread(rates['Ray Data'])}, {spread(ratios, 2)}")


def loop(stage: Corrupt, clean: Any, out: Place, counts: np.ndarray) -> float:
    """The same function on the same pieces, written the same way."""
    from pipeline.engine.shards import _made

    told = Manifest.open(clean.file)
    make = partial(
        corrupt_piece, stage, clean, keeps_bytes(stage.corruption, told.shape), stage.part.of(told, clean, map)
    )
    for i in range(len(counts)):
        _made(make, out, (i, (i,)))
        if i == 0:
            start = time.perf_counter()
    return counts[1:].sum() / (time.perf_counter() - start)


class Clocked:
    """A tracker that only looks at the clock."""

    def __init__(self, step: Any = None) -> None:
        self.at: list[float] = []

    def __enter__(self) -> Clocked:
        return self

    def __exit__(self, *raised: object) -> None:
        return None

    def metrics(self, values: Mapping[str, float], at: int) -> None:
        self.at.append(time.perf_counter())

    def picture(self, name: str, png: bytes) -> None:
        """Not measured."""

    def card(self, name: str, content: Mapping[str, Any]) -> None:
        """Not measured."""

    def warn(self, text: str) -> None:
        """Not measured."""


def ingest(folder: Path, repeats: int, images: int) -> None:
    """A set of five times the object store: what the store, the disk and the processes take."""
    cap = 80 << 20
    cluster.STORE_BYTES = cap
    store, data = rows_of(folder, 5 * cap // (3 * 32 * 32))
    seen: dict[str, list[float]] = {"store": [], "spilled": [], "rss": [], "driver": []}
    done = threading.Event()
    with cluster.connect() as capacity:
        watcher = threading.Thread(target=watch, args=(seen, done))
        watcher.start()
        began = time.perf_counter()
        run_graph(data, store, Clocked, capacity)
        done.set()
        watcher.join()
    rss, driver = (", ".join(f"{p.max():.0f}" for p in np.array_split(seen[who], 4)) for who in ("rss", "driver"))
    print(
        f"ingest of {5 * cap >> 20} MiB with a store of {cap >> 20} MiB: {time.perf_counter() - began:.0f} s, "
        f"peak store {max(seen['store']):.1f} MiB, spilled {max(seen['spilled']):.1f} MiB, "
        f"by quarter of the run the largest worker {rss} MiB, the driver {driver} MiB"
    )


def watch(seen: dict[str, list[float]], done: threading.Event) -> None:
    """Every half second: MiB in the object store, MiB spilled so far, MiB of the largest worker and of this process."""
    import ray

    while not done.wait(0.5):
        free, have = ray.available_resources(), ray.cluster_resources()
        key = "object_store_memory"
        seen["store"].append((have.get(key, 0) - free.get(key, 0)) / 2**20)
        session = Path(ray._private.worker._global_node.get_session_dir_path())
        spilled = sum(f.stat().st_size for f in session.rglob("ray_spilled_objects*/*") if f.is_file())
        seen["spilled"].append(spilled / 2**20)
        seen["rss"].append(max((rss for name, rss in processes("[0-9]*") if name.startswith("ray::")), default=0.0))
        seen["driver"] += [rss for _, rss in processes("self")]


def processes(which: str) -> Iterator[tuple[str, float]]:
    """(name, MiB) of this machine's processes."""
    for status in Path("/proc").glob(f"{which}/status"):
        try:
            fields = dict(line.split(":\t", 1) for line in status.read_text().splitlines() if ":\t" in line)
        except (FileNotFoundError, ProcessLookupError):
            continue
        yield fields.get("Name", ""), int(fields.get("VmRSS", "0 kB").split()[0]) / 1024


PARTS = {
    "readers": readers,
    "seek": seek,
    "scale": scale,
    "first": first,
    "corruption": corruption,
    "ingest": ingest,
}

if __name__ == "__main__":
    tyro.cli(main)
