"""TrainJoint: one network of several views and the whole image, from the views' rows and a few whole images."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from pipeline.backbones import unet
from pipeline.backbones.backbone import Backbone
from pipeline.backbones.condition import Condition
from pipeline.data.reader import column, order
from pipeline.diffusion.joint import Joint
from pipeline.engine.train import Make, train
from pipeline.graph import Context, Step
from pipeline.keys import Key
from pipeline.learning.course import Course
from pipeline.objectives.joint import JointDenoising
from pipeline.objectives.objective import Batch
from pipeline.physics.linear import LinearMap
from pipeline.store import Artifact
from stages.conditioned import condition_of, taught, told
from stages.corrupt import load, shape_of
from stages.train import Fit, Trains, count, save


@dataclass(frozen=True)
class Rows:
    """A view and the rows that were seen through it."""

    map: LinearMap
    data: Step


@dataclass(frozen=True)
class TrainJoint(Trains):
    """A denoiser of whole images that learned from `views` as well as from the whole images `clean`.

    Args:
        views: the views and their rows.
        clean: whole images; they are rows of every view, too.
        share: the share of every batch that is whole images; the views have equal parts of the rest.
        backbone: the network; one that has a condition is told the rows' labels, captions or embeddings.
        fit: how it is trained.
        seed: of its weights, its order and its noise.
    """

    views: tuple[Rows, ...]
    clean: Step
    share: float = 0.125
    backbone: Backbone = unet.Config()
    fit: Fit = Fit()
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.views or not 0 < self.share < 1:
            raise ValueError(
                f"there are {len(self.views)} views and share is {self.share}: give one, and within (0, 1)"
            )
        if self.fit.shift:
            raise ValueError("fit.shift moves rows away from the place their view has: leave it 0 for joint training")
        self.quotas()

    @property
    def network(self) -> Joint.Config:
        """What is trained, but for the spread of the data."""
        maps = tuple(view.map for view in self.views)
        return Joint.Config(shape_of(self.clean), maps, (1.0,) * (len(maps) + 1), self.backbone)

    @property
    def sets(self) -> list[Step]:
        """What it learns from."""
        return [*(view.data for view in self.views), self.clean]

    def make(self, open: Callable[[Step], Artifact]) -> Make:
        return partial(_course, self, [open(view.data) for view in self.views], open(self.clean))

    def run(self, at: Context) -> None:
        sets = [*(at.open(view.data) for view in self.views), at.open(self.clean)]
        untold = taught(sets, self, at)
        metrics = train(self.make(at.open), save, at, self.fit.cadence, count(sets))
        at.out.write("metrics.json", json.dumps(metrics | untold))

    def quotas(self) -> list[int]:
        """How many rows of each kind every batch has, the whole images last. Raises ValueError: a kind has none."""
        whole = max(1, round(self.share * self.fit.batch))
        parts = [len(part) for part in np.array_split(np.arange(self.fit.batch - whole), len(self.views))]
        if min(parts) < 1:
            raise ValueError(f"a batch of {self.fit.batch} has no rows for some of the views: give a larger fit.batch")
        return [*parts, whole]


def _course(stage: TrainJoint, views: list[Artifact], clean: Artifact, device: torch.device) -> Course:
    full = load(clean)
    whole, kinds, told_of, ids = full.x(), [], [], []
    condition = condition_of(stage)
    for view, data in zip(stage.views, views, strict=True):
        rows = load(data)
        kinds.append(torch.cat([view.map.adjoint(rows.x()), view.map.adjoint(view.map(whole))]))
        told_of += [] if condition is None else [column(rows, condition.column), column(full, condition.column)]
        ids += rows.ids + full.ids
    kinds.append(whole)
    ids += full.ids
    values = None if condition is None else np.concatenate([*told_of, column(full, condition.column)])
    numbers = [math.prod(view.map.out_shape) for view in stage.views] + [whole[0].numel()]
    centres = torch.stack([rows.mean(0) for rows in kinds])
    spread = tuple(
        float(((rows - centre) ** 2).flatten(1).sum(1).mean() / n) ** 0.5
        for rows, centre, n in zip(kinds, centres, numbers, strict=True)
    )
    key = Key(stage.seed).fold("joint")
    torch.manual_seed(key.fold("weights").integer())
    maps = tuple(view.map for view in stage.views)
    model = Joint.Config(tuple(whole.shape[1:]), maps, spread, stage.backbone).build()
    model.centre.copy_(centres)
    model = model.to(device)
    of = torch.cat([torch.full((len(rows),), k) for k, rows in enumerate(kinds)])
    return Course(
        state=stage.fit.state(model),
        batches=partial(
            mixed, kinds, stage.quotas(), stage.seed, told_of=(condition, values), share=stage.fit.unconditional
        ),
        objective=JointDenoising(model, of),
        levels=stage.fit.levels,
        clock=stage.fit.clock,
        key=key,
        bf16=stage.fit.bf16,
        tf32=stage.fit.tf32,
        names=lambda index: [ids[i] for i in index],
    )


def mixed(
    kinds: list[Tensor],
    quotas: list[int],
    seed: int,
    start: int,
    rank: int,
    world: int,
    told_of: tuple[Condition | None, np.ndarray | None] = (None, None),
    share: float = 0.0,
) -> Iterator[Batch]:
    """A course's batches: quotas[k] rows of kinds[k] (N_k, *) in every global batch, evenly interleaved.

    Row i of all kinds together has index i. Each kind runs through its own epochs, in an order that is a pure function
    of (seed, kind, step). `told_of` is a network's condition and all kinds' column (N, *) that it is made
    of; a `share` of it is not told.
    """
    total = sum(quotas)
    # Levels are stratified over a batch's places, so no kind may have a stretch of places to itself.
    places = np.argsort(np.concatenate([(np.arange(q) + 0.5) / q for q in quotas]), kind="stable")
    mine = places[rank * (total // world) : (rank + 1) * (total // world)]
    rows, firsts = torch.cat(kinds), np.cumsum([0, *map(len, kinds)])
    seeds = [Key(seed).fold("joint order", k).integer() for k in range(len(kinds))]
    step, (condition, values) = start // total, told_of
    while True:
        drawn = [
            first + order(len(x), own, step * q, q)
            for first, x, own, q in zip(firsts, kinds, seeds, quotas, strict=False)
        ]
        index = torch.from_numpy(np.concatenate(drawn)[mine])
        offset, cond = rank * (total // world), None
        if condition is not None and values is not None:
            keyed = Key(seed).fold("unconditional", step * total)
            cond = told(condition, values[index.numpy()], share, keyed, offset, total)
        yield Batch(rows[index], cond, index, offset, total)
        step += 1
