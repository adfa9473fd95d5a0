"""Tune: a trained denoiser taught rows that hold noise, by low-rank adapters alone, which end up in its weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from pipeline.backbones.lowrank import Adapters, adapt, merge
from pipeline.data.bands import Part, heard
from pipeline.data.manifest import Manifest
from pipeline.diffusion.precond import Preconditioned
from pipeline.engine.train import Make, train
from pipeline.graph import Context, Step
from pipeline.keys import Key
from pipeline.learning.course import Course
from pipeline.learning.state import State
from pipeline.learning.weights import pack, unpack
from pipeline.objectives.ambient import Ambient
from pipeline.store import Artifact
from stages.ambient import Learned, divided, learning, told_noise, whole
from stages.conditioned import columns_of, taught
from stages.networks import described
from stages.train import Fit, Trains, count, opened


@dataclass(frozen=True)
class Tune(Trains):
    """A denoiser (`denoiser.json`, `weights.safetensors`) of the network of `start`, tuned to rows of any noise.

    The adapters are merged into the weights that are kept, so that the result is a network like `start`: whatever takes
    that one takes it, at no more cost, and it can be tuned again.

    Args:
        start: the denoiser: adopted from elsewhere, or trained here.
        rows: the sets.
        adapters: what of it is trained.
        fit: how.
        seed: of the adapters, their order and noise.
        objective: what is minimised (its preconditioner is the network's); `Consistent` learns below all noise, too.
    """

    start: Step
    rows: tuple[Learned, ...]
    adapters: Adapters = Adapters()
    fit: Fit = Fit()
    seed: int = 0
    objective: Ambient = Ambient()

    def __post_init__(self) -> None:
        if not self.rows:
            raise ValueError("there are no rows to learn from: give a set at least")
        if self.fit.posthoc is not None:
            raise ValueError(
                "averages made after training are of whole networks, not of adapters: leave out fit.posthoc"
            )

    @property
    def sets(self) -> list[Step]:
        """What it learns from."""
        return [each.data for each in self.rows]

    def make(self, open: Callable[[Step], Artifact]) -> Make:
        return partial(_course, self, open(self.start), [open(data) for data in self.sets])

    def run(self, at: Context) -> None:
        sets = [at.open(data) for data in self.sets]
        untold = taught(sets, described(at.open(self.start)), at)
        metrics = train(self.make(at.open), merged, at, self.fit.cadence, count(sets))
        at.out.write("metrics.json", json.dumps(metrics | untold))


def _course(stage: Tune, start: Artifact, sets: Sequence[Artifact], device: torch.device) -> Course:
    model = unpack(start.read, device, Preconditioned)
    parts: list[Part] = []
    for told, data in zip(stage.rows, sets, strict=True):
        told_noise(Manifest.open(data.file), data, told.noise)
        rows, own = opened(data, stage.fit.memory / len(sets), columns_of(model.config)), told.noise is None
        parts += divided(rows, told, data, stage.objective) if own else [whole(rows, told, stage.objective)]
    if (found := tuple(parts[0][0].shape)) != tuple(model.config.shape):
        raise ValueError(f"{start.address} makes rows {tuple(model.config.shape)} and these are {found}: name another")
    key = Key(stage.seed).fold("tune")
    torch.manual_seed(key.fold("adapters").integer())
    adapt(model.net, stage.adapters)
    return learning(model, heard(parts, stage.fit.levels), stage.fit, stage.seed, stage.objective, key)


def merged(state: State) -> dict[str, bytes]:
    """The artifact's files."""
    model = state.result()
    merge(model)
    return pack(model)
