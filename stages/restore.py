"""Restore: rows that were seen in part become whole images again, drawn from what a model believes of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from pipeline.data.damaged import EMBEDDING
from pipeline.data.leaks import Damage
from pipeline.data.manifest import Manifest, name
from pipeline.data.records import Examples
from pipeline.data.shards import read_shard
from pipeline.diffusion.conditioning import Conditioning, MomentMatching
from pipeline.diffusion.sample import Heun, Sampler, normal
from pipeline.engine.shards import Report, map_shards
from pipeline.graph import Context, Stage, Step
from pipeline.keys import Key
from pipeline.learning.weights import unpack
from pipeline.physics.corruption import Through
from pipeline.physics.linear import LinearMap
from pipeline.store import Artifact
from stages.conditioned import cond_of
from stages.measured import require_shape, rows_at, through, whole_of


@dataclass(frozen=True)
class Restore(Stage):
    """Rows x ~ p(x₀ | y) for every row y = A x₀ + σ_y n of `data`, by posterior sampling; without noise A x = y.

    Args:
        model: a denoiser of whole images, which is told the rows' labels, captions or embeddings where it takes any.
        data: rows that were seen through `map`, without noise, or through a corruption that was drawn for each.
        map: the view A; None: each row has its own operator and noise, as its set says.
        draws: images a row; they have the row's id and their number.
        sampler: how they are drawn.
        seed: of their noise, which is keyed by the row's id.
        batch: how many are drawn at a time.
        by: how the model hears what was measured.
        noise: σ_y of rows that arrived damaged and do not say.
    """

    model: Step
    data: Step
    map: LinearMap | None = None
    draws: int = 1
    sampler: Sampler = Heun(steps=14, sigma_min=0.02, sigma_max=20.0)
    seed: int = 0
    batch: int = 256
    by: Conditioning = MomentMatching()
    noise: float | None = None

    def __post_init__(self) -> None:
        if self.draws < 1 or self.batch < 1:
            raise ValueError(f"draws is {self.draws} and batch {self.batch}: give at least 1")
        if self.map is not None and self.noise is not None:
            raise ValueError("rows seen through a view are without noise: leave out noise, or leave out map")

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one row."""
        return whole_of(self.data) if self.map is None else tuple(self.map.in_shape)

    def run(self, at: Context) -> None:
        data, model = at.open(self.data), at.open(self.model)
        told = Manifest.open(data.file)
        if self.map is None:
            damage = through(data, self.shape, self.noise)
        elif told.shape != tuple(self.map.out_shape):
            raise ValueError(
                f"these rows are {told.shape} and the view shows {tuple(self.map.out_shape)}: name their own view"
            )
        else:
            damage = Damage(Through(self.map), self.shape)
        require_shape(model, damage.shape)
        pieces = [(i, draw) for draw in range(self.draws) for i in told.filled().tolist()]
        counts = map_shards(partial(_restore, self, model, data, damage), pieces, at)
        Manifest.of(counts, damage.shape, "float16").write(at.out)


def _restore(
    stage: Restore, model: Artifact, data: Artifact, damage: Damage, piece: tuple[int, int]
) -> tuple[Examples, Report]:
    i, draw = piece
    device = "cuda" if torch.cuda.is_available() else "cpu"
    D, rows = unpack(model.read, device), read_shard(data.file(name(i)), name(i))
    done, told = [], cond_of(D.config, rows)
    for start in range(0, len(rows), stage.batch):
        at = np.arange(start, min(start + stage.batch, len(rows)))
        keys = [Key(stage.seed).fold("restore", rows.ids[k]).fold("draw", draw) for k in at]
        x = normal(damage.shape, [key.fold("start").numpy() for key in keys], device) * stage.sampler.sigma_max
        cond = None if told is None else told[at].to(device)
        seen = rows_at(damage, rows, at, device)
        drawn = stage.sampler(stage.by(D, seen.A, seen.y, seen.noise), x, cond=cond, keys=keys).cpu()
        if len(bad := torch.nonzero(~drawn.flatten(1).isfinite().all(1))):
            raise ValueError(
                f"{len(bad)} rows, the first of them {rows.ids[at[int(bad[0])]]!r}, were restored to NaN or infinity "
                f"by {model.address}: its training has gone wrong, or `by` takes too long steps"
            )
        done.append(drawn)
    ids = [f"{text}~{draw}" for text in rows.ids]
    kept = {key: rows.operator[key] for key in (EMBEDDING,) if key in rows.operator}
    return Examples.from_x(ids, torch.cat(done), rows.label, kept, caption=rows.caption), {}
