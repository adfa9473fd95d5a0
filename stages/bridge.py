"""TrainBridge: a model of which images could have become a damaged one, from pairs that are made by damaging images.

r(y | x) is only ever simulated. Of rows x ~ p and y ~ r(y | x), the model's law given y is p(x) r(y | x) / ∫ p r, the
posterior under the prior p of the rows.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from pipeline.backbones import unet
from pipeline.backbones.backbone import Backbone
from pipeline.data.beside import Beside as Pairs
from pipeline.data.mix import Mixed, whole
from pipeline.diffusion.beside import Beside
from pipeline.diffusion.precond import EDM
from pipeline.engine.train import Make, train
from pipeline.graph import Context, Step
from pipeline.keys import Key
from pipeline.learning.course import Course
from pipeline.learning.state import differing
from pipeline.learning.weights import unpack
from pipeline.objectives.bridging import Bridging
from pipeline.physics.corruption import Corruption
from pipeline.store import Artifact
from stages.conditioned import columns_of, condition_of, taught
from stages.corrupt import shape_of
from stages.train import Fit, Share, Trains, count, opened, reader, save


@dataclass(frozen=True)
class TrainBridge(Trains):
    """D(x, σ; y) (`denoiser.json`, `weights.safetensors`), from rows that are damaged anew whenever they are read.

    Args:
        rows: the sets of rows x, and how many of a mixture's each has.
        corruption: r(y | x), perhaps a black box.
        backbone: the network; one that has a condition is told the rows' labels, captions or embeddings.
        fit: how it is trained.
        seed: of its weights, its order, its noise and the damage.
        start: a model of the same kind, whose weights it begins with (None: with fresh ones).
    """

    rows: tuple[Share, ...]
    corruption: Corruption
    backbone: Backbone = unet.Config()
    fit: Fit = Fit()
    seed: int = 0
    start: Step | None = None

    def __post_init__(self) -> None:
        whole([each.weight for each in self.rows])  # its complaints are due now
        if self.fit.shift or self.fit.dihedral:
            raise ValueError("fit.shift and fit.dihedral move images after they were damaged: leave them out")

    @property
    def network(self) -> Beside.Config:
        """What is trained, but for the spread of the data."""
        shape = shape_of(self.rows[0].data)
        return Beside.Config(shape, tuple(self.corruption.out_shape(shape)), self.backbone)

    @property
    def sets(self) -> list[Step]:
        """What it learns from."""
        return [each.data for each in self.rows]

    def make(self, open: Callable[[Step], Artifact]) -> Make:
        start = None if self.start is None else open(self.start)
        return partial(course, self, [open(data) for data in self.sets], start)

    def run(self, at: Context) -> None:
        sets = [at.open(data) for data in self.sets]
        untold = taught(sets, self, at)
        metrics = train(self.make(at.open), save, at, self.fit.cadence, count(sets))
        at.out.write("metrics.json", json.dumps(metrics | untold))


def course(stage: TrainBridge, sets: list[Artifact], start: Artifact | None, device: torch.device) -> Course:
    """What a worker trains. Raises ValueError where `start` has another network."""
    parts = tuple(opened(data, stage.fit.memory / len(sets), columns_of(stage)) for data in sets)
    rows = Mixed(parts, whole([each.weight for each in stage.rows]))
    key = Key(stage.seed).fold("bridge")
    torch.manual_seed(key.fold("weights").integer())
    if start is None:
        centre, spread = rows.moments()
        model = Beside.Config(rows.shape, stage.network.out, stage.backbone, EDM(spread)).build()
        model.centre.copy_(centre)
    else:
        before = unpack(start.read, device, Beside)
        model = before.config.build()
        if told := differing(before.state_dict(), model.state_dict(), "of start"):
            raise ValueError(f"start has another network than backbone: {told}")
        model.load_state_dict(before.state_dict())
    return Course(
        state=stage.fit.state(model.to(device)),
        batches=reader(Pairs(rows, stage.corruption), stage.fit, stage.seed, condition_of(stage)),
        objective=Bridging(model.config.precond),
        levels=stage.fit.levels,
        clock=stage.fit.clock,
        key=key,
        bf16=stage.fit.bf16,
        tf32=stage.fit.tf32,
        names=rows.ids,
    )
