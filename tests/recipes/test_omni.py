"""omni: what cannot be told from clean images under noise teaches there, and a toy of it from end to end."""

from __future__ import annotations

import math

import alone
import numpy as np
import pytest
import torch

from pipeline import graph
from pipeline.backbones import mlp
from pipeline.diffusion.denoiser import expand
from pipeline.keys import Key
from pipeline.objectives.objective import Batch
from pipeline.objectives.telling_apart import TellingApart
from pipeline.physics.corruption import Noisy
from pipeline.store import Store
from stages.annotate import Annotate, least
from stages.corrupt import load
from stages.recipes.omni import omni
from stages.telltale import TrainTelltale
from stages.train import Fit

N, SHIFT = 40_000, 0.8
WHAT = torch.arange(N) % 2


def posterior(x, sigma, cond=None, scale=1.0):
    """logit p(shifted | x) of N(0, 1) against N(SHIFT, 1) under noise, one pixel, equally many of both."""
    return scale * SHIFT * (x.flatten(1)[:, 0] - SHIFT / 2) / (1 + sigma**2)


def test_the_loss_is_least_at_the_true_posterior():
    x = torch.randn(N, 1, 1, 1, generator=Key(1).torch(), dtype=torch.float64) + SHIFT * WHAT[:, None, None, None]
    batch, sigma = Batch(x, index=torch.arange(N)), torch.linspace(0.1, 3.0, N, dtype=torch.float64)

    def slope(at):
        each = [
            TellingApart(WHAT)(lambda *a, s=s: posterior(*a, scale=at + s), batch, sigma, Key(2)).each
            for s in (1e-4, -1e-4)
        ]
        found = (each[0] - each[1]) / 2e-4
        return float(found.mean()), float(found.std() / N**0.5)

    value, error = slope(1.0)
    assert abs(value) < 4 * error
    for at in (0.7, 1.3):
        value, error = slope(at)
        assert value * (at - 1) > 0
        assert abs(value) > 4 * error


def test_a_row_gets_the_level_above_which_it_is_told_nowhere():
    grid = torch.tensor([0.1, 0.2, 0.4, 0.8])
    told = torch.tensor(
        [[0.9, 0.8, 0.5, 0.5], [0.5, 0.5, 0.5, 0.5], [0.9, 0.5, 0.9, 0.5], [0.9, 0.9, 0.9, 0.9], [0.54, 0.5, 0.3, 0.1]]
    )
    assert least(told, grid, 0.05).tolist() == pytest.approx([0.4, 0.1, 0.8, 0.8, 0.1])


def test_halves_are_judged_by_who_has_not_seen_them():
    found = {node.label: node for node in graph.walk(omni())}
    for n in range(2):
        asked = found[f"data/annotated/{n}"].stage
        assert asked.data.label == f"data/damaged/{n}"
        assert asked.telltale.stage.damaged.label == f"data/damaged/{1 - n}"


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: omni(clean=1), "clean is 1"),
        (lambda: omni(damaged="x", ceiling=True), "arrived damaged"),
        (lambda: Annotate(None, None, low=2.0, high=1.0), "low 2.0"),
        (lambda: Annotate(None, None, margin=0.5), "margin is 0.5"),
        (lambda: TrainTelltale(None, None, fit=Fit(batch=3)), "even number"),
        (
            lambda: TellingApart(torch.zeros(2))(posterior, Batch(torch.zeros(2, 1)), torch.ones(2), Key(0)),
            "need an index",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(build, says):
    with pytest.raises(ValueError, match=says):
        build()


def test_a_toy_of_it_hides_noisier_rows_under_more_noise(tmp_path, monkeypatch):
    """Rows of much noise are told further up than rows of little; none is changed but by the noise of its own σ."""
    alone.installed(monkeypatch)
    toy, short = mlp.Config(width=64, blocks=1, dropout=0.0), Fit(images=640)
    how = {"samples": 20, "backbone": toy, "clean_backbone": toy, "fit": short, "clean_fit": short}
    how |= {"clean": 200, "count": 200, "telltale_backbone": toy, "telltale_fit": Fit(images=25_600)}
    median = {}
    for noise in (0.05, 0.6):
        found = alone.made(omni(corruption=Noisy(noise=noise), **how), Store(str(tmp_path / "store")))
        rows, damaged = load(found["data/annotated/0"]), load(found["data/damaged/0"])
        assert rows.ids == damaged.ids
        sigma = torch.from_numpy(rows.operator["sigma"])
        added = (rows.x() - damaged.x()) / expand(sigma, rows.x())
        assert float(added.std()) == pytest.approx(1.0, abs=0.05)
        median[noise] = float(np.median(sigma))
    assert median[0.6] > 2 * median[0.05]
    assert math.isfinite(found["report"].json("metrics.json")["ratio"])
