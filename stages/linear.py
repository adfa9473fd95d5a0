"""TrainLinear: a denoiser of whole images from linear measurements that are no masks, each row by a map of its own."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from pipeline.backbones import unet
from pipeline.backbones.backbone import Backbone
from pipeline.backbones.condition import Condition
from pipeline.data import reader
from pipeline.data.joint import check_joint
from pipeline.data.leaks import Damage
from pipeline.data.records import Examples
from pipeline.diffusion.precond import EDM
from pipeline.diffusion.sighted import Sighted
from pipeline.diffusion.truncated import Above
from pipeline.engine.train import Make, train
from pipeline.graph import Context, Step
from pipeline.keys import Key
from pipeline.learning.course import Course
from pipeline.objectives.measuring import Measuring, Taken
from pipeline.physics.sensors import Measured as Sensed
from pipeline.store import Artifact
from stages.conditioned import condition_of, taught, told
from stages.corrupt import load
from stages.ending import LEAST
from stages.measured import FromMeasured, rows_at, through
from stages.train import Fit, count, save

AT_ONCE = 1024  # rows whose matrices are made together
LARGEST = 1024  # numbers of an image, of which whole matrices are held


@dataclass(frozen=True)
class TrainLinear(FromMeasured):
    """A network that fills in what was not measured (`denoiser.json`, `weights.safetensors`): objectives/measuring.py.

    Rows are held in memory with their matrices.

    Args:
        data: the rows; each has its own operator and noise, as its set says.
        noise: std of the noise of rows that arrived measured and do not say.
        objective: what is minimised, and what is left out besides (its preconditioner is the network's).
        backbone: the network; one that has a condition is told the rows' labels, captions or embeddings.
        fit: how it is trained; of `fit.levels` those that the rows' own noise allows.
        seed: of its weights, its order, its noise and the measurements that it asks with.
        apart: whether to learn although some directions are shown by no row together with others.
    """

    version: ClassVar[int] = 2  # 2: says down to which level it learned

    data: Step
    noise: float | None = None
    objective: Measuring = Measuring()
    backbone: Backbone = unet.Config()
    fit: Fit = Fit()
    seed: int = 0
    apart: bool = False

    def __post_init__(self) -> None:
        if self.fit.shift or self.fit.dihedral:
            raise ValueError("fit.shift and fit.dihedral move images after they were measured: leave them out")

    @property
    def network(self) -> Sighted.Config:
        """What is trained, but for the spread of the data."""
        return Sighted.Config(self.shape, self.backbone)

    def make(self, open: Callable[[Step], Artifact]) -> Make:
        return partial(_course, self, open(self.data))

    def run(self, at: Context) -> None:
        data = at.open(self.data)
        untold = taught([data], self, at)
        metrics = train(self.make(at.open), save, at, self.fit.cadence, count([data]))
        at.out.write("metrics.json", json.dumps(metrics | untold))


@dataclass(frozen=True, eq=False)
class Taking:
    """All rows, float32: y (N, m), A (N or 1, m, n) of norm 1 at most, the noise of each (N,) in the units of y."""

    y: Tensor
    A: Tensor
    noise: Tensor

    def law(self) -> tuple[Tensor, float]:
        """The image (n,) that fits all rows best, and the root mean square about it of what they measure."""
        n, square, weight, own = self.A.shape[2], 0.0, 0.0, 0.0
        gram, back = torch.zeros(n, n, dtype=torch.float64), torch.zeros(n, dtype=torch.float64)
        for y, A, _ in self._parts():
            gram, back = gram + (A.mT @ A).sum(0), back + (A.mT @ y[..., None]).sum(0)[..., 0]
        centre = torch.linalg.lstsq(gram, back[:, None]).solution[:, 0]
        for y, A, noise in self._parts():
            known = A.square().sum(2)
            square += float(((y - A @ centre).square() * (known > 0)).sum())
            own += float((noise.square()[:, None] * (known > 0)).sum())
            weight += float(known.sum())
        if not square > 0:
            raise ValueError(f"the {len(self.y)} rows to learn from are all alike: give more, and different ones")
        return centre, math.sqrt(max((square - own) / weight, 1e-4 * square / weight))

    def _parts(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for k in range(0, len(self.y), AT_ONCE):
            y = self.y[k : k + AT_ONCE].double()
            A = self.A if len(self.A) == 1 else self.A[k : k + AT_ONCE]
            yield y, A.double().expand(len(y), -1, -1), self.noise[k : k + AT_ONCE].double()


def taking(rows: Examples, damage: Damage, memory: float) -> Taking:
    """Rows with their matrices. Raises ValueError: those are too large, or colour the rows' noise."""
    n, m = math.prod(damage.shape), math.prod(rows.shape)
    if n > LARGEST or len(rows) * n * m * 4 > memory * 2**30:
        raise ValueError(
            f"{len(rows)} matrices of {m} x {n} numbers are held: give images of {LARGEST} numbers at most, fewer of "
            "them (--count), or more fit.memory"
        )
    found, made, noise = [], [], []
    for start in range(0, len(rows), AT_ONCE):
        seen = rows_at(damage, rows, np.arange(start, min(start + AT_ONCE, len(rows))))
        dense = seen.A.dense().float()
        made.append(dense if dense.ndim == 3 else dense[None])
        found.append(seen.y.flatten(1).float())
        noise.append(seen.noise.float())
    y, level = torch.cat(found), torch.cat(noise)
    A = made[0] if all(len(part) == 1 for part in made) else torch.cat(made)
    norm = float(torch.linalg.matrix_norm(A, 2).max())
    if not norm > 0:
        raise ValueError("the rows measure nothing: look at what they are said to have gone through")
    A = A / norm
    if bool((level > 0).any()):
        across = A @ A.mT
        white = torch.diag_embed((across.diagonal(dim1=1, dim2=2) > 0).float())
        if not torch.allclose(across, white, atol=1e-4):
            raise ValueError(
                "these rows are noisy and their map colours noise (A Aᵀ is no multiple of I), so that none can be "
                "added that fits: take the recipe em, or rows without noise"
            )
    known = A.square().sum(2) > 0
    return Taking(torch.where(known, y / norm, 0), A, level / norm)


def _course(stage: TrainLinear, data: Artifact, device: torch.device) -> Course:
    rows, damage = load(data), through(data, stage.shape, stage.noise)
    if isinstance(damage.corruption, Sensed):
        raise ValueError("white noise of a known std is needed, and a sensor's is not: choose em for these rows")
    known = taking(rows, damage, stage.fit.memory)
    check_joint(known.A, stage.shape, stage.apart)
    centre, spread = known.law()
    key = Key(stage.seed).fold("linear")
    torch.manual_seed(key.fold("weights").integer())
    model = replace(stage.network, precond=EDM(spread)).build()
    model.centre.copy_(centre.view(stage.shape))
    own = known.A[int(key.fold("asked").integer()) % len(known.A)]
    kept = torch.from_numpy(key.fold("asked", "kept").numpy().random(len(own))) >= stage.objective.share
    model.gram.copy_(own.T @ (kept[:, None] * own))
    condition = condition_of(stage)
    told_of = None if condition is None else (condition, reader.column(rows, condition.column))
    least = stage.objective.least(float(known.noise.max()))
    return Course(
        state=stage.fit.state(model.to(device)),
        batches=partial(_batches, known, stage.shape, stage.fit, stage.seed, told_of),
        objective=replace(stage.objective, precond=model.config.precond),
        levels=Above(stage.fit.levels, least) if least else stage.fit.levels,
        clock=stage.fit.clock,
        key=key,
        bf16=stage.fit.bf16,
        tf32=stage.fit.tf32,
        names=lambda index: [rows.ids[i] for i in index],
        found={LEAST: least},
    )


def _batches(
    known: Taking,
    shape: tuple[int, ...],
    fit: Fit,
    seed: int,
    told_of: tuple[Condition, np.ndarray] | None,
    start: int,
    rank: int,
    world: int,
) -> Iterator[Taken]:
    share = fit.batch // world
    for k, index in enumerate(reader.batches(known.y, fit.batch, seed, start, rank, world)):
        at, offset, cond = start + k * fit.batch, rank * share, None
        if told_of is not None:
            condition, values = told_of
            keyed = Key(seed).fold("unconditional", at)
            cond = told(condition, values[index], fit.unconditional, keyed, offset, fit.batch)
        A = known.A.expand(len(index), -1, -1) if len(known.A) == 1 else known.A[index]
        x = torch.zeros(len(index), *shape)
        number = torch.from_numpy(index)
        yield Taken(x, cond, number, offset, fit.batch, floor=known.noise[index], y=known.y[index], A=A)
