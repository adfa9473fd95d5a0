"""What the experiments on images share: sets that no seed divides otherwise, small networks, and training without Ray.

The last fifth of one fixed order of the images, or all clips of two persons, is the test set of every seed and every
number of clean images. Rows of views come next in the seed's own order of the others, and then the clean ones, more of
them being a superset of fewer.
A share of the clean images is held out: it trains nothing that is combined and measures errors, weights and gates. A
model of the clean images alone learns from all of them.
"""

from __future__ import annotations

import io
import json
import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from pipeline.backbones import mlp, unet
from pipeline.backbones.backbone import Backbone
from pipeline.data.reader import InMemory
from pipeline.data.records import Examples
from pipeline.data.sources import source_of
from pipeline.diffusion.calibrate import calibrate_base, gates
from pipeline.diffusion.combine import Mode
from pipeline.diffusion.compose import Base, View
from pipeline.diffusion.denoiser import Network
from pipeline.diffusion.precond import EDM, Preconditioned
from pipeline.diffusion.residual import Composed, Residual
from pipeline.diffusion.sample import Heun, normal
from pipeline.diffusion.unseen import fill
from pipeline.keys import Key
from pipeline.learning.loop import fit
from pipeline.metrics.classifier import Classifier
from pipeline.metrics.denoising import DenoisingError
from pipeline.metrics.features import Extract
from pipeline.metrics.frechet import frechet
from pipeline.metrics.moments import Moments
from pipeline.objectives.denoising import Denoising
from pipeline.objectives.distillation import Distillation
from pipeline.objectives.residual import ResidualDenoising
from pipeline.physics.linear import LinearMap
from stages.train import Fit, reader

DRAWS = 32  # noise draws an image in calibration


@dataclass(frozen=True)
class Family:
    """The networks of one run and how long they are trained."""

    view: Backbone
    clean: Backbone
    residual: Backbone
    loose: Backbone  # the residual's, without dropout
    view_fit: Fit
    clean_fit: Fit
    residual_fit: Fit


def _fit(images: int, rate: float, decay: float) -> Fit:
    wide = Fit(images=images).decayed(decay)
    return replace(wide, optim=replace(wide.optim, lr=rate))


# The settings of benchmarks/partial_views.py and of the recipe; U-Nets of half the width.
FAMILIES = {
    "mlp": Family(
        *(mlp.Config(dropout=p) for p in (0.3, 0.5, 0.5, 0.0)),
        _fit(192_000, 2e-3, 0.3),
        _fit(38_400, 1e-3, 1.0),
        _fit(12_800, 1e-3, 1.0),
    ),
    "unet": Family(
        *(unet.Config(width=16, dropout=p) for p in (0.3, 0.5, 0.5, 0.0)),
        _fit(112_000, 4e-3, 0.3),
        _fit(51_200, 4e-3, 0.3),
        _fit(12_800, 4e-3, 1.0),
    ),
}


@dataclass(frozen=True)
class Sets:
    """Images: `test`, and the others in a seed's order."""

    test: Examples
    rest: Examples

    def clean(self, count: int) -> tuple[Examples, Examples]:
        """(those that train, those held out) of the first `count`: a tenth, four at least, is held out."""
        aside = max(4, count // 10)
        return self.rest.take(range(aside, count)), self.rest.take(range(aside))

    def rows(self, first: int, count: int, A: LinearMap) -> Examples:
        """What a view shows of the images number first .. first + count − 1."""
        seen = self.rest.take(range(first, first + count))
        return Examples.from_x(seen.ids, A(seen.x()))


def images(data: str, size: int) -> Examples:
    """The first `size` digits, or, from KINTSUGI_DATA, of Fashion-MNIST at 14x14 or clips of 4 frames at 16x16."""
    home = os.environ.get("KINTSUGI_DATA")
    if data == "digits":
        source, side = source_of("digits"), 8
    elif not home:
        raise SystemExit("KINTSUGI_DATA names no folder: set it to where fashion_mnist and weizmann_actions are")
    elif data == "clips":
        source, side = source_of(f"{home}/weizmann_actions/train-0000.parquet", frames=4), 16
    else:
        source, side = source_of(f"{home}/fashion_mnist/train-0000.parquet"), 14
    rows = [raw for piece in source.cut() for raw in source.read(piece)][:size]
    pixels = torch.from_numpy(np.stack([_grey(raw.image) for raw in rows])).float()[:, None]
    x = torch.nn.functional.adaptive_avg_pool3d(pixels, (None, side, side)) / 127.5 - 1
    x = x if data == "clips" else x[:, :, 0]
    return Examples.from_x([raw.id for raw in rows], x, np.array([raw.label for raw in rows], np.int64), uint8=True)


def _grey(image: Any) -> np.ndarray:
    """(frames, H, W), one for a still."""
    frames = image if isinstance(image, tuple) else (image,)
    opened = (Image.open(io.BytesIO(one)) if isinstance(one, bytes) else Image.fromarray(one) for one in frames)
    return np.stack([np.asarray(one.convert("L")) for one in opened])


def divided(every: Examples, seed: int) -> Sets:
    """The test set, the same for all seeds, and the seed's order of the rest."""
    fixed = Key(0).fold("test").numpy().permutation(len(every))
    persons = np.array(["-p5-" in every.ids[i] or "-p6-" in every.ids[i] for i in fixed])
    aside = persons if persons.any() else np.arange(len(every)) >= len(every) - len(every) // 5
    order = Key(seed).fold("order").numpy().permutation(fixed[~aside])
    return Sets(every.take(fixed[aside]), every.take(order))


def learned(rows: Examples, backbone: Backbone, how: Fit, seed: int, teacher: nn.Module | None = None) -> Network:
    """A denoiser of the rows, or one that answers as the teacher does near them."""
    centre, spread = InMemory(rows).moments()
    torch.manual_seed(Key(seed).fold("weights").integer())
    model = Preconditioned.Config(rows.shape, backbone, EDM(spread)).build()
    model.centre.copy_(centre)
    state, levels = how.state(model), how.levels
    objective = Denoising(EDM(spread)) if teacher is None else Distillation(teacher, EDM(spread))
    fit(state, reader(rows, how, seed)(0, 0, 1), objective, levels, how.clock, Key(seed))
    return state.result().requires_grad_(False)  # pyright: ignore[reportReturnType]


def combined(views: Sequence[tuple[LinearMap, Network]], few: Examples, held: Examples, mode: Mode, seed: int) -> Base:
    """A calibrated base."""
    parts = tuple(View(A, model.config) for A, model in views)
    base = Base.Config(held.shape, parts, mode=mode).build().eval().requires_grad_(False)
    base.models = nn.ModuleList(model for _, model in views)
    fill(base, torch.cat([few.x(), held.x()]))
    calibrate_base(base, held.x(), held.ids, Key(seed).fold("base"), DRAWS)
    return base


def corrected(base: Base, few: Examples, held: Examples, family: Family, seed: int, l2: float | None) -> Composed:
    """A base with its residual: λ = `l2` and a gate, or (None) neither of these, nor dropout or weight decay."""
    backbone = family.loose if l2 is None else family.residual
    how = family.residual_fit.decayed(0.0) if l2 is None else family.residual_fit
    x0 = few.x()
    std = float((x0 - x0.mean(0)).square().mean().sqrt())
    torch.manual_seed(Key(seed).fold("residual").integer())
    state = how.state(Residual.Config(few.shape, len(base.maps), backbone, std).build())
    objective = ResidualDenoising(base, l2 or 0.0)
    fit(state, reader(few, how, seed)(0, 0, 1), objective, how.levels, how.clock, Key(seed).fold("residual"))
    net = state.result()
    assert isinstance(net, Residual)
    composed = Composed.Config(few.shape, base.config, net.config).build().eval().requires_grad_(False)
    composed.base, composed.residual = base, net
    if l2 is not None:
        composed.gate.copy_(gates(base, net, held.x(), held.ids, Key(seed).fold("gate"), DRAWS))
    return composed


def error(D: nn.Module, test: Examples) -> float:
    """The held-out denoising error of D, with the same noise for every model."""
    return DenoisingError()(D, test.x(), test.ids)[0]


def eye(sets: Sets) -> Extract:
    """The last hidden layer of a classifier trained on all labels but the test set's; of clips, frames of 4x4 means."""
    rest = sets.rest
    if len(rest.shape) == 4:
        return lambda x: torch.nn.functional.adaptive_avg_pool3d(x, (None, 4, 4)).flatten(1).double()
    maker = Classifier(shape=rest.shape, classes=int(rest.label.max()) + 1)

    def batches():
        draw = Key(0).fold("classifier").numpy()
        while True:
            at = draw.permutation(len(rest))[: maker.batch]
            yield rest.x(at), torch.from_numpy(rest.label[at])

    network = maker.train(batches())

    @torch.no_grad()
    def extract(x: Tensor) -> Tensor:
        return network(x)[0].double()

    return extract


def drawn(D: nn.Module, shape: tuple[int, ...], count: int, seed: int) -> Tensor:
    """Samples of D (count, *shape) in [-1, 1]."""
    keys = [Key(seed).fold("sample", i) for i in range(count)]
    sampler = Heun(steps=18, sigma_min=0.02, sigma_max=20.0)
    noise = normal(shape, [key.numpy() for key in keys]) * sampler.sigma_max
    return sampler(D, noise, keys=keys).clamp(-1, 1)


def distance(D: nn.Module, test: Examples, extract: Extract, seed: int) -> float:
    """The Fréchet distance of as many samples of D as there are test images."""
    made = drawn(D, test.shape, len(test), seed)
    return frechet(Moments.of(extract(made)), Moments.of(extract(test.x())))


class Rows:
    """Measured rows in a file, one JSON object a line, written as they come; a second run measures what is missing."""

    def __init__(self, path: str):
        self.path = Path(path)
        self.rows = [json.loads(line) for line in self.path.read_text().splitlines()] if self.path.exists() else []

    def have(self, **which: Any) -> bool:
        """Whether there is such a row."""
        return any(which.items() <= row.items() for row in self.rows)

    def add(self, **row: Any) -> None:
        """Write a row."""
        self.rows.append(row)
        with self.path.open("a") as file:
            print(json.dumps(row), file=file)
        print(row, flush=True)


def spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation, or nothing."""
    if not values:
        return ""
    return f"{statistics.mean(values):.4f} ± {statistics.stdev(values) if len(values) > 1 else 0:.4f}"
