"""Calibration by pieces: the same bits for any order of the pieces and any number of workers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pipeline import graph
from pipeline.backbones import mlp
from pipeline.data.manifest import Manifest, name
from pipeline.data.records import Examples
from pipeline.data.shards import write_shard
from pipeline.diffusion import calibrate
from pipeline.diffusion.bins import Bins
from pipeline.diffusion.combine import Mode
from pipeline.diffusion.precond import Preconditioned
from pipeline.engine import cluster
from pipeline.graph import Context, Scale, Stage, step
from pipeline.keys import Key
from pipeline.learning.weights import pack
from pipeline.physics.views import Crop, Pool
from pipeline.store import Store
from stages import compose
from stages.compose import Combine, Seen

SHAPE = (1, 4, 4)
MAPS = (Crop(SHAPE, 0, 0, 4, 3), Crop(SHAPE, 0, 1, 4, 3), Pool(SHAPE, 2))


@dataclass(frozen=True)
class Images(Stage):
    """Random ones."""

    count: int = 150

    def run(self, at: Context) -> None:
        pixels = np.random.default_rng(self.count).integers(0, 256, (self.count, *SHAPE)).astype(np.uint8)
        with at.out.writing(name(0)) as file:
            write_shard(file, Examples(tuple(f"{self.count}-{i}" for i in range(self.count)), pixels))
        Manifest.of(np.array([self.count]), SHAPE, "uint8").write(at.out)

    @property
    def shape(self) -> tuple[int, ...]:
        return SHAPE


@dataclass(frozen=True)
class Model(Stage):
    """A network that has learned nothing, but says something."""

    shape: tuple[int, ...]

    @property
    def network(self) -> Preconditioned.Config:
        return Preconditioned.Config(self.shape, mlp.Config(width=8, blocks=1))

    def run(self, at: Context) -> None:
        torch.manual_seed(len(self.shape) + self.shape[-1])
        model = self.network.build()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        for file, data in pack(model).items():
            at.out.write(file, data)


def made(target, folder, workers=1):
    """Makes a step and gives its artifact."""
    store = Store(str(folder))
    tracker = SimpleNamespace(metrics=lambda *a, **k: None, card=lambda *a: None, warn=print)
    for node in graph.walk(target):
        with store.writing(node) as out:
            node.stage.run(Context(out, store, Scale(workers=workers), tracker))
    return store.artifact(target.address)


def combination(count=150, mode=Mode.BLUE):
    views = tuple(Seen(A, step(Model(tuple(A.out_shape)))) for A in MAPS)
    return step(Combine(views, step(Images(20)), step(Images(count)), Bins(0.1, 5.0, 3), 2, mode=mode))


@pytest.mark.parametrize("mode", [Mode.BLUE, Mode.SUM])
def test_pieces_in_any_order_make_the_same_base_as_one_process(monkeypatch, tmp_path, mode):
    monkeypatch.setattr(cluster, "call", lambda scale, function, *given: function(*given))
    found = []
    for turn, order in enumerate((list, reversed)):
        asked = []

        def each(function, items, at, order=order, asked=asked):
            asked.append(list(items))
            return map(function, order(items))

        monkeypatch.setattr(compose, "each", each)
        found.append(made(combination(mode=mode), tmp_path / str(turn)))
        assert asked == [[0, 1, 2]] * compose.ASKED, "150 images are three pieces of at most 64"
    monkeypatch.setattr(compose, "pieces", lambda count: 1)
    found.append(made(combination(mode=mode), tmp_path / "one"))
    for file in ("weights.safetensors", "calibration.json"):
        assert len({artifact.read(file) for artifact in found}) == 1
    told = found[0].json("calibration.json")
    covariance = np.array(told["covariance"])
    np.testing.assert_allclose(covariance[range(3), range(3)], told["view_error"], rtol=1e-6)
    np.testing.assert_array_equal(covariance, covariance.swapaxes(0, 1))


@pytest.mark.ray
def test_three_workers_make_the_same_bytes_as_one(one_ray, tmp_path):
    one, three = (made(combination(), tmp_path / str(workers), workers) for workers in (1, 3))
    for file in ("weights.safetensors", "calibration.json"):
        assert one.read(file) == three.read(file)
    assert json.loads(one.read("calibration.json"))["mode"] == "blue"


def test_batches_of_another_size_make_the_same_sums():
    """Noise is keyed by the image: only rounding differs."""
    x0 = torch.randn(12, *SHAPE, generator=torch.Generator().manual_seed(0))
    ids = [f"id-{i}" for i in range(12)]

    def energy(clean, x, sigma):
        return [(x**2).flatten(1).sum(1), (clean * x).flatten(1).sum(1)]

    some, more = (calibrate.measure(energy, x0, ids, Bins(), Key(3), 4, batch) for batch in (5, 512))
    torch.testing.assert_close(some.total, more.total, rtol=1e-6, atol=1e-6)
