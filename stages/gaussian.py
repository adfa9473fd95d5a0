"""FitGaussian: the mean and covariance behind rows that were seen in part, as a denoiser to begin with."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from pipeline.data.coverage import apart, told_apart
from pipeline.data.leaks import Damage
from pipeline.data.records import Examples
from pipeline.diffusion.gaussian import Gaussian
from pipeline.engine import cluster
from pipeline.graph import Context, Stage, Step
from pipeline.keys import Key
from pipeline.learning.gaussian import Law, Measured, fit, seen_whole
from pipeline.learning.weights import pack
from pipeline.physics.linear import Identity
from pipeline.store import Artifact
from stages.corrupt import load
from stages.measured import require_coverage, rows_at, through, whole_of

log = logging.getLogger("kintsugi")
WIDEST = 4096  # numbers of an image whose covariance is held whole
AT_ONCE = 1 << 24  # numbers of the operators' matrices that are held together, about


@dataclass(frozen=True)
class FitGaussian(Stage):
    """A denoiser (`denoiser.json`, `weights.safetensors`) of N(μ, Σ), by exact EM, and the likelihoods on the way.

    Of rows that hide nothing and have one noise it is found in closed form.

    Args:
        data: the rows; each has its own operator and noise, as its set says.
        rank: how many directions have a variance of their own; None: all.
        iterations: steps of EM, at most.
        rows: how many of the rows are taken at most, chosen by `seed`.
        seed: of that choice.
        noise: σ_y of rows that arrived damaged and do not say.
    """

    version: ClassVar[int] = 2  # 2: closed form where nothing is hidden

    data: Step
    rank: int | None = None
    iterations: int = 64
    rows: int = 16_384
    seed: int = 0
    noise: float | None = None

    def __post_init__(self) -> None:
        if self.iterations < 1 or self.rows < 2 or (self.rank is not None and self.rank < 1):
            raise ValueError(
                f"iterations is {self.iterations}, rows {self.rows} and rank {self.rank}: give at least 1, 2 and 1"
            )
        if (n := math.prod(whole_of(self.data))) > WIDEST:
            raise ValueError(f"images have {n} numbers and the covariance of {WIDEST} can be held: make them smaller")

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one image."""
        return whole_of(self.data)

    def run(self, at: Context) -> None:
        data = at.open(self.data)
        damage = through(data, self.shape, self.noise)
        require_coverage(data, damage, at)
        law, told = cluster.call(at.scale, _fit, self, data, damage)
        model = Gaussian.Config(damage.shape, min(self.rank or len(law.mean), len(law.mean))).build()
        model.set(law.mean, law.cov)
        for name, content in pack(model).items():
            at.out.write(name, content)
        for i, likelihood in enumerate(told):
            at.tracker.metrics({"log_likelihood": likelihood}, at=i)
        at.out.write("metrics.json", json.dumps({"log_likelihood": told}))


def _fit(stage: FitGaussian, data: Artifact, damage: Damage) -> tuple[Law, list[float]]:
    rows, n = load(data), math.prod(damage.shape)
    if len(rows) > stage.rows:
        rows = rows.take(np.sort(Key(stage.seed).fold("rows").numpy().choice(len(rows), stage.rows, replace=False)))
    first = rows_at(damage, rows, np.arange(1))
    noises = np.unique(damage.sigmas(rows))
    if isinstance(first.A, Identity) and len(noises) == 1:
        law, likelihood = seen_whole(rows.x().flatten(1), float(noises[0]), stage.rank or n)
        return law, [likelihood]
    size = max(1, AT_ONCE // (n * math.prod(rows.shape)))
    parts = Batches(rows, damage, size)
    places = np.stack(np.unravel_index(np.arange(n), damage.shape), 1)
    if said := told_apart(apart((part.shows for part in parts), n), places, "numbers"):
        log.warning("%s", said)
    return fit(parts, n, stage.rank or n, stage.iterations)


@dataclass(frozen=True, eq=False)
class Batches:
    """The rows' matrices, some at a time, made anew each time they are gone through."""

    rows: Examples
    damage: Damage
    size: int

    def __iter__(self):
        """Batches of `size` rows."""
        for start in range(0, len(self.rows), self.size):
            seen = rows_at(self.damage, self.rows, np.arange(start, min(start + self.size, len(self.rows))))
            yield Measured.of(seen.y, seen.A, seen.noise)
