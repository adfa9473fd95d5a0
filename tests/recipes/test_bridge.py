"""bridge: what a black box did is undone by what a network learned of it, and a toy of it from end to end."""

from __future__ import annotations

import math

import alone
import pytest

from pipeline import graph
from pipeline.backbones import mlp
from pipeline.physics.blackbox import BlackBox, Gamma
from pipeline.physics.corruption import Clean, Noisy
from pipeline.store import Store
from stages.bridge import TrainBridge
from stages.corrupt import load
from stages.recipes.bridge import bridge
from stages.train import Fit, Share

TOY, SHORT = mlp.Config(width=64, blocks=1, dropout=0.0), Fit(images=640)
HOW = {"samples": 20, "backbone": TOY, "clean_backbone": TOY, "fit": SHORT, "clean_fit": SHORT}
HOW |= {"bridge_backbone": TOY, "rounds": 2, "clean": 200, "count": 200}


def test_each_round_learns_from_what_the_one_before_undid():
    found = {node.label: node for node in graph.walk(bridge(rounds=3, share=0.25))}
    first, *later = (found[f"round/{k}/bridge"].stage for k in (1, 2, 3))
    assert [share.data.label for share in first.rows] == ["data/clean"]
    assert first.start is None
    for k, stage in enumerate(later, 1):
        assert [(share.data.label, share.weight) for share in stage.rows] == [
            ("data/clean", 0.25),
            (f"round/{k}/undone", 0.75),
        ]
        assert stage.start.label == f"round/{k}/bridge"
    model = found["model"].stage
    assert (model.weight, [(s.data.label, s.weight) for s in model.also]) == (0.25, [("round/3/undone", 0.75)])


def test_a_toy_of_it_undoes_a_curve_of_brightness(tmp_path, monkeypatch):
    """Gamma 3 has no adjoint; undone images keep their ids, and are of their own originals rather than of others'."""
    alone.installed(monkeypatch)
    store = Store(str(tmp_path / "store"))
    found = alone.made(bridge(corruption=BlackBox(Gamma(3.0)), **HOW, bridge_fit=Fit(images=25_600)), store)
    originals = load(found["ingest"])
    at = {name: i for i, name in enumerate(originals.ids)}
    damaged = load(found["data/damaged"])
    x0 = originals.x()[[at[name] for name in damaged.ids]]
    for k in (1, 2):
        undone = load(found[f"round/{k}/undone"])
        assert undone.ids == damaged.ids
        own, others = (float((undone.x() - x).square().mean()) for x in (x0, x0.roll(1, 0)))
        assert own < 0.6 * others
    assert math.isfinite(found["report"].json("metrics.json")["ratio"])


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: bridge(rounds=0), "rounds 0"),
        (lambda: bridge(share=1.0), "share is 1.0"),
        (lambda: bridge(damaged="x", ceiling=True), "arrived damaged"),
        (lambda: TrainBridge((), Clean()), "positive one"),
        (lambda: TrainBridge((Share(None),), Noisy(noise=0.1), fit=Fit(dihedral=True)), "after they were damaged"),
    ],
)
def test_what_makes_no_sense_is_refused(build, says):
    with pytest.raises(ValueError, match=says):
        build()
