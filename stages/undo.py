"""Undo: for every damaged row an image that it may have been, drawn from what a bridge has learned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from pipeline.data.manifest import Manifest, name
from pipeline.data.records import Examples
from pipeline.data.shards import read_shard
from pipeline.diffusion.beside import Beside
from pipeline.diffusion.sample import Heun, Sampler, normal
from pipeline.engine.shards import Report, map_shards
from pipeline.graph import Context, Stage, Step
from pipeline.keys import Key
from pipeline.learning.weights import unpack
from pipeline.store import Artifact
from stages.conditioned import cond_of
from stages.denoise import restored


@dataclass(frozen=True)
class Undo(Stage):
    """For every row y of `data` one draw x ~ u(x | y), in half precision, under the row's id.

    Args:
        model: a bridge, as `TrainBridge` makes it.
        data: damaged rows.
        sampler: how the path from white noise to x is followed, y beside it.
        seed: of the noise, which is keyed by the row's id.
        batch: rows at a time.
    """

    model: Step
    data: Step
    sampler: Sampler = Heun()
    seed: int = 0
    batch: int = 256

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ValueError(f"batch is {self.batch}: give at least 1")

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one row."""
        return tuple(self.model.stage.network.shape)  # pyright: ignore[reportAttributeAccessIssue]

    def run(self, at: Context) -> None:
        model, data = at.open(self.model), at.open(self.data)
        told = Manifest.open(data.file)
        load = partial(_load, model, tuple(told.shape))
        counts = map_shards(partial(_undo, self, data), told.filled().tolist(), at, load=load)
        Manifest.of(counts, self.shape, "float16").write(at.out)


def _load(model: Artifact, shape: tuple[int, ...]) -> Beside:
    D = unpack(model.read, "cuda" if torch.cuda.is_available() else "cpu", Beside)
    if tuple(D.config.out) != shape:
        raise ValueError(f"the model undoes damage of images {tuple(D.config.out)} and the rows are {shape}")
    return D


def _undo(stage: Undo, data: Artifact, piece: int, model: Callable[[], Beside]) -> tuple[Examples, Report]:
    D, rows = model(), read_shard(data.file(name(piece)), name(piece))
    device = D.device
    done, told = [], cond_of(D.config, rows)
    for start in range(0, len(rows), stage.batch):
        at = np.arange(start, min(start + stage.batch, len(rows)))
        keys = [Key(stage.seed).fold("undo", rows.ids[k]) for k in at]
        x = normal(D.config.shape, [key.fold("start").numpy() for key in keys], device) * stage.sampler.sigma_max
        cond = None if told is None else told[at].to(device)
        beside = partial(D, beside=rows.x(at).to(device))
        done.append(stage.sampler(beside, x, cond=cond, keys=keys).cpu())
    return restored(rows, torch.cat(done)), {}
