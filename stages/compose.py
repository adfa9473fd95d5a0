"""Compose: views' denoisers combined into a base, and a regularised residual trained on top of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch

from pipeline.backbones import unet
from pipeline.backbones.backbone import Backbone
from pipeline.data.reader import InMemory
from pipeline.diffusion.bins import Bins
from pipeline.diffusion.calibrate import calibrate_base, fill, gates
from pipeline.diffusion.compose import Base, Composed, Residual, View
from pipeline.engine import cluster
from pipeline.engine.train import Make, train
from pipeline.graph import Context, Stage, Step
from pipeline.keys import Key
from pipeline.learning.course import Course
from pipeline.learning.state import State
from pipeline.learning.weights import pack, unpack
from pipeline.objectives.residual import ResidualDenoising
from pipeline.physics.linear import LinearMap
from pipeline.store import Artifact
from stages.corrupt import load, shape_of
from stages.labels import classes_of
from stages.train import Fit, Trains, count, reader


@dataclass(frozen=True)
class Seen:
    """A view and the model of what it shows."""

    map: LinearMap
    model: Step


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
    """

    version: ClassVar[int] = 2

    views: tuple[Seen, ...]
    clean: Step
    held: Step | None = None
    bins: Bins = Bins()
    draws: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        if any(classes_of(view.model.stage) for view in self.views):
            raise ValueError("models are combined without labels: leave condition out of the views' backbones")

    @property
    def untrained(self) -> Base.Config:
        """What it makes, but for what the models have learned by then."""
        views = tuple(View(view.map, view.model.stage.network) for view in self.views)  # pyright: ignore[reportAttributeAccessIssue]
        return Base.Config(shape_of(self.clean), views, self.bins)

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
    trained = [unpack(model.read, device) for model in models]
    full, judge = load(clean), load(held)
    views = tuple(View(view.map, model.config) for view, model in zip(stage.views, trained, strict=True))
    base = Base.Config(full.shape, views, stage.bins).build().eval().requires_grad_(False).to(device)
    for mine, model in zip(base.models, trained, strict=True):
        mine.load_state_dict(model.state_dict())
    found: dict[str, object] = dict(fill(base, full.x().to(device)))
    calibrate_base(base, judge.x().to(device), judge.ids, Key(stage.seed).fold("base"), stage.draws)
    found["sigma"] = base.config.bins.centres().tolist()
    found["view_error"] = base.error.tolist()
    found["stack"] = base.stack.tolist()
    found["scale"] = base.scale.tolist()
    return pack(base), found


@dataclass(frozen=True)
class Regularisation:
    """What keeps the residual close to no correction at all; weight decay and dropout stand with the optimiser and net.

    Args:
        output_l2: λ of the penalty λ |F|², which shrinks the best F to F/(1 + λ).
        gate: whether to measure, per noise bin, how far along F to go on held-out full images.
    """

    output_l2: float = 0.3
    gate: bool = True

    def __post_init__(self) -> None:
        if self.output_l2 < 0:
            raise ValueError(f"output_l2 is {self.output_l2}: give 0 or more")


@dataclass(frozen=True)
class TrainResidual(Trains):
    """Base plus residual: a composed denoiser, its residual trained on the full images `clean`, gated on `held`."""

    version: ClassVar[int] = 2

    base: Step
    clean: Step
    held: Step
    backbone: Backbone = unet.Config()
    regularisation: Regularisation = Regularisation()
    fit: Fit = Fit()
    seed: int = 0

    @property
    def network(self) -> Residual.Config:
        """What is trained, but for the spread of the data."""
        views: tuple[Seen, ...] = self.base.stage.views  # pyright: ignore[reportAttributeAccessIssue]
        return Residual.Config(shape_of(self.clean), len(views), self.backbone)

    @property
    def sets(self) -> list[Step]:
        """What the residual learns from."""
        return [self.clean]

    def make(self, open: Callable[[Step], Artifact]) -> Make:
        return partial(_course, self, open(self.base), open(self.clean))

    def run(self, at: Context) -> None:
        save = partial(_save, self, at.open(self.base), at.open(self.held))
        metrics = train(self.make(at.open), save, at, self.fit.cadence, count([at.open(self.clean)]))
        at.out.write("metrics.json", json.dumps(metrics))


def _course(stage: TrainResidual, base: Artifact, clean: Artifact, device: torch.device) -> Course:
    module, examples = unpack(base.read, device, Base), load(clean)
    x0 = examples.x()
    std = float((x0 - x0.mean(0)).square().mean().sqrt())
    key = Key(stage.seed).fold("residual")
    torch.manual_seed(key.fold("weights").integer())
    net = Residual.Config(examples.shape, len(module.maps), stage.backbone, std).build().to(device)
    return Course(
        state=stage.fit.state(net),
        batches=reader(examples, stage.fit, stage.seed),
        objective=ResidualDenoising(module, stage.regularisation.output_l2),
        levels=stage.fit.levels,
        clock=stage.fit.clock,
        key=key,
        bf16=stage.fit.bf16,
        names=InMemory(examples).ids,
    )


def _save(stage: TrainResidual, base: Artifact, held: Artifact, state: State) -> dict[str, bytes]:
    net = state.result()
    if not isinstance(net, Residual):
        raise TypeError(f"the state holds a {type(net).__name__}, not a Residual")
    device = next(net.parameters()).device
    module = unpack(base.read, device, Base)
    config = Composed.Config(module.config.shape, module.config, net.config)
    composed = config.build().eval().requires_grad_(False).to(device)
    composed.base.load_state_dict(module.state_dict())
    composed.residual.load_state_dict(net.state_dict())
    if stage.regularisation.gate:
        judge = load(held)
        key = Key(stage.seed).fold("gate")
        composed.gate.copy_(gates(module, net, judge.x().to(device), judge.ids, key, draws=32))
    found = {
        "sigma": module.config.bins.centres().tolist(),
        "scale": module.scale.tolist(),
        "gate": composed.gate.tolist(),
    }
    return pack(composed) | {"calibration.json": json.dumps(found).encode()}
