"""Combine: views' denoisers become one, the base of a residual (residual.py)."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from pipeline.diffusion.account import account
from pipeline.diffusion.bins import Bins
from pipeline.diffusion.calibrate import calibrate_base, fill
from pipeline.diffusion.combine import Mode, resolve
from pipeline.diffusion.compose import Base, View
from pipeline.diffusion.denoiser import Trained
from pipeline.diffusion.told import Asked, Told
from pipeline.engine import cluster
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

    Args:
        views: the views and their models.
        clean: full images, which give the mean and the variance of what no view sees.
        held: full images that no view's model was trained on, which measure the views' errors (None: `clean`).
        bins: the noise levels at which is measured.
        draws: noise draws an image and level.
        seed: of the noise.
        mode: how the views are combined (pipeline/diffusion/combine.py).
    """

    version: ClassVar[int] = 3  # 3: modes, and the account of views

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
        held = at.open(self.held or self.clean)
        files, found = cluster.call(at.scale, _combine, self, models, at.open(self.clean), held)
        for name, data in files.items():
            at.out.write(name, data)
        at.out.write("calibration.json", json.dumps(found))
        at.tracker.card("calibration.json", found)


def _combine(
    stage: Combine, models: list[Artifact], clean: Artifact, held: Artifact
) -> tuple[dict[str, bytes], dict[str, object]]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    once = {model.address: model for model in models}
    opened = {address: unpack(model.read, device) for address, model in once.items()}
    trained = [opened[model.address] for model in models]
    full, judge = load(clean), load(held)
    views = stage.parts([model.config for model in trained])
    base = Base.Config(full.shape, views, stage.bins, stage.mode).build().eval().requires_grad_(False).to(device)
    base.take(trained)
    found: dict[str, object] = dict(fill(base, full.x().to(device)))
    key = Key(stage.seed).fold("base")
    calibrate_base(base, judge.x().to(device), judge.ids, key, stage.draws)
    told = account(base, judge.x().to(device), judge.ids, key, max(1, stage.draws // 4))
    if told.harm > 1:
        log.warning(
            "the views overlap and are summed: %.1f times the error of least squares; leave mode auto", told.harm
        )
    found |= {"mode": base.mode.value, "harm": told.harm, "worth": told.worth(stage.bins)}
    found |= {name: getattr(told, name).tolist() for name in ("error", "without", "lift", "share")}
    found["sigma"] = base.config.bins.centres().tolist()
    found["view_error"] = base.error.tolist()
    found["stack"] = base.stack.tolist()
    found["scale"] = base.scale.tolist()
    return pack(base), found
