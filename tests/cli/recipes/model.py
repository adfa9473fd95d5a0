"""model: an untrained denoiser of small images, for the verbs that take a model."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pipeline.backbones import adm, unet
from pipeline.backbones.condition import Labels
from pipeline.data.manifest import Manifest, name
from pipeline.data.records import Examples
from pipeline.data.shards import write_shard
from pipeline.diffusion.precond import EDM, Preconditioned
from pipeline.graph import Context, Stage, Step, step
from pipeline.learning.weights import pack


@dataclass(frozen=True)
class Untrained(Stage):
    """A denoiser's files and, beside them, rows of uniform noise, labelled in turn where the network has classes."""

    side: int
    classes: int = 0

    def run(self, at: Context) -> None:
        shape = (1, self.side, self.side)
        torch.manual_seed(0)
        backbone = unet.Config()
        if self.classes:
            backbone = adm.Config(8, (1,), 1, (), embedding=16, condition=Labels(self.classes))
        network = Preconditioned.Config(shape, backbone, EDM(sigma_data=0.5)).build()
        for parameter in network.parameters() if self.classes else ():  # what starts at zero would not know a label
            torch.nn.init.normal_(parameter, std=0.3)
        for file, data in pack(network).items():
            at.out.write(file, data)
        labels = torch.arange(8).numpy() % self.classes if self.classes else None
        rows = Examples.from_x([str(i) for i in range(8)], torch.rand(8, *shape) * 2 - 1, labels, uint8=True)
        with at.out.writing(name(0)) as shard:
            write_shard(shard, rows)
        Manifest.of([8], shape, "uint8").write(at.out)


def model(side: int = 8, classes: int = 0) -> Step:
    """Write a model and rows of the same shape.

    Args:
        side: of the square images, in pixels.
        classes: that the network is told of.
    """
    return step(Untrained(side, classes), "model")
