"""model: an untrained denoiser of small images, for the verbs that take a model."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pipeline.backbones import unet
from pipeline.data.manifest import Manifest, name
from pipeline.data.records import Examples
from pipeline.data.shards import write_shard
from pipeline.diffusion.precond import EDM, Preconditioned
from pipeline.graph import Context, Stage, Step, step
from pipeline.learning.weights import pack


@dataclass(frozen=True)
class Untrained(Stage):
    """A denoiser's files and, beside them, rows of uniform noise."""

    side: int

    def run(self, at: Context) -> None:
        shape = (1, self.side, self.side)
        torch.manual_seed(0)
        for file, data in pack(Preconditioned.Config(shape, unet.Config(), EDM(sigma_data=0.5)).build()).items():
            at.out.write(file, data)
        rows = Examples.from_x([str(i) for i in range(8)], torch.rand(8, *shape) * 2 - 1, uint8=True)
        with at.out.writing(name(0)) as shard:
            write_shard(shard, rows)
        Manifest.of([8], shape, "uint8").write(at.out)


def model(side: int = 8) -> Step:
    """Write a model and rows of the same shape.

    Args:
        side: of the square images, in pixels.
    """
    return step(Untrained(side), "model")
