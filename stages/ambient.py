"""TrainAmbient: one denoiser from sets of rows that hold noise of their own, some none, some very much."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.backbones import unet
from pipeline.backbones.backbone import Backbone
from pipeline.data.bands import FINEST, Allowed, Part, banded, grouped, heard
from pipeline.data.manifest import Manifest
from pipeline.data.reader import InMemory, Reader
from pipeline.diffusion.precond import EDM, Preconditioned
from pipeline.engine.train import Make, train
from pipeline.graph import Context, Step
from pipeline.keys import Key
from pipeline.learning.checkpoint import NUMBERS, run_from, whole_run
from pipeline.learning.course import Course
from pipeline.learning.state import State, differing
from pipeline.learning.weights import DESCRIPTION, WEIGHTS, unpack
from pipeline.objectives.ambient import Ambient
from pipeline.objectives.consistency import Consistent
from pipeline.store import Artifact
from stages.conditioned import columns_of, condition_of, taught
from stages.corrupt import shape_of
from stages.ending import LEAST
from stages.layers import TURN, in_front, known, layers
from stages.train import Fit, Trains, count, opened, reader, save

SIGMA = "sigma"  # the column of rows that were told how much noise each holds


@dataclass(frozen=True)
class Learned:
    """A set of rows and how it teaches.

    Args:
        data: the rows.
        noise: the σ of the white noise they hold; None: each says its own (column "sigma").
        weight: of the set among those that may teach at the same level (None: the number of its rows).
        below: the σ above which it does not teach (None: it always may).
        above: the σ below which it does not (None: down to its noise).
        factor: on its weight, such as what a row counts beside those of another set.
    """

    data: Step
    noise: float | None = 0.0
    weight: float | None = None
    below: float | None = None
    above: float | None = None
    factor: float = 1.0

    def __post_init__(self) -> None:
        if self.noise is not None and not 0 <= self.noise < math.inf:
            raise ValueError(f"noise is {self.noise}: give the σ that the rows hold, from 0")
        if self.weight is not None and not 0 < self.weight < math.inf:
            raise ValueError(f"weight is {self.weight}: give a number above 0")
        if not 0 < self.factor < math.inf:
            raise ValueError(f"factor is {self.factor}: give a number above 0, or leave the rows out")
        if self.below is not None and not self.below > max(self.noise or 0, self.above or 0):
            raise ValueError(f"rows with noise {self.noise} cannot teach below {self.below}: raise it")


@dataclass(frozen=True)
class TrainAmbient(Trains):
    """A denoiser of clean images (`denoiser.json`, `weights.safetensors`) from rows of which none need be clean.

    Noise levels are drawn first, then rows that may teach there (pipeline/data/bands.py); the loss is that of
    pipeline/objectives/ambient.py. Below all sets' noise nothing is learned: sample no further down than there.

    Args:
        rows: the sets.
        backbone: the network; one that has a condition is told the rows' labels, captions or embeddings.
        fit: how it is trained.
        seed: of its weights, its order and its noise.
        start: a model of the same network, but for its dropout, whose weights it begins with (None: with fresh ones).
        objective: what is minimised (its preconditioner is the network's); `Consistent` learns below all noise, too.
        unless: what has decided whether to go on (stages/proximal.py); where it did not, the result is `start`.
        onward: an earlier part of the same course, which `keep` has kept: weights, averages, moments of the optimiser
            and the clock go on where it ended, by the schedule that `fit` has and for `fit.images` more.
        keep: whether another part may go on from this one; what is kept takes four times the weights' place.
    """

    rows: tuple[Learned, ...]
    backbone: Backbone = unet.Config()
    fit: Fit = Fit()
    seed: int = 0
    start: Step | None = None
    objective: Ambient = Ambient()
    unless: Step | None = None
    onward: Step | None = None
    keep: bool = False

    def __post_init__(self) -> None:
        if not self.rows:
            raise ValueError("there are no rows to learn from: give a set at least")
        for each in self.rows:
            low = max(self.objective.least(each.noise or 0.0), each.above or 0.0)
            if low and 1 - self.fit.levels.share_below(math.log(low)) < 1 / FINEST:
                raise ValueError(
                    f"rows with noise {each.noise} teach from σ = {low:.3g} only, where next to nothing is learned: "
                    "look at the noise that they are said to hold"
                )
        if self.onward is not None and (self.start is not None or self.unless is not None):
            raise ValueError("onward begins with all that the part before had: leave out start and unless")
        if (self.keep or self.onward is not None) and (self.fit.cosine or self.fit.posthoc is not None):
            raise ValueError(
                "a part of a course has a share of its images: set fit.cosine to false, the whole course's schedule as "
                "fit.optim.schedule, and leave out fit.posthoc"
            )
        if self.unless is not None and self.start is None:
            raise ValueError("unless says when to stay with start: give a start, too")

    @property
    def network(self) -> Preconditioned.Config:
        """What is trained, but for the spread of the data."""
        return Preconditioned.Config(shape_of(self.rows[0].data), self.backbone)

    @property
    def sets(self) -> list[Step]:
        """What it learns from."""
        return [layer for each in self.rows for layer in layers(each.data)]

    @property
    def untrained(self) -> Preconditioned.Config:
        """What stands in for it before it is trained."""
        return self.network

    @property
    def afresh(self) -> TrainAmbient:
        """The same work without what it goes on from."""
        return replace(self, start=None, unless=None, onward=None)

    def make(self, open: Callable[[Step], Artifact]) -> Make:
        begun = self.onward or self.start
        rows = tuple(replace(each, data=known(each.data)) for each in self.rows)
        bare = replace(self, rows=rows, start=None, unless=None, onward=None)  # long chains cannot be pickled
        sets = [[open(layer) for layer in layers(each.data)] for each in self.rows]
        return partial(_course, bare, sets, None if begun is None else open(begun), self.onward is not None)

    def run(self, at: Context) -> None:
        if self.unless is not None and self.start is not None and at.open(self.unless).json("proximal.json")["over"]:
            kept = at.open(self.start)
            for file in {DESCRIPTION, WEIGHTS, "metrics.json"} & set(kept.names()):
                at.out.write(file, kept.read(file))
            return
        sets = [at.open(data) for data in self.sets]
        untold = taught(sets, self, at)
        metrics = train(self.make(at.open), whole_save if self.keep else save, at, self.fit.cadence, count(sets))
        at.out.write("metrics.json", json.dumps(metrics | untold))


def whole_save(state: State) -> dict[str, bytes]:
    """The artifact's files, with all that the run is."""
    return save(state) | whole_run(state)


def _course(
    stage: TrainAmbient, sets: list[list[Artifact]], begun: Artifact | None, onward: bool, device: torch.device
) -> Course:
    parts: list[Part] = []
    for told, (data, *behind) in zip(stage.rows, sets, strict=True):
        told_noise(Manifest.open(data.file), data, told.noise)
        if TURN in data.names():
            rows = InMemory(in_front([data, *behind], stage.fit.memory / len(sets)), columns_of(stage))
        else:
            rows = opened(data, stage.fit.memory / len(sets), columns_of(stage))
        own = told.noise is None
        parts += divided(rows, told, data, stage.objective) if own else [whole(rows, told, stage.objective)]
    model = None if begun is None else unpack(begun.read, device, Preconditioned)
    if begun is None or not onward:
        return course(parts, stage, model, device)
    if NUMBERS not in begun.names():
        raise ValueError(f"{begun.address} keeps nothing to go on from: train it with keep")
    return course(parts, stage, model, device, run_from(begun.read))


def told_noise(rows: Manifest, data: Artifact, noise: float | None, drawn: Collection[str] = ()) -> None:
    """Raises ValueError where rows each say how much noise they hold and something else is said of them.

    They say it where they arrived so, or where that is among what was `drawn` for each.
    """
    if noise is not None and SIGMA in (*rows.more.get("damage", []), *drawn):
        raise ValueError(f"the rows of {data.address} each say their own noise: leave out noise, which is {noise}")


def whole(rows: Reader, told: Learned, objective: Ambient) -> Part:
    """A set of one noise, as a part of a mixture."""
    floor = told.noise or 0.0
    low = max(objective.least(floor), told.above or 0.0)
    return rows, floor, Allowed(low, told.below or math.inf, told.factor * (told.weight or len(rows)))


def divided(rows: Reader, told: Learned, data: Artifact, objective: Ambient) -> list[Part]:
    """A set whose rows each have their own noise, in groups of about as much; a group teaches above its noisiest row.

    Raises ValueError where the rows do not say it, or do not fit into memory.
    """
    if not isinstance(rows, InMemory):
        raise ValueError(f"rows of {data.address} each have a noise of their own: raise fit.memory, to hold them")
    held = rows.examples
    if SIGMA not in held.operator:
        raise ValueError(f"the rows of {data.address} do not say how much noise they hold: give noise as a number")
    floors = held.operator[SIGMA].astype(np.float64)
    order = np.argsort(floors, kind="stable")
    found: list[Part] = []
    for group in (np.sort(order[first:last]) for first, last in grouped(floors[order])):
        part = InMemory(held.take(group), rows.columns)
        where = Allowed(
            max(objective.least(float(floors[group].max())), told.above or 0.0),
            told.below or math.inf,
            told.factor * (told.weight or len(held)) * len(group) / len(held),
            spare=True,
        )
        found.append((part, floors[group], where))
    return found


def course(
    parts: Sequence[Part],
    stage: TrainAmbient,
    start: Preconditioned | None,
    device: torch.device,
    earlier: tuple[dict[str, Tensor], dict[str, Any]] | None = None,
) -> Course:
    """What a worker trains on parts of a mixture: the stage's network, as `start` has it or drawn from its seed.

    With what an `earlier` run ended as, it goes on from there for `fit.images` more.
    """
    key, parts = Key(stage.seed).fold("ambient"), heard(parts, stage.fit.levels)
    torch.manual_seed(key.fold("weights").integer())
    if start is None:
        centre, spread = moments(parts)
        model = Preconditioned.Config(parts[0][0].shape, stage.backbone, EDM(sigma_data=spread)).build()
        model.centre.copy_(centre)
    else:
        model = replace(start.config, backbone=stage.backbone).build()
        if told := differing(start.state_dict(), model.state_dict(), "of start"):
            raise ValueError(f"start has another network than backbone: {told}")
        model.load_state_dict(start.state_dict())
    return learning(model.to(device), parts, stage.fit, stage.seed, stage.objective, key, earlier)


def learning(
    model: Preconditioned,
    parts: Sequence[Part],
    fit: Fit,
    seed: int,
    objective: Ambient,
    key: Key,
    earlier: tuple[dict[str, Tensor], dict[str, Any]] | None = None,
) -> Course:
    """What a worker trains, of a model on its device."""
    if fit.shift and any(np.max(floors) > 0 for _, floors, _ in parts):
        raise ValueError("fit.shift repeats edges and these rows are noisy, which that would falsify: leave it 0")
    mixed, clock = banded(parts, fit.levels), fit.clock
    return Course(
        state=fit.state(model),
        batches=reader(mixed, fit, seed, condition_of(model.config)),
        objective=replace(objective, precond=model.config.precond),
        levels=fit.levels,
        clock=clock if earlier is None else replace(clock, images=earlier[1]["images"] + clock.images),
        key=key,
        bf16=fit.bf16,
        tf32=fit.tf32,
        names=mixed.ids,
        earlier=earlier,
        found={} if isinstance(objective, Consistent) else {LEAST: min(where.low for *_, where in parts)},
    )


def moments(parts: Sequence[Part]) -> tuple[Tensor, float]:
    """The mean image of all rows and the root mean square about it of what they show, their noise taken off."""
    if len(shapes := {tuple(rows.shape) for rows, *_ in parts}) > 1:
        raise ValueError(f"the rows to learn from have shapes {sorted(shapes)}: bring them to one (--size, --resize)")
    counts = torch.tensor([float(len(rows)) for rows, *_ in parts], dtype=torch.float64)
    share = counts / counts.sum()
    found = [rows.moments() for rows, *_ in parts]
    centres = torch.stack([centre.double() for centre, _ in found])
    centre = torch.einsum("k,k...->...", share, centres)
    noise = torch.tensor([float(np.mean(np.square(floors))) for _, floors, _ in parts], dtype=torch.float64)
    within = torch.tensor([spread**2 for _, spread in found], dtype=torch.float64)
    between = ((centres - centre) ** 2).flatten(1).mean(1)
    if not float((share * (within + between)).sum()) > 0:
        raise ValueError(f"the {int(counts.sum())} rows to learn from are all alike: give more, and different ones")
    variance = float((share * (within - noise + between)).sum())
    return centre.float(), math.sqrt(max(variance, 1e-4 * float((share * within).sum())))
