"""Train: one denoiser from one set of rows, or from several by stated proportions."""

from __future__ import annotations

import json
import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.backbones import unet
from pipeline.backbones.backbone import Backbone
from pipeline.backbones.condition import Condition
from pipeline.data.augment import Augment
from pipeline.data.bands import FLOOR, levelled
from pipeline.data.beside import BESIDE
from pipeline.data.damaged import NOISY
from pipeline.data.hiding import MASK, check_whole
from pipeline.data.manifest import Manifest
from pipeline.data.mix import Mixed, whole
from pipeline.data.reader import InMemory, Reader
from pipeline.data.records import Examples
from pipeline.data.stream import Streamed
from pipeline.diffusion.levels import Levels, Stratified
from pipeline.diffusion.precond import EDM, Preconditioned
from pipeline.engine.train import Cadence, Make, train
from pipeline.graph import Context, Scale, Stage, Step
from pipeline.keys import Key
from pipeline.learning.course import Course
from pipeline.learning.ema import EMA
from pipeline.learning.loop import Clock
from pipeline.learning.optim import AdamW, Constant, Cosine
from pipeline.learning.posthoc import PostHoc
from pipeline.learning.state import State
from pipeline.learning.weighting import LevelWeight
from pipeline.learning.weights import pack
from pipeline.objectives.denoising import Denoising
from pipeline.objectives.objective import Batch
from pipeline.store import Artifact, Store
from stages.conditioned import columns_of, condition_of, taught, told
from stages.corrupt import load, rows_of, shape_of


@dataclass(frozen=True)
class Fit:
    """How a network is trained, in images seen.

    Args:
        images: how many images are seen in all.
        batch: how many make one step, over all workers.
        optim: optimiser, rate, weight decay, warm-up, clipping.
        cosine: whether the rate falls to zero along half a cosine over the whole run, not as `optim.schedule` says.
        ema: half-life of the averaged weights that are kept.
        levels: where noise levels are drawn.
        shift: largest random shift in pixels, of half of the images; edges repeat, so that noisy sets are refused.
        dihedral: whether images are turned and mirrored at random; fit for noisy ones too, not for views that have a
            place.
        bf16: whether the network computes in bfloat16 while it is trained (weights, averages and results: float32).
        tf32: whether products of float32 are rounded to 10 bits by tensor cores; beside bf16 little is left to gain.
        weigh_levels: whether the weight of each noise level is learned too, so that all come to count alike.
        posthoc: averages to keep from which those of other widths near them are made afterwards (stages/average.py).
        memory: GiB of images that a worker may hold; a larger set is streamed from its shards, in an order of its own.
        unconditional: the share of labels, captions or embeddings that a network with a condition is not told, so that
            it can also do without; 0.1 as a rule where classifier-free guidance is wanted.
        skips: how many steps with a loss or gradient that is not finite are left out before one stops training.
        rollbacks: how often training, instead of stopping so, returns to where it last was a fifth, two, three or four
            of its way, and goes on from there with the images after those that led to it.
    """

    images: int = 96_000
    batch: int = 64
    optim: AdamW = AdamW(lr=4e-3, betas=(0.9, 0.99), weight_decay=0.01, warmup=2_000)
    cosine: bool = True
    ema: EMA = EMA(halflife=2_500, ramp=0.15)
    levels: Levels = Stratified()
    shift: int = 0
    dihedral: bool = False
    memory: float = 4.0
    bf16: bool = False
    tf32: bool = False
    weigh_levels: bool = False
    posthoc: PostHoc | None = None
    unconditional: float = 0.0
    skips: int = 0
    rollbacks: int = 0

    def __post_init__(self) -> None:
        if self.images < 1 or self.batch < 1 or self.shift < 0:
            raise ValueError(f"images is {self.images}, batch {self.batch}, shift {self.shift}: give positive numbers")
        if self.cosine and self.optim.schedule != Constant():
            kind = type(self.optim.schedule).__name__
            raise ValueError(
                f"cosine would replace optim.schedule, {kind}: set cosine to false first, or leave that out"
            )
        if not 0 <= self.memory < math.inf:
            raise ValueError(f"memory is {self.memory}: give the GiB of images to hold, or 0 to stream every set")
        if not 0 <= self.unconditional < 1:
            raise ValueError(f"unconditional is {self.unconditional}: give a share of what is told, within [0, 1)")
        _ = self.clock  # its complaints are due now

    def decayed(self, weight_decay: float) -> Fit:
        """The same with another weight decay."""
        return replace(self, optim=replace(self.optim, weight_decay=weight_decay))

    def state(self, model: nn.Module) -> State:
        """A run's beginning."""
        optim = replace(self.optim, schedule=Cosine(self.images)) if self.cosine else self.optim
        return State.create(model, optim, self.ema, self.posthoc, LevelWeight() if self.weigh_levels else None)

    @property
    def clock(self) -> Clock:
        """The loop's clock."""
        more = {"skips": self.skips, "rollbacks": self.rollbacks, "anchor": self.cadence.checkpoint}
        return Clock(images=self.images, batch=self.batch, **more)

    @property
    def cadence(self) -> Cadence:
        """Fifty posts and five checkpoints in a run, and the averages to be kept."""
        kept = max(self.batch, self.images // self.posthoc.snapshots) if self.posthoc else None
        post, checkpoint = (max(self.batch, self.images // times) for times in (50, 5))
        return Cadence(batch=self.batch, post=post, checkpoint=checkpoint, averages=kept)


class Trains(Stage):
    """A stage that trains a network, of which can be known what it trains without doing so.

    `stream` is which of the metrics that it posts says how well it does so far; smaller is better.
    """

    stream: ClassVar[str] = "loss"

    fit: Fit

    @property
    @abstractmethod
    def sets(self) -> list[Step]:
        """What it learns from."""

    def suits(self, scale: Scale, store: Store) -> None:
        rows = [rows_of(data, store) for data in self.sets]
        scale.worlds(self.fit.batch, None if None in rows else sum(map(int, filter(None, rows))))

    @abstractmethod
    def make(self, open: Callable[[Step], Artifact]) -> Make:
        """What gives a worker its course; `open` gives the artifacts of the stage's needs."""


@dataclass(frozen=True)
class Share:
    """A set of rows and how many of a mixture's it has, as a weight among the others'."""

    data: Step
    weight: float = 1.0


@dataclass(frozen=True)
class Train(Trains):
    """A denoiser (`denoiser.json`, `weights.safetensors`), by plain denoising.

    Args:
        data: the rows it learns from.
        backbone: the network; one that has a condition is told the rows' labels, captions or embeddings.
        fit: how it is trained.
        seed: of its weights, its order and its noise.
        also: further rows, such as restored ones; every batch has rows of each set by the weights.
        weight: that of `data` among them.
    """

    data: Step
    backbone: Backbone = unet.Config()
    fit: Fit = Fit()
    seed: int = 0
    also: tuple[Share, ...] = ()
    weight: float = 1.0

    def __post_init__(self) -> None:
        self.weights()

    def weights(self) -> tuple[int, ...]:
        """Of `data` and the sets in `also`, as whole numbers."""
        return whole([self.weight, *(share.weight for share in self.also)])

    @property
    def network(self) -> Preconditioned.Config:
        """What is trained, but for the spread of the data."""
        return Preconditioned.Config(shape_of(self.data), self.backbone)

    @property
    def sets(self) -> list[Step]:
        """What it learns from."""
        return [self.data, *(share.data for share in self.also)]

    def make(self, open: Callable[[Step], Artifact]) -> Make:
        return partial(course, self, [open(data) for data in self.sets])

    def run(self, at: Context) -> None:
        sets = [at.open(data) for data in self.sets]
        untold = taught(sets, self, at)
        metrics = train(self.make(at.open), save, at, self.fit.cadence, count(sets))
        at.out.write("metrics.json", json.dumps(metrics | untold))


def course(stage: Train, sets: list[Artifact], device: torch.device) -> Course:
    """What a worker trains: the stage's network, freshly drawn from its seed, on the rows of the sets."""
    if stage.fit.shift and any({"damage", NOISY} & Manifest.open(data.file).more.keys() for data in sets):
        raise ValueError("fit.shift repeats edges and these rows are noisy, which that would falsify: leave it 0")
    parts = tuple(opened(data, stage.fit.memory / len(sets), columns_of(stage)) for data in sets)
    rows = parts[0] if len(parts) == 1 else Mixed(parts, stage.weights())
    centre, spread = rows.moments()
    precond = EDM(sigma_data=spread)
    key = Key(stage.seed).fold("train")
    torch.manual_seed(key.fold("weights").integer())
    model = Preconditioned.Config(rows.shape, stage.backbone, precond).build()
    model.centre.copy_(centre)
    return Course(
        state=stage.fit.state(model.to(device)),
        batches=reader(rows, stage.fit, stage.seed, condition_of(stage)),
        objective=Denoising(precond),
        levels=stage.fit.levels,
        clock=stage.fit.clock,
        key=key,
        bf16=stage.fit.bf16,
        tf32=stage.fit.tf32,
        names=rows.ids,
    )


def count(sets: Sequence[Artifact]) -> int:
    """How many rows sets have together."""
    return sum(Manifest.open(data.file).rows for data in sets)


def save(state: State) -> dict[str, bytes]:
    """The artifact's files."""
    return pack(state.result())


def opened(data: Artifact, memory: float, columns: tuple[str, ...] = (), masked: bool = False) -> Reader:
    """The rows of a set: in memory where they take at most `memory` GiB, which all machines agree on, else streamed.

    Raises ValueError where they are seen through masks, which they arrived with or got here, unless that is `masked`.
    """
    manifest, most = Manifest.open(data.file), int(memory * 2**30)
    if not masked:
        check_whole(manifest, data)
    if manifest.rows * math.prod(manifest.shape) * np.dtype(manifest.dtype).itemsize <= most:
        return InMemory(load(data), columns)
    return Streamed(data.place, manifest, columns, most)


def reader(
    rows: Reader | Examples, fit: Fit, seed: int, condition: Condition | None = None
) -> Callable[[int, int, int], Iterator[Batch]]:
    """`batches(start, rank, world)` of a course: keyed order, shifts and conditions, the same for every world size."""
    source = InMemory(rows) if isinstance(rows, Examples) else rows
    turn = Augment()

    def stream(start: int, rank: int, world: int) -> Iterator[Batch]:
        share = fit.batch // world
        for k, part in enumerate(source.batches(fit.batch, seed, start, rank, world)):
            x, at, cond = part.packed(), start + k * fit.batch, None
            if fit.shift:
                x = shifted(x, fit.shift, Key(seed).fold("shift", at), rank * share, fit.batch)
            moved = {"x": x} | ({MASK: torch.from_numpy(part.columns[MASK])} if MASK in part.columns else {})
            if fit.dihedral:
                moved = turn(moved, seed, at + rank * share)
            if condition is not None:
                keyed, values = Key(seed).fold("unconditional", at), part.columns[condition.column]
                cond = told(condition, values, fit.unconditional, keyed, rank * share, fit.batch)
            index = torch.from_numpy(part.index)
            beside = torch.from_numpy(part.columns[BESIDE]) if BESIDE in part.columns else None
            batch = Batch(moved["x"], cond, index, rank * share, fit.batch, mask=moved.get(MASK), beside=beside)
            if FLOOR in part.columns:
                floor = torch.from_numpy(part.columns[FLOOR].astype(np.float32))
                sigma = levelled(fit.levels, part, Key(seed).fold("sigma", at), batch)
                batch = replace(batch, floor=floor, sigma=sigma)
            yield batch

    return stream


def shifted(x: Tensor, most: int, key: Key, offset: int, total: int) -> Tensor:
    """Half of the images x (B, C, H, W) moved by up to `most` pixels each way, edges repeated.

    The B rows are rows `offset` to `offset + B` of a global batch of `total`, for which the shifts are drawn.
    """
    moves = key.numpy().integers(-most, most + 1, (total, 2)) * key.fold("half").numpy().integers(0, 2, (total, 1))
    rows = torch.arange(x.shape[-2])
    columns = torch.arange(x.shape[-1])
    down, right = torch.from_numpy(moves[offset : offset + len(x)]).T
    rows = (rows[None] - down[:, None]).clamp(0, x.shape[-2] - 1)
    columns = (columns[None] - right[:, None]).clamp(0, x.shape[-1] - 1)
    batch = torch.arange(len(x))[:, None, None]
    return x.movedim(1, -1)[batch, rows[:, :, None], columns[:, None, :]].movedim(-1, 1).contiguous()
