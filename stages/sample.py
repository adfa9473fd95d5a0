"""Sample: images from a denoiser; the same image for the same seed and number, whatever the batch or device."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import ClassVar

import torch

from pipeline.data.manifest import Manifest, name
from pipeline.data.records import Examples
from pipeline.data.shards import write_shard
from pipeline.diffusion.sample import Heun, Sampler, samples
from pipeline.engine.cluster import call
from pipeline.engine.pictures import grid
from pipeline.graph import Context, Stage, Step
from pipeline.learning.weights import unpack
from pipeline.store import Artifact


@dataclass(frozen=True)
class Sample(Stage):
    """`count` images as rows, and `samples.png` with the first of them."""

    version: ClassVar[int] = 2  # 2: shards.npy

    model: Step
    count: int = 64
    sampler: Sampler = Heun()
    seed: int = 0
    batch: int = 256

    def __post_init__(self) -> None:
        if self.count < 1 or self.batch < 1:
            raise ValueError(f"count is {self.count} and batch {self.batch}: give at least 1")

    def run(self, at: Context) -> None:
        made = call(at.scale, _sample, self, at.open(self.model))
        picture = grid(made.images[:64])
        at.out.write("samples.png", picture)
        at.tracker.picture("samples.png", picture)
        with at.out.writing(name(0)) as file:
            write_shard(file, made)
        Manifest.of([len(made)], made.shape, "uint8").write(at.out)
        at.out.write("card.json", json.dumps({"sampler": str(self.sampler), "seed": self.seed, "count": self.count}))


def _sample(stage: Sample, model: Artifact) -> Examples:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    D = unpack(model.read, device)
    shape = tuple(D.config.shape)
    x = samples(D, stage.sampler, shape, range(stage.count), stage.seed, stage.batch, device=device)
    ids = [f"sample-{stage.seed}-{i:06d}" for i in range(stage.count)]
    return Examples.from_x(ids, x.clamp(-1, 1), uint8=True)
