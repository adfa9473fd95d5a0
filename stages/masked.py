"""TrainMasked: a denoiser of whole images from images of which pixels are hidden, each through a mask of its own."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch

from pipeline.backbones import unet
from pipeline.backbones.backbone import Backbone
from pipeline.data.bands import Allowed, banded
from pipeline.data.hiding import Hidden, check_coverage, visible_moments, warn_of_pairs
from pipeline.data.reader import OPERATOR
from pipeline.diffusion.filling import Ask, Filling
from pipeline.diffusion.precond import EDM
from pipeline.engine.train import Make, train
from pipeline.graph import Context, Step
from pipeline.keys import Key
from pipeline.learning.course import Course
from pipeline.objectives.masking import Masking
from pipeline.physics.corruption import Corruption
from pipeline.store import Artifact
from stages.conditioned import columns_of, condition_of, taught
from stages.corrupt import shape_of
from stages.train import Fit, Trains, count, opened, reader, save


@dataclass(frozen=True)
class TrainMasked(Trains):
    """A network that fills in what masks hide (`denoiser.json`, `weights.safetensors`), from masked rows.

    Args:
        data: the rows.
        seen: what hid their pixels; its operators are masks.
        noise: σ of the white noise that they hold besides.
        clean: whole images, if there are any, from which it learns as well.
        share: of those in what is learned from (None: by their number).
        objective: what is minimised, and what is hidden besides (its preconditioner is the network's).
        ask: through which masks the model looks at images when it is sampled from.
        backbone: the network; one that has a condition is told the rows' labels, captions or embeddings.
        fit: how it is trained.
        seed: of its weights, its order and its noise.
    """

    data: Step
    seen: Corruption
    noise: float = 0.0
    clean: Step | None = None
    share: float | None = None
    objective: Masking = Masking()
    ask: Ask = Ask()
    backbone: Backbone = unet.Config()
    fit: Fit = Fit()
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.noise < math.inf:
            raise ValueError(f"noise is {self.noise}: give the σ that the rows hold, from 0")
        if self.share is not None and not 0 < self.share < 1:
            raise ValueError(f"share is {self.share}: give the whole images' share, within (0, 1)")
        if self.ask.whole and self.clean is None:
            raise ValueError(
                "a model that never saw a whole image cannot look at one: give clean ones, or ask by masks"
            )
        if self.fit.shift:
            raise ValueError("fit.shift repeats edges, and these rows have masks: leave it 0")

    @property
    def network(self) -> Filling.Config:
        """What is trained, but for the spread of the data."""
        return Filling.Config(shape_of(self.data), self.seen, self.backbone, self.objective.further, ask=self.ask)

    @property
    def sets(self) -> list[Step]:
        """What it learns from."""
        return [self.data] if self.clean is None else [self.data, self.clean]

    def make(self, open: Callable[[Step], Artifact]) -> Make:
        return partial(course, self, [open(data) for data in self.sets])

    def run(self, at: Context) -> None:
        sets = [at.open(data) for data in self.sets]
        untold = taught(sets, self, at)
        metrics = train(self.make(at.open), save, at, self.fit.cadence, count(sets))
        at.out.write("metrics.json", json.dumps(metrics | untold))


def course(stage: TrainMasked, sets: list[Artifact], device: torch.device) -> Course:
    """What a worker trains. Raises ValueError where some pixel is seen in no row."""
    columns, memory = columns_of(stage), stage.fit.memory / len(sets)
    drawn = stage.seen.draw(shape_of(stage.data), Key(0))
    masked = opened(sets[0], memory, (*columns, *(OPERATOR + name for name in drawn)), masked=True)
    parts = [Hidden(masked, stage.seen)]
    where = [Allowed(stage.objective.least(stage.noise), weight=1 - stage.share if stage.share else len(masked))]
    floors = [stage.noise]
    if stage.clean is not None:
        parts.append(Hidden(opened(sets[1], memory, columns), None))
        where.append(Allowed(weight=stage.share or len(parts[1])))
        floors.append(0.0)
    total, square, number = visible_moments(parts)
    check_coverage(number)
    warn_of_pairs(parts)
    centre = total / number
    variance = float((square / number - centre**2).mean()) - sum(
        floor**2 * len(part) for floor, part in zip(floors, parts, strict=True)
    ) / sum(map(len, parts))
    key = Key(stage.seed).fold("masked")
    torch.manual_seed(key.fold("weights").integer())
    model = replace(stage.network, precond=EDM(math.sqrt(max(variance, 1e-6)))).build()
    model.centre.copy_(torch.from_numpy(centre))
    mixed = banded(list(zip(parts, floors, where, strict=True)), stage.fit.levels)
    return Course(
        state=stage.fit.state(model.to(device)),
        batches=reader(mixed, stage.fit, stage.seed, condition_of(stage)),
        objective=replace(stage.objective, precond=model.config.precond),
        levels=stage.fit.levels,
        clock=stage.fit.clock,
        key=key,
        bf16=stage.fit.bf16,
        names=mixed.ids,
    )
