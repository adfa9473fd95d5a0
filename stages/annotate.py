"""Annotate: for every damaged row the least noise under which it can no longer be told from clean ones.

Noise of that σ is then added to it, once and for all: what comes out teaches as a noisy clean row would, above its σ
(stages/ambient.py). Nothing is known of the damage, and rows may be damaged differently.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from pipeline.data.damaged import NOISY
from pipeline.data.hiding import check_whole
from pipeline.data.manifest import Manifest, name
from pipeline.data.records import Examples
from pipeline.data.shards import read_shard
from pipeline.diffusion.denoiser import Network, expand
from pipeline.diffusion.sample import normal
from pipeline.engine.shards import Report, map_shards
from pipeline.graph import Context, Stage, Step
from pipeline.keys import Key
from pipeline.learning.weights import unpack
from pipeline.store import Artifact
from stages.ambient import SIGMA
from stages.corrupt import shape_of


@dataclass(frozen=True)
class Annotate(Stage):
    """Rows x + σ z with the σ of each in a column "sigma"; the median and quartiles of σ are reported.

    Args:
        telltale: what tells damaged from clean under noise.
        data: damaged rows.
        low: the least σ that is asked, and given to rows that cannot be told even there.
        high: the largest, given to rows that can be told everywhere.
        levels: how many are asked, evenly in ln σ.
        draws: noises a level, over which probabilities are averaged.
        margin: a row counts as told where its probability to be damaged is above ½ + this.
        seed: of the noise, which is keyed by the row's id.
        batch: rows at a time.
    """

    telltale: Step
    data: Step
    low: float = 0.02
    high: float = 5.0
    levels: int = 24
    draws: int = 8
    margin: float = 0.05
    seed: int = 0
    batch: int = 256

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high or self.levels < 2 or self.draws < 1 or self.batch < 1:
            raise ValueError(f"low {self.low}, high {self.high}, levels {self.levels}, draws {self.draws}: give more")
        if not 0 <= self.margin < 0.5:
            raise ValueError(f"margin is {self.margin}: give a probability within [0, 0.5)")

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one row."""
        return shape_of(self.data)

    @property
    def grid(self) -> Tensor:
        """The levels (levels,), ascending."""
        return torch.logspace(np.log10(self.low), np.log10(self.high), self.levels)

    def run(self, at: Context) -> None:
        data = at.open(self.data)
        told = Manifest.open(data.file)
        check_whole(told, data)
        load = partial(_load, at.open(self.telltale))
        found: list[float] = []
        make, pieces = partial(_annotate, self, data), told.filled().tolist()
        counts = map_shards(make, pieces, at, lambda report: found.extend(report["sigma"]), load)
        Manifest.of(counts, told.shape, "float16", {NOISY: True}).write(at.out)
        quartiles = np.quantile(found, [0.25, 0.5, 0.75])
        at.tracker.metrics(dict(zip(("sigma_low", "sigma", "sigma_high"), map(float, quartiles), strict=True)), at=0)


def _load(telltale: Artifact) -> Network:
    return unpack(telltale.read, "cuda" if torch.cuda.is_available() else "cpu")


def least(probability: Tensor, grid: Tensor, margin: float) -> Tensor:
    """Of each row (B,) the first level from which on it is not told: probability (B, levels) at most ½ + margin.

    The last level for rows that are told even there. From that level on means: not told at any above it either.
    """
    told = probability > 0.5 + margin
    above = told.flip(1).cumsum(1).flip(1) > 0  # told at this level or at one above it
    first = above.sum(1).clamp_max(len(grid) - 1)
    return grid[first]


def _annotate(stage: Annotate, data: Artifact, piece: int, telltale: Callable[[], Network]) -> tuple[Examples, Report]:
    C, rows, grid = telltale(), read_shard(data.file(name(piece)), name(piece)), stage.grid
    device = C.device
    sigmas, noisy = [], []
    for start in range(0, len(rows), stage.batch):
        at = np.arange(start, min(start + stage.batch, len(rows)))
        x = rows.x(at).to(device)
        sources = [Key(stage.seed).fold("annotate", rows.ids[k]).numpy() for k in at]
        probability = torch.zeros(len(at), len(grid), device=device)
        for k, sigma in enumerate(grid.tolist()):
            level = x.new_full((len(at),), sigma)
            for _ in range(stage.draws):
                z = normal(tuple(x.shape[1:]), sources, device)
                probability[:, k] += C(x + expand(level, x) * z, level).sigmoid() / stage.draws
        sigma = least(probability, grid.to(device), stage.margin)
        z = normal(tuple(x.shape[1:]), [Key(stage.seed).fold("annotated", rows.ids[k]).numpy() for k in at], device)
        sigmas.append(sigma.cpu())
        noisy.append((x + expand(sigma, x) * z).cpu())
    found = torch.cat(sigmas)
    column = {SIGMA: found.numpy().astype(np.float32)}
    made = Examples.from_x(rows.ids, torch.cat(noisy), rows.label, column, caption=rows.caption)
    return made, {"sigma": found.tolist()}
