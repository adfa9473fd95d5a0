"""Denoise: rows that hold white noise become clean images, along the path on which the model believes it came in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from pipeline.data.damaged import EMBEDDING
from pipeline.data.hiding import check_whole
from pipeline.data.manifest import Manifest, name
from pipeline.data.records import Examples
from pipeline.data.shards import read_shard
from pipeline.diffusion.denoiser import Network
from pipeline.diffusion.sample import Heun, Sampler
from pipeline.engine.shards import Report, map_shards
from pipeline.graph import Context, Stage, Step
from pipeline.keys import Key
from pipeline.learning.weights import unpack
from pipeline.store import Artifact
from stages.ambient import SIGMA, told_noise
from stages.conditioned import cond_of
from stages.corrupt import shape_of
from stages.layers import known


@dataclass(frozen=True)
class Denoise(Stage):
    """For every row y = x₀ + σ z of `data` the end of the sampler's path from y at σ, in half precision.

    The probability-flow ODE (`Heun`) moves a model's law one step towards the data's; a stochastic sampler draws from
    its posterior, which is slower to get there ("SFBD", Lu et al., arXiv 2502.05446; docs/noisy.md has the rates).

    Args:
        model: a denoiser, which is told the rows' labels where it takes any.
        data: rows that hold white noise.
        noise: its σ; None: each row says its own (column "sigma").
        sampler: how the path is followed: its levels below σ.
        seed: of a stochastic sampler's noise, which is keyed by the row's id.
        batch: rows at a time.
        unless: what has decided whether to go on (stages/proximal.py); where it did not, nothing is made.
    """

    model: Step
    data: Step
    noise: float | None
    sampler: Sampler = Heun(steps=64)
    seed: int = 0
    batch: int = 256
    unless: Step | None = None

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ValueError(f"batch is {self.batch}: give at least 1")
        if self.noise is not None and not 0 < self.noise <= self.sampler.sigma_max:
            raise ValueError(f"noise is {self.noise}: give the σ that the rows hold, up to sampler.sigma_max")

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one row."""
        return shape_of(self.data)

    def run(self, at: Context) -> None:
        data = at.open(self.data)
        told = Manifest.open(data.file)
        check_whole(told, data)
        told_noise(told, data, self.noise)
        if self.unless is not None and at.open(self.unless).json("proximal.json")["over"]:
            Manifest.of([], told.shape, "float16").write(at.out)
            return
        model = at.open(self.model)
        load = partial(loaded, model, tuple(told.shape))
        bare = replace(self, model=known(self.model), data=known(self.data), unless=None)
        counts = map_shards(partial(_denoise, bare, data), told.filled().tolist(), at, load=load)
        Manifest.of(counts, told.shape, "float16").write(at.out)


def loaded(model: Artifact, shape: tuple[int, ...]) -> Network:
    """A denoiser, where it is to work. Raises ValueError: it makes images of another shape."""
    D = unpack(model.read, "cuda" if torch.cuda.is_available() else "cpu")
    if tuple(D.config.shape) != shape:  # pyright: ignore[reportAttributeAccessIssue]
        raise ValueError(f"the model makes images {tuple(D.config.shape)} and the rows are {shape}: name another")
    return D


def _denoise(stage: Denoise, data: Artifact, piece: int, model: Callable[[], Network]) -> tuple[Examples, Report]:
    return denoised(stage, read_shard(data.file(name(piece)), name(piece)), model(), data), {}


def denoised(stage: Denoise, rows: Examples, D: Network, data: Artifact) -> Examples:
    """Rows of a set, denoised as the stage says; a row's outcome does not depend on those beside it."""
    device = D.device
    if stage.noise is None and SIGMA not in rows.operator:
        raise ValueError(f"the rows of {data.address} do not say how much noise they hold: give noise as a number")
    floors = np.full(len(rows), stage.noise) if stage.noise is not None else rows.operator[SIGMA].astype(np.float64)
    if len(rows) and floors.max() > stage.sampler.sigma_max:
        raise ValueError(
            f"{rows.ids[int(floors.argmax())]} of {data.address} holds noise of σ = {floors.max():.3g}, more than the "
            f"sampler.sigma_max = {stage.sampler.sigma_max:g} from which anything is restored: leave such rows out"
        )
    done, told = [], cond_of(D.config, rows)
    for start in range(0, len(rows), stage.batch):
        at = np.arange(start, min(start + stage.batch, len(rows)))
        keys = [Key(stage.seed).fold("denoise", rows.ids[k]) for k in at]
        cond = None if told is None else told[at].to(device)
        done.append(stage.sampler(D, rows.x(at).to(device), torch.from_numpy(floors[at]), cond, keys).cpu())
    return restored(rows, torch.cat(done))


def restored(rows: Examples, found: Tensor) -> Examples:
    """What became of rows, under their ids. Raises ValueError: some of it is not finite, which is named."""
    sound = found.flatten(1).isfinite().all(1)
    if not bool(sound.all()):
        wrong = [rows.ids[k] for k in (~sound).nonzero().flatten()[:3].tolist()]
        raise ValueError(f"the model makes rows that are not finite, such as {', '.join(wrong)}: train it anew")
    kept = {key: rows.operator[key] for key in (EMBEDDING,) if key in rows.operator}
    return Examples.from_x(rows.ids, found.clamp(-1, 1), rows.label, kept, caption=rows.caption)
