"""ambient_linear: a toy of it from end to end, what it knows of its rows, and what it refuses."""

from __future__ import annotations

from types import SimpleNamespace

import alone
import numpy as np
import pytest
import torch

from pipeline import graph
from pipeline.backbones import mlp
from pipeline.data.leaks import Damage
from pipeline.data.records import Examples
from pipeline.keys import Key
from pipeline.learning.weights import unpack
from pipeline.physics.blur import GaussianBlur
from pipeline.physics.corruption import Corruption, Through, corrupt
from pipeline.physics.ghost import Ghost
from pipeline.physics.hadamard import Hadamard
from pipeline.store import Store
from stages.linear import TrainLinear, _batches, _course, taking
from stages.recipes.ambient_linear import ambient_linear
from stages.train import Fit

SHAPE = (1, 4, 4)
TOY, SHORT = mlp.Config(width=32, blocks=1), Fit(images=640)
X0 = torch.randn(300, *SHAPE, generator=Key(0).torch()).clamp(-3, 3) * 0.3 + torch.linspace(-0.4, 0.4, 16).view(SHAPE)


def measured(corruption: Corruption) -> tuple[Examples, Damage]:
    ids = [f"{i}" for i in range(len(X0))]
    y, operator = corrupt(corruption, X0, ids, 0)
    return Examples.from_x(ids, y, operator=operator), Damage(corruption, SHAPE)


def test_a_toy_of_it_runs_and_asks_through_measurements_of_its_own(tmp_path, monkeypatch):
    alone.installed(monkeypatch)
    target = ambient_linear(corruption=Hadamard(48), count=120, test=40, samples=1, backbone=TOY, fit=SHORT)
    found = alone.made(target, Store(str(tmp_path)))
    assert found["report"].json("metrics.json")["denoising_error/ambient"] > 0
    model = unpack(found["model"].read)
    values = torch.linalg.eigvalsh(model.gram)
    assert 36 <= int((values > 0.5).sum()) < 48, "a tenth is left out, as in training"
    torch.testing.assert_close(values, values.round(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_the_mean_and_the_spread_of_what_was_measured_are_those_of_the_images(noise):
    known = taking(*measured(Hadamard(8, noise=noise)), memory=1.0)
    centre, spread = known.law()
    torch.testing.assert_close(centre.view(SHAPE).float(), X0.mean(0), atol=0.1, rtol=0)
    assert spread == pytest.approx(float((X0 - X0.mean(0)).std()), rel=0.05)
    assert float(torch.linalg.matrix_norm(known.A, 2).max()) == pytest.approx(1, abs=1e-5)


def test_a_map_is_brought_to_norm_one_and_its_numbers_with_it():
    rows, damage = measured(Ghost(8, orthonormal=False))
    known = taking(rows, damage, memory=1.0)
    made = (known.A @ X0.flatten(1)[..., None])[..., 0]
    torch.testing.assert_close(known.y, made, atol=2e-3, rtol=2e-3)


def test_batches_are_the_same_for_any_number_of_workers():
    known = taking(*measured(Hadamard(8)), memory=1.0)
    whole = next(_batches(known, SHAPE, Fit(batch=12), 0, None, 24, 0, 1))
    parts = [next(_batches(known, SHAPE, Fit(batch=12), 0, None, 24, rank, 2)) for rank in range(2)]
    for name in ("y", "A", "index", "floor"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))


@pytest.mark.parametrize(
    ("corruption", "says"),
    [
        (Through(GaussianBlur(SHAPE, 0.8), noise=0.1), "colours noise"),
        (Through(GaussianBlur(SHAPE, 3.0)), r"no row shows \d+ of 16 directions"),
    ],
    ids=["noisy", "blurred away"],
)
def test_what_nothing_can_be_learned_from_is_refused(corruption, says, monkeypatch):
    rows, damage = measured(corruption)
    data = SimpleNamespace(address="rows")
    monkeypatch.setattr("stages.linear.load", lambda _: rows)
    monkeypatch.setattr("stages.linear.through", lambda *_: damage)
    target = ambient_linear(count=20, test=4, backbone=TOY, fit=SHORT)
    stage = {node.label: node for node in graph.walk(target)}["model"].stage
    monkeypatch.setattr(TrainLinear, "shape", SHAPE)
    with pytest.raises(ValueError, match=says):
        _course(stage, data, torch.device("cpu"))  # pyright: ignore[reportArgumentType]


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="after they were measured"):
        ambient_linear(fit=Fit(dihedral=True))
    with pytest.raises(ValueError, match="give the part of the measurements"):
        ambient_linear(share=0.0)
    wide = Examples(("a",), np.zeros((1, 1, 64), np.float16), operator={"patterns": np.zeros((1, 1), np.int64)})
    with pytest.raises(ValueError, match=r"1 matrices of 64 x 4096 numbers are held: .*--count"):
        taking(wide, Damage(Hadamard(64), (1, 64, 64)), memory=1.0)
