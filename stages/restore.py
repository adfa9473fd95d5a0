"""Restore: rows that were seen through a view become whole images again, drawn from what a model believes of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from pipeline.data.damaged import EMBEDDING
from pipeline.data.manifest import Manifest, name
from pipeline.data.records import Examples
from pipeline.data.shards import read_shard
from pipeline.diffusion.posterior import Posterior
from pipeline.diffusion.sample import Heun, Sampler, normal
from pipeline.engine.shards import Report, map_shards
from pipeline.graph import Context, Stage, Step
from pipeline.keys import Key
from pipeline.learning.weights import unpack
from pipeline.physics.linear import LinearMap
from pipeline.store import Artifact
from stages.told import cond_of


@dataclass(frozen=True)
class Restore(Stage):
    """Rows x ~ p(x₀ | A x₀ = y) for every row y of `data`, by posterior sampling; A x = y holds for each of them.

    Args:
        model: a denoiser of whole images, which is told the rows' labels, captions or embeddings where it takes any.
        data: rows that were seen through `map`, without noise.
        map: the view A.
        draws: images a row; they have the row's id and their number.
        sampler: how they are drawn.
        seed: of their noise, which is keyed by the row's id.
        batch: how many are drawn at a time.
    """

    model: Step
    data: Step
    map: LinearMap
    draws: int = 1
    sampler: Sampler = Heun(steps=14, sigma_min=0.02, sigma_max=20.0)
    seed: int = 0
    batch: int = 256

    def __post_init__(self) -> None:
        if self.draws < 1 or self.batch < 1:
            raise ValueError(f"draws is {self.draws} and batch {self.batch}: give at least 1")

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one row."""
        return tuple(self.map.in_shape)

    def run(self, at: Context) -> None:
        data = at.open(self.data)
        told = Manifest.open(data.file)
        if told.shape != tuple(self.map.out_shape):
            raise ValueError(
                f"these rows are {told.shape} and the view shows {tuple(self.map.out_shape)}: name their own view"
            )
        pieces = [(i, draw) for draw in range(self.draws) for i in told.filled().tolist()]
        counts = map_shards(partial(_restore, self, at.open(self.model), data), pieces, at)
        Manifest.of(counts, self.map.in_shape, "float16").write(at.out)


def _restore(stage: Restore, model: Artifact, data: Artifact, piece: tuple[int, int]) -> tuple[Examples, Report]:
    i, draw = piece
    device = "cuda" if torch.cuda.is_available() else "cpu"
    D, rows = unpack(model.read, device), read_shard(data.file(name(i)), name(i))
    done, told = [], cond_of(D.config, rows)
    for start in range(0, len(rows), stage.batch):
        at = np.arange(start, min(start + stage.batch, len(rows)))
        keys = [Key(stage.seed).fold("restore", rows.ids[k]).fold("draw", draw) for k in at]
        x = normal(stage.map.in_shape, [key.fold("start").numpy() for key in keys], device) * stage.sampler.sigma_max
        cond = None if told is None else told[at].to(device)
        done.append(stage.sampler(Posterior(D, stage.map, rows.x(at).to(device)), x, cond=cond, keys=keys).cpu())
    ids = [f"{text}~{draw}" for text in rows.ids]
    kept = {key: rows.operator[key] for key in (EMBEDDING,) if key in rows.operator}
    return Examples.from_x(ids, torch.cat(done), rows.label, kept, caption=rows.caption), {}
