"""What chooses among options: gates of each half of the held-out images by the other, and an interval in the report."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pipeline import graph
from pipeline.backbones import mlp
from pipeline.diffusion.bins import Bins
from pipeline.diffusion.calibrate import GATE_DRAWS, gates
from pipeline.diffusion.compose import Base, View
from pipeline.diffusion.precond import Preconditioned
from pipeline.diffusion.residual import Composed, Residual
from pipeline.engine.draws import Plan
from pipeline.engine.ledger import FINISHED, STOPPED, Trial
from pipeline.engine.spaces import read_all
from pipeline.keys import Key
from pipeline.metrics.denoising import DenoisingError
from pipeline.physics.linear import Identity
from stages.evaluate import crossed
from stages.recipes.partial_views import partial_views
from stages.residual import Regularisation
from stages.search_page import page, untried

SHAPE = (1, 2, 2)


def composed() -> Composed:
    """With a residual that says something, and is of some use."""
    torch.manual_seed(0)
    network = mlp.Config(width=8, blocks=1)
    base = Base.Config(SHAPE, (View(Identity(SHAPE), Preconditioned.Config(SHAPE, network)),), Bins(0.1, 2.0, 3))
    D = Composed.Config(SHAPE, base, Residual.Config(SHAPE, 1, network)).build().eval().requires_grad_(False)
    for parameter in D.residual.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return D


def test_the_gates_of_each_half_are_those_of_the_other():
    D, error = composed(), DenoisingError(levels=3)
    x0 = torch.linspace(-1, 1, 24).reshape(6, *SHAPE)
    ids = [f"id-{i}" for i in range(6)]
    found = crossed(D, error, x0, ids)
    used = []
    for mine, other in ((slice(0, 3), slice(3, 6)), (slice(3, 6), slice(0, 3))):
        D.gate.copy_(gates(D.base, D.residual, x0[other], ids[other], Key(0).fold("crossed"), GATE_DRAWS))
        torch.testing.assert_close(found[mine], error.each(D, x0[mine], ids[mine]))
        used.append(D.gate.clone())
    assert not torch.equal(*used)
    with pytest.raises(ValueError, match="hold out 4"):
        crossed(D, error, x0[:3], ids[:3])


@pytest.mark.parametrize("gate", [True, False])
def test_only_gates_that_were_measured_are_measured_again(gate):
    found = {node.label: node.stage for node in graph.walk(partial_views(residual=Regularisation(gate=gate)))}
    selection: Any = found["evaluate/selection"]
    assert selection.crossed is gate


def test_the_report_of_a_search_says_how_far_its_winner_is_known():
    plan = Plan(read_all(["x=uniform(0, 1)"]), 3, "random", "none", "min", 0)
    sought: Any = SimpleNamespace(metric="selection", watched="")
    ends = ([0.4, 0.6], [0.45, 0.65], None)
    trials = [
        Trial(i, {"x": 0.1 * i}, FINISHED, value, ends=end)
        for i, (value, end) in enumerate(zip((0.5, 0.55, 0.7), ends, strict=True))
    ]
    said = page("partial_views", plan, sought, trials, trials[0], "")
    assert "within [0.4, 0.6] 95 times in 100; 1 other trials came to a number in there" in said
    assert "0.45 to 0.65" in said


def test_the_report_of_a_search_says_what_was_never_tried_and_that_a_stopped_loss_is_no_result():
    plan = Plan(read_all(["x=choice(adamw, sgd, lion, muon)", "y=uniform(0, 1)"]), 3, "random", "asha", "min", 0)
    sought: Any = SimpleNamespace(metric="selection", watched="residual")
    trials = [
        Trial(0, {"x": "adamw", "y": 0.1}, FINISHED, 0.5),
        Trial(1, {"x": "sgd", "y": 0.2}, STOPPED, history=[(10.0, 0.3)]),
    ]
    assert untried(plan, trials) == ["Never tried of x: lion, muon.", "Tried of x by no trial that finished: sgd."]
    said = page(
        "partial_views", plan, sought, [*trials, Trial(2, {"x": "adamw", "y": 0.3}, FINISHED, 0.6)], trials[0], ""
    )
    assert "Never tried of x: lion, muon." in said
    assert "not to be compared with the winner" in said
    assert "Never tried" not in page("partial_views", Plan({}, 1), sought, trials[:1], trials[0], "")
