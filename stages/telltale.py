"""TrainTelltale: a network that tells clean from damaged images under noise, from some of each."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from pipeline.backbones import unet
from pipeline.backbones.backbone import Backbone
from pipeline.data.records import Examples
from pipeline.diffusion.levels import Levels
from pipeline.diffusion.precond import EDM
from pipeline.diffusion.telltale import Telltale
from pipeline.engine.train import Make, train
from pipeline.graph import Context, Step
from pipeline.keys import Key
from pipeline.learning.course import Course
from pipeline.objectives.objective import Batch
from pipeline.objectives.telling_apart import TellingApart
from pipeline.store import Artifact
from stages.corrupt import load, shape_of
from stages.joint import mixed
from stages.train import Fit, Trains, count, save


@dataclass(frozen=True)
class TrainTelltale(Trains):
    """p(damaged | x₀ + σz) (`denoiser.json`, `weights.safetensors`); half of every batch is damaged.

    Known by heart, clean images would be told from any others: an eighth of the rows is held out, and the weights are
    kept that told those best.

    Args:
        clean: clean rows.
        damaged: damaged rows of the same shape, whatever the damage.
        backbone: the network.
        fit: how it is trained.
        seed: of its weights, its order and its noise.
    """

    clean: Step
    damaged: Step
    backbone: Backbone = unet.Config(dropout=0.3)
    fit: Fit = Fit(images=64_000).decayed(0.3)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.fit.batch % 2:
            raise ValueError(f"fit.batch is {self.fit.batch}: give an even number, of which half is damaged")
        if self.fit.shift:
            raise ValueError("fit.shift moves what damage there is: leave it 0")

    @property
    def network(self) -> Telltale.Config:
        """What is trained, but for the spread of the data."""
        return Telltale.Config(shape_of(self.clean), self.backbone)

    @property
    def sets(self) -> list[Step]:
        """What it learns from."""
        return [self.clean, self.damaged]

    def make(self, open: Callable[[Step], Artifact]) -> Make:
        return partial(_course, self, [open(data) for data in self.sets])

    def run(self, at: Context) -> None:
        sets = [at.open(data) for data in self.sets]
        metrics = train(self.make(at.open), save, at, self.fit.cadence, count(sets))
        at.out.write("metrics.json", json.dumps(metrics))


def _course(stage: TrainTelltale, sets: list[Artifact], device: torch.device) -> Course:
    examples, held = zip(*(_apart(load(data), stage.seed) for data in sets), strict=True)
    if len(shapes := {rows.shape for rows in examples}) > 1:
        raise ValueError(f"clean and damaged rows have shapes {sorted(shapes)}: bring them to one (--size, --resize)")
    kinds = [rows.x() for rows in examples]
    centre = torch.cat(kinds).mean(0)
    spread = float((torch.cat(kinds) - centre).square().mean().sqrt())
    key = Key(stage.seed).fold("telltale")
    torch.manual_seed(key.fold("weights").integer())
    model = Telltale.Config(tuple(kinds[0].shape[1:]), stage.backbone, EDM(sigma_data=spread)).build()
    model.centre.copy_(centre)
    half, what = stage.fit.batch // 2, torch.cat([torch.full((len(x),), k) for k, x in enumerate(kinds)])
    ids = [text for rows in examples for text in rows.ids]
    return Course(
        state=stage.fit.state(model.to(device)),
        batches=partial(mixed, kinds, [half, half], stage.seed),
        objective=TellingApart(what),
        levels=stage.fit.levels,
        clock=replace(stage.fit.clock, validate=max(stage.fit.batch, stage.fit.images // 20)),
        key=key,
        bf16=stage.fit.bf16,
        tf32=stage.fit.tf32,
        validate=_Unseen([rows.x() for rows in held], stage.fit.levels, key.fold("held")),
        names=lambda index: [ids[i] for i in index],
    )


def _apart(rows: Examples, seed: int) -> tuple[Examples, Examples]:
    """Rows to learn from, and an eighth of them that are held out."""
    order = Key(seed).fold("telltale", len(rows)).numpy().permutation(len(rows))
    most = max(1, len(rows) // 8)
    return rows.take(order[most:]), rows.take(order[:most])


class _Unseen:
    """How badly rows (N, *) of both kinds, held out, are told apart: with the same noise every time."""

    def __init__(self, kinds: list[Tensor], levels: Levels, key: Key):
        self.parts, self.objective = [], TellingApart(torch.arange(len(kinds)))
        for what, x in enumerate(kinds):
            x = x.repeat(-(-256 // len(x)), *(1,) * (x.ndim - 1))
            sigma = levels.draw(len(x), key.fold("sigma", what))
            self.parts.append((Batch(x, index=torch.full((len(x),), what)), sigma, key.fold("noise", what)))

    @torch.no_grad()
    def __call__(self, model: nn.Module) -> float:
        device, losses = next(model.parameters()).device, []
        for batch, sigma, key in self.parts:
            drawn = {"noise": batch.normal(key).to(device)}
            losses.append(self.objective.loss(model, batch.to(device), sigma.to(device), drawn).each.mean())
        return float(torch.stack(losses).mean())
