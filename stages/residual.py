"""TrainResidual: a regularised residual trained on top of combined views."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from pipeline.backbones import unet
from pipeline.backbones.backbone import Backbone
from pipeline.data.reader import InMemory
from pipeline.data.records import Examples
from pipeline.diffusion.account import residual_energy
from pipeline.diffusion.calibrate import GATE_DRAWS, gates
from pipeline.diffusion.compose import Base, Evidence
from pipeline.diffusion.denoiser import expand
from pipeline.diffusion.levels import Stratified, Tabulated
from pipeline.diffusion.residual import Composed, Feature, Residual
from pipeline.engine.train import Make, train
from pipeline.graph import Context, Step
from pipeline.keys import Key
from pipeline.learning.course import Course
from pipeline.learning.state import State
from pipeline.learning.weights import pack, unpack
from pipeline.metrics.denoising import DenoisingError
from pipeline.objectives.residual import ResidualDenoising
from pipeline.store import Artifact
from stages.compose import Seen
from stages.corrupt import load, shape_of
from stages.train import Fit, Trains, count, reader


@dataclass(frozen=True)
class Regularisation:
    """What keeps the residual close to no correction at all, and what it is shown.

    Args:
        output_l2: λ of the penalty λ |F|², which shrinks the best F to F/(1 + λ).
        weight_decay: of the optimiser (None: as the residual's fit says).
        jacobian: κ of the penalty on the derivatives of F, in squared units of x (see pipeline/objectives/residual.py).
        dropout: the probability p with which a row goes without its correction, the others' being divided by 1 − p.
        patience: after so many validations on held-out full images without a better one training ends, and the best
            weights are kept (0: it runs to its end); there are twenty in a run.
        gate: whether to measure, per noise bin, how far along F to go on full images held out from all training.
        by_energy: whether noise levels are drawn in proportion to how much the base is off there, c_r(σ).
        features: what the network is shown besides x and the views' combination.
    """

    output_l2: float = 0.3
    weight_decay: float | None = None
    jacobian: float = 0.0
    dropout: float = 0.0
    patience: int = 0
    gate: bool = True
    by_energy: bool = False
    features: tuple[Feature, ...] = (Feature.DISAGREEMENT,)

    def __post_init__(self) -> None:
        for name in ("output_l2", "weight_decay", "jacobian", "patience"):
            if (value := getattr(self, name)) is not None and not 0 <= value < math.inf:
                raise ValueError(f"{name} is {value}: give 0 or more")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}: give a probability within [0, 1)")


@dataclass(frozen=True)
class TrainResidual(Trains):
    """Base plus residual: a composed denoiser, its residual trained on the full images `clean`, gated on `held`."""

    version: ClassVar[int] = 3  # 3: regularisers, and the energy of what was learned
    stream: ClassVar[str] = "held_out"

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
        features = self.regularisation.features
        return Residual.Config(shape_of(self.clean), len(views), self.backbone, features=features)

    @property
    def untrained(self) -> Composed.Config:
        """What stands in for it before it is trained."""
        base: Base.Config = self.base.stage.untrained  # pyright: ignore[reportAttributeAccessIssue]
        return Composed.Config(base.shape, base, self.network)

    @property
    def sets(self) -> list[Step]:
        """What the residual learns from."""
        return [self.clean]

    def make(self, open: Callable[[Step], Artifact]) -> Make:
        return partial(_course, self, open(self.base), open(self.clean), open(self.held))

    def run(self, at: Context) -> None:
        save = partial(_save, self, at.open(self.base), at.open(self.held))
        metrics = train(self.make(at.open), save, at, self.fit.cadence, count([at.open(self.clean)]))
        at.out.write("metrics.json", json.dumps(metrics))


def _course(stage: TrainResidual, base: Artifact, clean: Artifact, held: Artifact, device: torch.device) -> Course:
    module, examples, how = unpack(base.read, device, Base), load(clean), stage.regularisation
    fit = stage.fit if how.weight_decay is None else stage.fit.decayed(how.weight_decay)
    x0 = examples.x()
    std = float((x0 - x0.mean(0)).square().mean().sqrt())
    key = Key(stage.seed).fold("residual")
    torch.manual_seed(key.fold("weights").integer())
    config = Residual.Config(examples.shape, len(module.maps), stage.backbone, std, how.features)
    levels, clock, watched = fit.levels, fit.clock, Watched(module, load(held))
    if how.by_energy:
        bins = module.config.bins
        levels = Stratified(Tabulated(bins.low, bins.high, tuple(module.scale.double().tolist())))
    if how.patience:
        clock = replace(clock, validate=max(fit.batch, fit.images // 20), patience=how.patience)
    return Course(
        state=fit.state(config.build().to(device)),
        batches=reader(examples, fit, stage.seed),
        objective=ResidualDenoising(module, how.output_l2, how.jacobian, how.dropout),
        levels=levels,
        clock=clock,
        key=key,
        validate=watched if how.patience else None,
        bf16=fit.bf16,
        tf32=fit.tf32,
        names=InMemory(examples).ids,
        held=watched,
    )


class Watched:
    """The denoising error of a base with a residual, gates open, on rows held out; the base is asked but once."""

    def __init__(self, base: Base, held: Examples):
        self.base, self.held = base, held
        self.error = DenoisingError(levels=8)
        self.seen: list[tuple[Evidence, Tensor]] = []

    def __call__(self, F: nn.Module) -> float:
        device, turns = next(F.parameters()).device, itertools.count()

        def D(x: Tensor, sigma: Tensor, cond: Tensor | None = None) -> Tensor:
            turn = next(turns)
            if turn == len(self.seen):
                self.seen.append((self.base.see(x, sigma), self.base.config.bins.read(self.base.scale, sigma)))
            seen, unit = self.seen[turn]
            return seen.mean + expand(unit, x) * F(x, sigma, seen, unit)

        return self.error(D, self.held.x().to(device), self.held.ids)[0]


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
    judge = load(held)
    x0 = judge.x().to(device)
    if stage.regularisation.gate:
        composed.gate.copy_(gates(module, net, x0, judge.ids, Key(stage.seed).fold("gate"), GATE_DRAWS))
    energy, nats = residual_energy(module, net, composed.gate, x0, judge.ids, Key(stage.seed).fold("energy"), draws=4)
    found = {
        "sigma": module.config.bins.centres().tolist(),
        "scale": module.scale.tolist(),
        "gate": composed.gate.tolist(),
        "energy": energy.tolist(),
        "nats": nats,
    }
    return pack(composed) | {"calibration.json": json.dumps(found).encode()}
