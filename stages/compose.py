"""Compose: views' denoisers combined into a base, and a regularised residual trained on top of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from pipeline.backbones import unet
from pipeline.backbones.backbone import Backbone
from pipeline.data.records import Examples
from pipeline.diffusion.bins import Bins
from pipeline.diffusion.calibrate import calibrate_base, gates, residual_scale
from pipeline.diffusion.compose import Base, Composed, Residual, View
from pipeline.diffusion.precond import Preconditioned
from pipeline.engine.cluster import call
from pipeline.engine.train import train
from pipeline.graph import Context, Stage, Step
from pipeline.keys import Key
from pipeline.learning.course import Course
from pipeline.learning.state import State
from pipeline.learning.weights import pack, unpack
from pipeline.objectives.residual import ResidualDenoising
from pipeline.physics.linear import LinearMap
from pipeline.store import Artifact
from stages.corrupt import load
from stages.train import Fit, reader


@dataclass(frozen=True)
class Seen:
    """A view and the model of what it shows."""

    map: LinearMap
    model: Step


@dataclass(frozen=True)
class Combine(Stage):
    """The base denoiser of several views, calibrated on full images that none of them was trained on."""

    views: tuple[Seen, ...]
    clean: Step
    bins: Bins = Bins()
    draws: int = 16
    seed: int = 0

    def run(self, at: Context) -> None:
        models = [at.open(view.model) for view in self.views]
        files, found = call(at.scale, _combine, self, models, at.open(self.clean))
        for name, data in files.items():
            at.out.write(name, data)
        at.out.write("calibration.json", json.dumps(found))
        at.tracker.card("calibration.json", found)


def _combine(stage: Combine, models: list[Artifact], clean: Artifact) -> tuple[dict[str, bytes], dict[str, object]]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    trained = [unpack(model.read, device, Preconditioned) for model in models]
    examples = load(clean)
    views = tuple(View(view.map, model.config) for view, model in zip(stage.views, trained, strict=True))
    base = Base.Config(examples.shape, views, stage.bins).build().eval().requires_grad_(False).to(device)
    for mine, model in zip(base.models, trained, strict=True):
        mine.load_state_dict(model.state_dict())
    found: dict[str, object] = dict(
        calibrate_base(base, examples.x().to(device), examples.ids, Key(stage.seed).fold("base"), stage.draws)
    )
    found["sigma"] = base.config.bins.centres().tolist()
    found["view_error"] = base.error.tolist()
    found["stack"] = base.stack.tolist()
    return pack(base), found


@dataclass(frozen=True)
class Regularisation:
    """What keeps the residual close to no correction at all; weight decay and dropout stand with the optimiser and net.

    Args:
        output_l2: λ of the penalty λ |F|², which shrinks the best F to F/(1 + λ).
        gate: whether to measure, per noise bin, how far along F to go on clean images held out from its training.
        held_out: the share of the clean images so held out.
    """

    output_l2: float = 0.3
    gate: bool = True
    held_out: float = 0.2

    def __post_init__(self) -> None:
        if self.output_l2 < 0 or not 0 < self.held_out < 1:
            raise ValueError(f"output_l2 is {self.output_l2} and held_out {self.held_out}: give >= 0 and within (0, 1)")


@dataclass(frozen=True)
class TrainResidual(Stage):
    """Base plus residual: a composed denoiser, its residual trained on the few full images in `clean`."""

    base: Step
    clean: Step
    backbone: Backbone = unet.Config()
    regularisation: Regularisation = Regularisation()
    fit: Fit = Fit()
    seed: int = 0

    def run(self, at: Context) -> None:
        base, clean = at.open(self.base), at.open(self.clean)
        make, save = partial(_course, self, base, clean), partial(_save, self, base, clean)
        metrics = train(make, save, at, self.fit.cadence)
        at.out.write("metrics.json", json.dumps(metrics))

    def parts(self, examples: Examples) -> tuple[Examples, Examples]:
        """The rows that train F, and those held out for the gates (all for both without gates)."""
        if not self.regularisation.gate:
            return examples, examples
        key = Key(self.seed).fold("held out")
        ranked = sorted(range(len(examples)), key=lambda i: key.fold(examples.ids[i]).bits())
        held = max(1, round(self.regularisation.held_out * len(examples)))
        return examples.take(sorted(ranked[held:])), examples.take(sorted(ranked[:held]))


def _prepare(
    stage: TrainResidual, base: Artifact, clean: Artifact, device: torch.device
) -> tuple[Base, Tensor, Examples, Examples, float]:
    """The base, its error scale c_r, and the rows for training and for gates."""
    module = unpack(base.read, device, Base)
    examples = load(clean)
    x0 = examples.x().to(device)
    scale = residual_scale(module, x0, examples.ids, Key(stage.seed).fold("scale")).to(device)
    return module, scale, *stage.parts(examples), float((x0 - x0.mean(0)).square().mean().sqrt())


def _course(stage: TrainResidual, base: Artifact, clean: Artifact, device: torch.device) -> Course:
    module, scale, examples, _, std = _prepare(stage, base, clean, device)
    key = Key(stage.seed).fold("residual")
    torch.manual_seed(key.fold("weights").integer())
    net = Residual.Config(examples.shape, len(module.maps), stage.backbone, std).build().to(device)
    return Course(
        state=stage.fit.state(net),
        batches=reader(examples, stage.fit, stage.seed),
        objective=ResidualDenoising(module, scale, stage.regularisation.output_l2),
        levels=stage.fit.levels,
        clock=stage.fit.clock,
        key=key,
    )


def _save(stage: TrainResidual, base: Artifact, clean: Artifact, state: State) -> dict[str, bytes]:
    net = state.result()
    if not isinstance(net, Residual):
        raise TypeError(f"the state holds a {type(net).__name__}, not a Residual")
    device = next(net.parameters()).device
    module, scale, _, held, _ = _prepare(stage, base, clean, device)
    composed = (
        Composed.Config(module.config.shape, module.config, net.config).build().eval().requires_grad_(False).to(device)
    )
    composed.base.load_state_dict(module.state_dict())
    composed.residual.load_state_dict(net.state_dict())
    composed.scale.copy_(scale)
    if stage.regularisation.gate:
        key = Key(stage.seed).fold("gate")
        composed.gate.copy_(gates(module, net, scale, held.x().to(device), held.ids, key, draws=32))
    found = {
        "sigma": module.config.bins.centres().tolist(),
        "scale": scale.tolist(),
        "gate": composed.gate.tolist(),
    }
    return pack(composed) | {"calibration.json": json.dumps(found).encode()}
