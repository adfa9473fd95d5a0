"""TrainMasked: a denoiser of whole images from images of which pixels are hidden, each through a mask of its own."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from pipeline.backbones import unet
from pipeline.backbones.backbone import Backbone
from pipeline.data.bands import Allowed, Part, banded, heard
from pipeline.data.damaged import HIDES
from pipeline.data.hiding import MASK, Hidden, check_coverage, check_pairs, visible_moments
from pipeline.data.manifest import Manifest, name
from pipeline.data.reader import OPERATOR
from pipeline.data.shards import read_shard
from pipeline.diffusion.filling import Ask, Filling
from pipeline.diffusion.precond import EDM
from pipeline.engine.train import Make, train
from pipeline.graph import Context, Step
from pipeline.keys import Key
from pipeline.learning.course import Course
from pipeline.objectives.masking import Masking
from pipeline.physics.corruption import Corruption
from pipeline.physics.linear import shows
from pipeline.store import Artifact
from stages.ambient import SIGMA, Learned, divided, told_noise, whole
from stages.conditioned import columns_of, condition_of, taught
from stages.corrupt import shape_of
from stages.ending import LEAST
from stages.measured import rows_at, through
from stages.train import Fit, Trains, count, opened, reader, save


@dataclass(frozen=True)
class TrainMasked(Trains):
    """A network that fills in what masks hide (`denoiser.json`, `weights.safetensors`), from masked rows.

    Args:
        data: the rows.
        seen: what hid their pixels; its operators are masks. None: what they arrived with, or were made with here.
        noise: σ of the white noise that they hold besides; None: as they say.
        clean: whole images, if there are any, from which it learns as well.
        share: of those in what is learned from (None: by their number).
        objective: what is minimised, and what is hidden besides (its preconditioner is the network's).
        ask: through which masks the model looks at images when it is sampled from.
        backbone: the network; one that has a condition is told the rows' labels, captions or embeddings.
        fit: how it is trained.
        seed: of its weights, its order and its noise.
        apart: whether to learn although some pixels are shown together by no row; otherwise that is refused.
    """

    data: Step
    seen: Corruption | None
    noise: float | None = 0.0
    clean: Step | None = None
    share: float | None = None
    objective: Masking = Masking()
    ask: Ask = Ask()
    backbone: Backbone = unet.Config()
    fit: Fit = Fit()
    seed: int = 0
    apart: bool = False

    def __post_init__(self) -> None:
        if self.noise is not None and not 0 <= self.noise < math.inf:
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
    """What a worker trains. Raises ValueError where some pixel is seen in no row, or no row shows two together."""
    columns, memory, shape = columns_of(stage), stage.fit.memory / len(sets), shape_of(stage.data)
    seen, noise = (stage.seen, stage.noise) if stage.seen is not None else as_told(sets[0], shape, stage.noise)
    drawn = seen.draw(shape, Key(0))
    told_noise(Manifest.open(sets[0].file), sets[0], noise, () if seen.noiseless else drawn)
    masked = opened(sets[0], memory, (*columns, *(OPERATOR + name for name in drawn)), masked=True)
    told = Learned(stage.data, noise, 1 - stage.share if stage.share else None)
    found = [whole(masked, told, stage.objective)]
    found = found if noise is not None else divided(masked, told, sets[0], stage.objective)
    parts: list[Part] = [(Hidden(rows, seen), floors, where) for rows, floors, where in found]
    if stage.clean is not None:
        rows = Hidden(opened(sets[1], memory, columns), None)
        parts.append((rows, 0.0, Allowed(weight=stage.share or len(rows))))
    parts = heard(parts, stage.fit.levels)
    readers = [rows for rows, *_ in parts if isinstance(rows, Hidden)]
    total, square, number = visible_moments(readers)
    check_coverage(number)
    check_pairs(readers, stage.apart)
    centre = total / number
    own = sum(float(np.mean(np.square(floors))) * len(rows) for rows, floors, _ in parts) / sum(map(len, readers))
    variance = float((square / number - centre**2).mean()) - own
    key = Key(stage.seed).fold("masked")
    torch.manual_seed(key.fold("weights").integer())
    model = replace(stage.network, precond=EDM(math.sqrt(max(variance, 1e-6)))).build()
    model.centre.copy_(torch.from_numpy(centre))
    if stage.seen is None and not stage.ask.whole:
        some = [rows.columns[MASK] for rows in readers[0].spans(stage.ask.seed, [(0, len(model.masks))])]
        model.masks.copy_(model.config.hidden(torch.from_numpy(np.concatenate(some))))
    mixed = banded(parts, stage.fit.levels)
    return Course(
        state=stage.fit.state(model.to(device)),
        batches=reader(mixed, stage.fit, stage.seed, condition_of(stage)),
        objective=replace(stage.objective, precond=model.config.precond),
        levels=stage.fit.levels,
        clock=stage.fit.clock,
        key=key,
        bf16=stage.fit.bf16,
        tf32=stage.fit.tf32,
        names=mixed.ids,
        found={LEAST: min(where.low for *_, where in parts)},
    )


def as_told(data: Artifact, shape: tuple[int, ...], noise: float | None) -> tuple[Corruption, float | None]:
    """What hid pixels of the rows of a set, and the noise besides, from what they say; None: each row has its own.

    Raises ValueError where nothing is hidden, what harmed them is no mask, or nobody says how noisy they are.
    """
    damage, told = through(data, shape, noise), Manifest.open(data.file)
    what, rows = type(damage.corruption).__name__, read_shard(data.file(name(i := int(told.filled()[0]))), name(i))
    one = rows_at(damage, rows, np.arange(1))
    x = torch.linspace(-1, 1, math.prod(shape)).reshape(1, *shape)
    if one.A.out_shape != shape or not torch.equal(one.A(x), torch.where(shows(one.A), x, 0)):
        raise ValueError(f"the rows of {data.address} went through {what}, which is no mask: take the recipe em")
    if "mask" not in told.more.get("damage", []) and HIDES not in told.more:
        raise ValueError(f"of the rows of {data.address} nothing is hidden: take the recipe ambient or sfbd")
    if damage.sigma is None and SIGMA in rows.operator:
        return damage.corruption, None
    return damage.corruption, float(damage.corruption.noise if damage.sigma is None else damage.sigma)
