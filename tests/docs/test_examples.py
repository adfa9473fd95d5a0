"""The worked examples of docs/own.md: each is loaded as the page says, and does what it says."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "docs" / "examples"
sys.path.append(str(ROOT / "tests" / "learning"))
sys.path.append(str(ROOT / "tests" / "recipes"))


def load(name: str, file: str):
    """A file as the module that the page says it becomes."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def interlaced(monkeypatch):
    name = "pipeline.physics.interlaced"
    monkeypatch.delitem(sys.modules, name, raising=False)
    module = load(name, "interlaced.py")
    yield module
    sys.modules.pop(name, None)


def test_the_operator_keeps_every_law_and_shows_one_field(interlaced):
    from pipeline.physics.check import check_operator
    from pipeline.physics.corruption import corrupt

    A = interlaced.Interlaced().at({"field": np.array([[0], [1]], dtype=np.uint8)}, (1, 8, 6))
    check_operator(A)
    x = torch.ones(20, 1, 8, 6)
    y, rows = corrupt(interlaced.Interlaced(), x, [str(n) for n in range(20)], 0)
    assert set(rows["field"][:, 0].tolist()) == {0, 1}
    for seen, first in zip(y[:, 0, :, 0], rows["field"][:, 0]):
        assert seen.tolist() == [float(i % 2 == first) for i in range(8)]
    with pytest.raises(ValueError, match="even"):
        interlaced.Interlaced(even=1.5)


def test_the_command_line_takes_the_operator_by_its_path(interlaced):
    from pipeline import config
    from pipeline.physics.corruption import Corruption

    made = config.from_json(Corruption, {"is": "pipeline.physics.interlaced.Interlaced", "noise": 0.05})
    assert made == interlaced.Interlaced(noise=0.05)


def test_the_objective_is_stationary_at_the_posterior_mean_and_not_elsewhere():
    from test_denoising import LAW, slope

    from pipeline.diffusion.precond import EDM

    objective = load("antithetic", "antithetic.py").Antithetic(EDM(0.5))
    value, error = slope(objective, LAW, LAW)
    assert abs(value) < 4 * error
    value, error = slope(objective, lambda x, s: 0.9 * LAW(x, s), LAW)
    assert value < -8 * error


def test_the_objective_has_less_variance_than_one_noise():
    from test_denoising import LAW, SIGMA, X0

    from pipeline.diffusion.precond import EDM
    from pipeline.keys import Key
    from pipeline.objectives.denoising import Denoising
    from pipeline.objectives.objective import Batch

    objective = load("antithetic", "antithetic.py").Antithetic(EDM(0.5))
    pair, one = (o(LAW, Batch(X0), SIGMA, Key(5)).each for o in (objective, Denoising(EDM(0.5))))
    assert pair.var() < 0.9 * one.var()
    assert abs(pair.mean() - one.mean()) < 4 * one.std() / len(one) ** 0.5


@pytest.fixture
def recipes(monkeypatch, tmp_path):
    """The recipes with one more file in their folder."""
    from stages import recipes

    (tmp_path / "halved.py").write_text((EXAMPLES / "halved.py").read_text())
    monkeypatch.setattr(recipes, "__path__", [*recipes.__path__, str(tmp_path)])
    yield
    sys.modules.pop("stages.recipes.halved", None)


def test_the_recipe_is_a_command_by_being_a_file(recipes, tmp_path, capsys):
    from stages.__main__ import main

    assert main(["plan", "halved", "--count", "800", "--store", str(tmp_path / "runs")]) == 0
    said = capsys.readouterr().out
    assert "model/half" in said
    assert "model/all" in said


@pytest.mark.slow
def test_the_recipe_runs_from_end_to_end(recipes, tmp_path, monkeypatch):
    import alone
    from stages.recipes.halved import halved

    from pipeline.backbones import mlp
    from pipeline.store import Store
    from stages.train import Fit

    alone.installed(monkeypatch)
    target = halved(count=100, test=50, samples=20, backbone=mlp.Config(width=32, blocks=1), fit=Fit(images=640))
    made = alone.made(target, Store(str(tmp_path / "store")))
    assert 0 < made["report"].json("metrics.json")["ratio"] < 2
    assert "Would more images help?" in made["report"].read("report.html").decode()
