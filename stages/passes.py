"""A few passes of a network that is to restore rows or to draw images, and how many of them each image will take.

The sampler's own arithmetic, and reading and writing rows, are little beside its evaluations of the network.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.data.leaks import Damage
from pipeline.data.manifest import Manifest, name
from pipeline.data.records import Examples
from pipeline.data.shards import read_shard
from pipeline.diffusion.denoiser import Denoiser
from pipeline.diffusion.sample import normal
from pipeline.graph import Step
from pipeline.keys import Key
from pipeline.learning.stopwatch import Stopwatch
from pipeline.learning.weights import unpack
from pipeline.physics.corruption import Through
from pipeline.store import Artifact, Store
from stages.ambient import SIGMA
from stages.average import Average
from stages.conditioned import cond_of
from stages.corrupt import rows_of
from stages.denoise import Denoise, loaded
from stages.measured import rows_at, through
from stages.probe import Probed, peak, used
from stages.proximal import Chosen
from stages.restore import Restore
from stages.sample import PIECE, Sample, ready
from stages.stand_in import networked, opening

Asks = Denoise | Restore | Sample


@dataclass(frozen=True)
class Question:
    """A network, what it is asked (B, *) and told (B, ...), and the noise level at which the path begins."""

    D: Denoiser
    x: Tensor
    cond: Tensor | None = None
    start: float | None = None


def known(stage: Asks, store: Store) -> bool:
    """Whether it is known how many images it makes, and with what networks."""
    needs = [stage.model]
    if isinstance(stage, Sample):
        needs += [need for need in (stage.guide, stage.decoder) if need is not None]
    built = all(store.has(need) or networked(learned(need, store).stage) for need in needs)
    return built and images_of(stage, store) is not None


def images_of(stage: Asks, store: Store) -> int | None:
    """How many images it makes, if that is known."""
    if isinstance(stage, Sample):
        return stage.count
    rows = rows_of(stage.data, store)
    return None if rows is None else rows * (stage.draws if isinstance(stage, Restore) else 1)


def learned(model: Step, store: Store) -> Step:
    """The model, if it is there, or the step that trains what others only average or choose among."""
    while not store.has(model) and isinstance(model.stage, Average | Chosen):
        model = model.stage.model if isinstance(model.stage, Average) else model.stage.models[-1]
    return model


def passes(node: Step, stage: Asks, store: Store, steps: int) -> Probed | None:
    """Take so many passes of a batch, the first quarter as warm-up; None: nobody says how noisy the rows are."""
    before, images = peak(), images_of(stage, store) or 0
    workers = min(node.scale.workers, _pieces(stage, store, node.scale.workers))
    size = min(stage.batch, math.ceil(images / workers))
    with opening(store, learned(stage.model, store).stage) as opened:
        asked = _question(stage, lambda need: opened(learned(need, store)), size)
    if asked is None:
        return None
    watch, levels = Stopwatch(asked.x.device), stage.sampler.sigmas(asked.start)[:-1, 0]
    with torch.no_grad():
        for i in range(steps):
            watch.mark()
            level = levels[i * len(levels) // steps].item()
            asked.D(asked.x, torch.full((size,), level, device=asked.x.device), asked.cond)
        watch.mark()
    return Probed(
        images,
        size * workers,
        workers,
        tuple(watch.last(steps - steps // 4)),
        *used(asked.x.device, before),
        passes=stage.sampler.evaluations(asked.start),
    )


def _pieces(stage: Asks, store: Store, most: int) -> int:
    """How many workers can share it: the shards that there are, or as many as may be."""
    if isinstance(stage, Sample):
        return math.ceil(stage.count / PIECE)
    return len(Manifest.open(store.artifact(stage.data.address).file).filled()) if store.has(stage.data) else most


def _question(stage: Asks, opened: Callable[[Step], Artifact], size: int) -> Question | None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if isinstance(stage, Sample):
        guide, like, decoder = (need and opened(need) for need in (stage.guide, stage.like, stage.decoder))
        drawn = ready(stage, opened(stage.model), guide, like, decoder)
        cond = None if drawn.cond is None else drawn.cond[:size].to(device)
        return Question(drawn.D, _noise(stage, drawn.shape, size, device), cond)
    rows = _rows(opened(stage.data), size)
    if isinstance(stage, Denoise):
        if stage.noise is None and SIGMA not in rows.operator:
            return None
        D = loaded(opened(stage.model), stage.shape)
        start = float(rows.operator[SIGMA].max()) if stage.noise is None else stage.noise
        return Question(D, rows.x().to(device), _told(D, rows, device), start)
    data, D = opened(stage.data), unpack(opened(stage.model).read, device)
    damage = through(data, stage.shape, stage.noise) if stage.map is None else Damage(Through(stage.map), stage.shape)
    seen = rows_at(damage, rows, np.arange(size), device)
    x = _noise(stage, stage.shape, size, device)
    return Question(stage.by(D, seen.A, seen.y, seen.noise), x, _told(D, rows, device))


def _noise(stage: Sample | Restore, shape: tuple[int, ...], size: int, device: str) -> Tensor:
    sources = [Key(stage.seed).fold("probe", i).numpy() for i in range(size)]
    return normal(shape, sources, device) * stage.sampler.sigma_max


def _told(D: Denoiser, rows: Examples, device: str) -> Tensor | None:
    cond = cond_of(D.config, rows)  # pyright: ignore[reportAttributeAccessIssue]
    return None if cond is None else cond.to(device)


def _rows(data: Artifact, size: int) -> Examples:
    """So many rows of the first shard, again and again if it has fewer."""
    shard = name(int(Manifest.open(data.file).filled()[0]))
    rows = read_shard(data.file(shard), shard)
    at = np.arange(size) % len(rows)
    return Examples(
        tuple(f"{rows.ids[k]}~{i}" for i, k in enumerate(at)),
        rows.images[at],
        rows.label[at],
        {column: values[at] for column, values in rows.operator.items()},
        tuple(rows.caption[k] for k in at) if rows.caption else (),
    )
