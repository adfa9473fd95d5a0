"""Sample: images from a denoiser; the same image for the same seed and number, whatever the batch or device."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import ClassVar

import torch

from pipeline.data.manifest import Manifest, name
from pipeline.data.records import Examples
from pipeline.data.shards import write_shard
from pipeline.diffusion.denoiser import Denoiser
from pipeline.diffusion.guide import Autoguided
from pipeline.diffusion.sample import Heun, Sampler, samples
from pipeline.engine.cluster import call
from pipeline.engine.pictures import grid
from pipeline.graph import Context, Stage, Step
from pipeline.learning.weights import unpack
from pipeline.store import Artifact


@dataclass(frozen=True)
class Sample(Stage):
    """`count` images as rows, and `samples.png` with the first of them.

    Args:
        model: the denoiser.
        count: how many images.
        sampler: how they are drawn.
        seed: of their noise, which is keyed by their number.
        batch: how many are drawn at a time.
        guide: a worse denoiser of the same images, to lean away from: autoguidance.
        weight: how far, where 1 is not at all.
        interval: the two noise levels between which the guide is heard (None: at all).
    """

    version: ClassVar[int] = 2  # 2: shards.npy

    model: Step
    count: int = 64
    sampler: Sampler = Heun()
    seed: int = 0
    batch: int = 256
    guide: Step | None = None
    weight: float = 2.0
    interval: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.count < 1 or self.batch < 1:
            raise ValueError(f"count is {self.count} and batch {self.batch}: give at least 1")
        if self.guide is None and (self.weight, self.interval) != (2.0, None):
            raise ValueError("weight and interval say how a guide is heard: name a guide, too")
        if self.interval is not None and not 0 <= self.interval[0] < self.interval[1]:
            raise ValueError(f"interval is {self.interval}: give two noise levels from 0, the lower one first")

    def run(self, at: Context) -> None:
        guide = None if self.guide is None else at.open(self.guide)
        made = call(at.scale, _sample, self, at.open(self.model), guide)
        picture = grid(made.images[:64])
        at.out.write("samples.png", picture)
        at.tracker.picture("samples.png", picture)
        with at.out.writing(name(0)) as file:
            write_shard(file, made)
        Manifest.of([len(made)], made.shape, "uint8").write(at.out)
        at.out.write("card.json", json.dumps({"sampler": str(self.sampler), "seed": self.seed, "count": self.count}))


def _sample(stage: Sample, model: Artifact, guide: Artifact | None) -> Examples:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = unpack(model.read, device)
    D: Denoiser = network
    shape = tuple(network.config.shape)
    if guide is not None:
        worse = unpack(guide.read, device)
        if tuple(worse.config.shape) != shape:
            raise ValueError(f"the model makes images {shape}, the guide {tuple(worse.config.shape)}: name another")
        D = Autoguided(network, worse, stage.weight, *(stage.interval or ()))
    x = samples(D, stage.sampler, shape, range(stage.count), stage.seed, stage.batch, device=device)
    ids = [f"sample-{stage.seed}-{i:06d}" for i in range(stage.count)]
    return Examples.from_x(ids, x.clamp(-1, 1), uint8=True)
