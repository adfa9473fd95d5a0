"""Combine: views' denoisers become one, the base of a residual (residual.py)."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from pipeline.data.manifest import Manifest
from pipeline.diffusion.account import Account, accounting
from pipeline.diffusion.bins import Bins
from pipeline.diffusion.calibrate import (
    Calibration,
    Sums,
    answered,
    asked,
    calibration,
    here,
    part,
    pieces,
    total,
)
from pipeline.diffusion.combine import Mode, resolve
from pipeline.diffusion.compose import Base, View
from pipeline.diffusion.denoiser import Trained
from pipeline.diffusion.told import Asked, Told
from pipeline.diffusion.unseen import fill
from pipeline.engine import cluster
from pipeline.engine.tasks import each
from pipeline.graph import Context, Stage, Step
from pipeline.keys import Key
from pipeline.learning.weights import pack, unpack
from pipeline.physics.linear import LinearMap
from pipeline.store import Artifact
from stages.conditioned import condition_of
from stages.corrupt import load, shape_of

log = logging.getLogger("kintsugi")


@dataclass(frozen=True)
class Seen:
    """A view and the model of what it shows, or one that is told which of many it is asked at (`TrainTold`).

    Below σ = `least` the model is not heard.
    """

    map: LinearMap
    model: Step
    least: float = 0.0


@dataclass(frozen=True)
class Combine(Stage):
    """The base denoiser of several views.

    What is measured are sums over the held-out images, of pieces of them by as many workers as there are, the same
    numbers whatever their number.

    Args:
        views: the views and their models.
        clean: full images, which give the mean and the variance of what no view sees.
        held: full images that no view's model was trained on, which measure the views' errors (None: `clean`).
        bins: the noise levels at which is measured.
        draws: noise draws an image and level.
        seed: of the noise.
        mode: how the views are combined (pipeline/diffusion/combine.py).
    """

    version: ClassVar[int] = 5  # 5: without a view, its directions have a variance of their own

    views: tuple[Seen, ...]
    clean: Step
    held: Step | None = None
    bins: Bins = Bins()
    draws: int = 16
    seed: int = 0
    mode: Mode = Mode.AUTO

    def __post_init__(self) -> None:
        resolve(self.mode, [view.map for view in self.views])
        if any(condition_of(view.model.stage) for view in self.views):
            raise ValueError("models are combined without conditions: leave them out of the views' backbones")

    @property
    def untrained(self) -> Base.Config:
        """What it makes, but for what the models have learned by then."""
        networks = [view.model.stage.network for view in self.views]  # pyright: ignore[reportAttributeAccessIssue]
        return Base.Config(shape_of(self.clean), self.parts(networks), self.bins, self.mode)

    def parts(self, networks: Sequence[Trained]) -> tuple[View, ...]:
        """The views with their models, of which views that follow one another share one that is told."""
        found, last = [], None
        for view, network in zip(self.views, networks, strict=True):
            if isinstance(network, Told.Config):
                shared, last = last == view.model.fingerprint, view.model.fingerprint
                network = Asked.Config(view.map, None if shared else network, network.telling)
            found.append(View(view.map, network, view.least))
        return tuple(found)

    def run(self, at: Context) -> None:
        models = [at.open(view.model) for view in self.views]
        source = Source(self, models, at.open(self.clean), at.open(self.held or self.clean))
        count = pieces(Manifest.open(source.held.file).rows)
        if count == 1 or at.scale.gpus:  # where there is a device, one process with it is the faster
            files, found = cluster.call(at.scale, _combined, source)
        else:
            filled, known = cluster.call(at.scale, _filled, source), []
            while len(known) < ASKED:
                parts = dict(each(partial(_part, source, filled, known), list(range(count)), at))
                known.append(total([parts[piece] for piece in range(count)]))
            files, found = cluster.call(at.scale, _finished, source, filled, known)
        for name, data in files.items():
            at.out.write(name, data)
        at.out.write("calibration.json", json.dumps(found))
        at.tracker.card("calibration.json", found)


@dataclass(frozen=True)
class Source:
    """What a base is made of: the views' models, full images, and those held out."""

    stage: Combine
    models: list[Artifact]
    clean: Artifact
    held: Artifact

    def base(self, device: str) -> Base:
        """Uncalibrated."""
        once, stage = {model.address: model for model in self.models}, self.stage
        opened = {address: unpack(model.read, device) for address, model in once.items()}
        trained = [opened[model.address] for model in self.models]
        views, shape = stage.parts([model.config for model in trained]), load(self.clean).shape
        base = Base.Config(shape, views, stage.bins, stage.mode).build().eval().requires_grad_(False).to(device)
        base.take(trained)
        return base


@dataclass(frozen=True)
class Filled:
    """What a base says of the directions that no view sees."""

    mean: Tensor
    null: Tensor
    bare: Tensor
    found: dict[str, float]


HARM = 1.05  # times the error of least squares from which on a combination is warned of
ASKED = 4  # how many sums _calibrated asks for: of errors, lifts, what is left, and the account of views


def _calibrated(base: Base, stage: Combine) -> Calibration[tuple[Tensor, Account]]:
    key = Key(stage.seed).fold("base")
    covariance = yield from calibration(base, key, stage.draws)
    return covariance, (yield from accounting(base, key, max(1, stage.draws // 4)))


def _filled(source: Source) -> Filled:
    base = source.base("cpu")
    found = fill(base, load(source.clean).x())
    return Filled(base.mean, base.null, base.bare, found)


def _part(source: Source, filled: Filled, known: list[Sums], piece: int) -> tuple[int, Sums]:
    """What is asked for next, of one piece of the held-out images."""
    base, held = _begun(source, filled), load(source.held)
    wanted = asked(_calibrated(base, source.stage), known)
    return piece, part(wanted, base.config.bins, held.x(), held.ids, piece)


def _finished(source: Source, filled: Filled, known: list[Sums]) -> tuple[dict[str, bytes], dict[str, object]]:
    base, left = _begun(source, filled), list(known)
    return _told(source, base, filled.found, answered(_calibrated(base, source.stage), lambda _: left.pop(0)))


def _begun(source: Source, filled: Filled) -> Base:
    base = source.base("cpu")
    base.mean.copy_(filled.mean)
    base.null.copy_(filled.null)
    base.bare.copy_(filled.bare)
    return base


def _combined(source: Source) -> tuple[dict[str, bytes], dict[str, object]]:
    """All of it in one process."""
    base, held = source.base("cuda" if torch.cuda.is_available() else "cpu"), load(source.held)
    found = fill(base, load(source.clean).x().to(base.mean.device))
    x0 = held.x().to(base.mean.device)
    return _told(source, base, found, here(_calibrated(base, source.stage), base.config.bins, x0, held.ids))


def _told(
    source: Source, base: Base, filled: dict[str, float], came: tuple[Tensor, Account]
) -> tuple[dict[str, bytes], dict[str, object]]:
    """The base's files, and what its report needs."""
    covariance, told = came
    if told.harm > HARM:
        log.warning(
            "views combined by %s have %.1f times the error of least squares on held-out images: leave combine auto",
            *(base.mode.value, told.harm),
        )
    found: dict[str, object] = dict(filled)
    found |= {"mode": base.mode.value, "harm": told.harm, "worth": told.worth(source.stage.bins)}
    found |= {name: getattr(told, name).tolist() for name in ("error", "without", "lift", "weight")}
    found["groups"] = base.groups
    found["sigma"] = base.config.bins.centres().tolist()
    found["view_error"] = base.error.tolist()
    found["covariance"] = covariance.tolist()
    found["stack"] = base.stack.tolist()
    found["scale"] = base.scale.tolist()
    return pack(base), found
