"""Images a second of the Ray Train step over the bare loop on the same data: one worker, interleaved, once running.

    python benchmarks/overhead.py --repeats 5

The bare loop is `Course.run` in this process with one thread; the other is `pipeline.engine.train.train` with one
worker of one CPU, checkpoints included. Rates are the workers' own, from the second post on, so that neither side's
start counts.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import tyro

from pipeline.backbones import unet
from pipeline.data.digits import Digits
from pipeline.engine import cluster
from pipeline.engine.train import Rate, train
from pipeline.graph import Context, Scale, step
from pipeline.graph import run as run_graph
from pipeline.learning.loop import Every
from pipeline.store import Store
from stages.corrupt import Corrupt, Part
from stages.ingest import Ingest
from stages.train import Fit, Train, course, save


@dataclass
class Rates:
    """A tracker that keeps images a second."""

    seen: list[float] = field(default_factory=list)

    def metrics(self, values: Mapping[str, float], at: int) -> None:
        self.seen.append(values["images_per_second"])

    def picture(self, name: str, png: bytes) -> None:
        """Nothing to see."""

    def card(self, name: str, content: Mapping[str, Any]) -> None:
        """Nothing to say."""

    def warn(self, text: str) -> None:
        """Nothing to say."""

    @property
    def rate(self) -> float:
        """Median images a second, without the first post."""
        return statistics.median(self.seen[1:])


def main(repeats: int = 5, images: int = 25_600, width: int = 32) -> None:
    """Print one line a repeat, then the ratio's median and range."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, cluster.connect() as capacity:
        store = Store(folder)
        full = step(Ingest(Digits(), (1, 8, 8)))
        data = step(Corrupt(full, Part(0, 1024)))
        run_graph(data, store, quiet, capacity)
        stage = Train(data, unet.Config(width=width), Fit(images=images))
        make = partial(course, stage, [store.artifact(data.address)])
        ratios = []
        for repeat in range(repeats):
            bare, ray = Rates(), Rates()
            order = [partial(_bare, make, stage, bare), partial(_ray, make, stage, store, ray, repeat)]
            for measured in order if repeat % 2 == 0 else order[::-1]:
                measured()
            ratios.append(ray.rate / bare.rate)
            print(f"bare {bare.rate:8.1f} images/s   Ray Train {ray.rate:8.1f} images/s   ratio {ratios[-1]:.3f}")
    print(f"ratio: median {statistics.median(ratios):.3f}, range {min(ratios):.3f} to {max(ratios):.3f}")


def _bare(make: Any, stage: Train, rates: Rates) -> None:
    bare = make(torch.device("cpu"))
    rate = Rate(bare)
    bare.run([Every(stage.fit.cadence.post, lambda state, metrics: rates.metrics(rate(state), state.images))])


def _ray(make: Any, stage: Train, store: Store, rates: Rates, repeat: int) -> None:
    place = store.place / f"overhead-{repeat}"
    train(make, save, Context(place, store, Scale(), rates), stage.fit.cadence)


class quiet:
    """A tracker for steps that are not measured."""

    def __init__(self, step: Any) -> None:
        self.step = step

    def __enter__(self) -> quiet:
        return self

    def __exit__(self, *raised: object) -> None:
        return None

    def metrics(self, values: Mapping[str, float], at: int) -> None:
        """Not measured."""


if __name__ == "__main__":
    tyro.cli(main)
