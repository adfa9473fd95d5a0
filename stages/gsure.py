"""TrainGSURE: a denoiser from rows that nobody saw whole or clean, by an estimate of the error it cannot be told."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from pipeline.backbones import unet
from pipeline.backbones.backbone import Backbone
from pipeline.backbones.condition import Condition
from pipeline.data import reader
from pipeline.data.augment import Augment
from pipeline.data.leaks import Damage
from pipeline.data.records import Examples
from pipeline.diffusion.precond import EDM, Preconditioned
from pipeline.diffusion.truncated import Above
from pipeline.engine.train import Make, train
from pipeline.graph import Context, Step
from pipeline.keys import Key
from pipeline.learning.course import Course
from pipeline.objectives.gsure import GSURE, Measured, Probe
from pipeline.physics.modes import Basis, Pixels, modes
from pipeline.physics.sensors import Measured as Sensed
from pipeline.store import Artifact
from stages.conditioned import condition_of, taught, told
from stages.corrupt import load
from stages.ending import LEAST
from stages.measured import FromMeasured, require_coverage, rows_at, through
from stages.train import Fit, count, save

AT_ONCE = 1024  # rows whose modes are found together


@dataclass(frozen=True)
class TrainGSURE(FromMeasured):
    """A denoiser (`denoiser.json`, `weights.safetensors`) of the images behind rows, by pipeline/objectives/gsure.py.

    It is not trained at levels below the rows' own noise, and says so (`least`). The rows are held in memory.

    Args:
        data: the rows; each has its own operator and noise, as its set says.
        backbone: the network; one that has a condition is told the rows' labels, captions or embeddings.
        fit: how it is trained; of `fit.levels` those that the rows' own noise allows.
        seed: of its weights, its order and its noise.
        probe: how the divergence is taken.
        noise: std of the noise of rows that arrived damaged and do not say.
    """

    version: ClassVar[int] = 2  # 2: says down to which level it learned

    data: Step
    backbone: Backbone = unet.Config()
    fit: Fit = Fit()
    seed: int = 0
    probe: Probe = Probe.BACKWARD
    noise: float | None = None

    def __post_init__(self) -> None:
        if self.fit.shift or self.fit.weigh_levels:
            raise ValueError(
                "fit.shift would falsify noise and masks, and fit.weigh_levels needs losses above 0, which these are "
                "not always: leave both out"
            )
        if self.fit.bf16 and self.probe is Probe.DIFFERENCE:
            raise ValueError("bfloat16 is too coarse for finite differences: leave out fit.bf16, or probe backward")

    @property
    def network(self) -> Preconditioned.Config:
        """What is trained, but for the spread of the data."""
        return Preconditioned.Config(self.shape, self.backbone)

    def make(self, open: Callable[[Step], Artifact]) -> Make:
        return partial(_course, self, open(self.data))

    def run(self, at: Context) -> None:
        data = at.open(self.data)
        damage = through(data, self.shape, self.noise)
        if isinstance(damage.corruption, Sensed):
            raise ValueError("GSURE needs white noise of a known std, and a sensor's is not: choose em for these rows")
        untold = taught([data], self, at)
        require_coverage(data, damage, at)
        metrics = train(self.make(at.open), save, at, self.fit.cadence, count([data]))
        at.out.write("metrics.json", json.dumps(metrics | untold))


@dataclass(frozen=True, eq=False)
class Modes:
    """All rows by their modes: V ȳ (N, *) filled up with the mean where nothing was seen, S and s₀, float32.

    `weight` is W², `centre` the mean image, `spread` the root mean square about it, `least` the lowest σ.
    """

    basis: Basis
    x: Tensor
    singular: Tensor
    level: Tensor
    weight: Tensor
    centre: Tensor
    spread: float
    least: float


def by_modes(rows: Examples, damage: Damage) -> Modes:
    """What GSURE knows of the rows. Raises ValueError: their maps have no modes in common, or some are never seen."""
    bases, found, singular, level = set(), [], [], []
    for start in range(0, len(rows), AT_ONCE):
        seen = rows_at(damage, rows, np.arange(start, min(start + AT_ONCE, len(rows))))
        basis, S = modes(seen.A)
        bases.add(basis)
        found.append(basis.into(seen.A.pinv(seen.y).double()))
        singular.append(S.expand(len(seen.y), *damage.shape))
        level.append(seen.noise.double())
    if len(bases) > 1:
        raise ValueError("some of these rows went through masks and others through blur: no basis makes both diagonal")
    (basis,) = bases
    y, S, level = torch.cat(found), torch.cat(singular), torch.cat(level)
    P = (S > 0).double()
    share = P.mean(0)
    if (share == 0).any():
        raise ValueError(
            f"{int((share == 0).sum())} of the {share.numel()} waves are seen by none of the {len(rows)} rows: nothing "
            "can be learnt of them, so give rows that were blurred less"
        )
    own = P * (level.view(-1, *(1,) * (S.ndim - 1)) / torch.where(S > 0, S, 1)) ** 2
    centre = (P * y).sum(0) / P.sum(0)
    square = ((P * (y - centre) ** 2).sum(0) - own.sum(0)) / P.sum(0)
    filled = basis.back(torch.where(S > 0, y, centre))
    return Modes(
        basis,
        filled.float(),
        S.float(),
        level.float(),
        (1 / share).float(),
        basis.back(centre[None])[0].float(),
        math.sqrt(max(float(square.mean()), 1e-4)),
        float(own.max()) ** 0.5,
    )


def _course(stage: TrainGSURE, data: Artifact, device: torch.device) -> Course:
    rows = load(data)
    known = by_modes(rows, through(data, stage.shape, stage.noise))
    if stage.fit.dihedral and known.basis != Pixels():
        raise ValueError("fit.dihedral turns masks along with images, and these rows are blurred: leave it out")
    key, precond = Key(stage.seed).fold("gsure"), EDM(sigma_data=known.spread)
    torch.manual_seed(key.fold("weights").integer())
    model = Preconditioned.Config(stage.shape, stage.backbone, precond).build()
    model.centre.copy_(known.centre)
    condition = condition_of(stage)
    told_of = None if condition is None else (condition, reader.column(rows, condition.column))
    return Course(
        state=stage.fit.state(model.to(device)),
        batches=partial(_batches, known, stage.fit, stage.seed, told_of),
        objective=GSURE(known.weight.to(device), known.basis, precond, known.least > 0, stage.probe),
        levels=Above(stage.fit.levels, known.least) if known.least else stage.fit.levels,
        clock=stage.fit.clock,
        key=key,
        bf16=stage.fit.bf16,
        tf32=stage.fit.tf32,
        names=lambda index: [rows.ids[i] for i in index],
        found={LEAST: known.least},
    )


def _batches(
    known: Modes,
    fit: Fit,
    seed: int,
    told_of: tuple[Condition, np.ndarray] | None,
    start: int,
    rank: int,
    world: int,
) -> Iterator[Measured]:
    share, turn = fit.batch // world, Augment()
    for k, index in enumerate(reader.batches(known.x, fit.batch, seed, start, rank, world)):
        at, offset, cond = start + k * fit.batch, rank * share, None
        held = {"x": known.x[index], "singular": known.singular[index]}
        if fit.dihedral:
            held = turn(held, seed, at + offset)
        if told_of is not None:
            condition, values = told_of
            keyed = Key(seed).fold("unconditional", at)
            cond = told(condition, values[index], fit.unconditional, keyed, offset, fit.batch)
        yield Measured(
            held["x"],
            cond,
            torch.from_numpy(index),
            offset,
            fit.batch,
            singular=held["singular"],
            level=known.level[index],
        )
