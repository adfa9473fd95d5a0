"""partial_views: its golden fingerprints, that no image is in two sets, and a toy size of it from end to end."""

from __future__ import annotations

import json

import pytest
import torch

from pipeline import graph
from pipeline.metrics.judging import ORDER
from pipeline.store import Store
from stages.__main__ import main
from stages.corrupt import load
from stages.recipes.partial_views import default_views, partial_views

# A change here means that everybody's results are made anew: bump on purpose, and say so in CHANGELOG.md.
GOLDEN = {
    "ingest": "3bfabe3120d7084acf66",
    "data/left": "9a63f95c4053ec452835",
    "view/left": "fac920dd8ef9c04b4f6a",
    "joint": "9b79da924419ce51557d",
    "base": "c05091a2a42f73b9587a",
    "composed": "274153851038bc23a6dd",
    "evaluate/ceiling": "8e739753962bd4f866b2",
    "report": "eec829cd33c9cd6f1d2e",
}

TINY = "{is: pipeline.backbones.mlp.Config, width: 32, blocks: 1}"
SMALL = [
    *("--clean", "24", "--per-view", "40", "--samples", "16", "--rounds", "1", "--distil", "16"),
    *(
        word
        for model in ("view", "joint", "completed", "clean", "residual", "distilled")
        for word in ("--set", f"{model}_fit.images=256", "--set", f"{model}_backbone={TINY}")
    ),
    *(
        word
        for option in ("dropout=0.1", "jacobian=0.01", "patience=2", "by_energy=true", "weight_decay=0.1")
        for word in ("--set", f"residual.{option}")
    ),
    *("--set", "residual.features=[disagreement, coverage, coordinates]"),
]


def test_golden_fingerprints():
    found = {node.label: node.fingerprint for node in graph.walk(partial_views(ceiling=True))}
    assert {label: found[label] for label in GOLDEN} == GOLDEN


def test_scale_and_labels_bear_no_identity():
    wide = partial_views(scale=graph.Scale(workers=4, gpus=1))
    assert wide.fingerprint == partial_views().fingerprint


def test_the_seed_moves_everything_but_the_ingested_images():
    one, two = ({n.label: n.fingerprint for n in graph.walk(partial_views(seed=s))} for s in (0, 1))
    assert {label for label in one if one[label] == two[label]} == {"ingest"}


@pytest.mark.parametrize("wrong", [{"samples": 1}, {"clean": 7}, {"rounds": -1}, {"draws": 0}, {"held_out": 1.0}])
def test_numbers_that_no_comparison_can_be_made_of_are_refused_before_any_work(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} is"):
        partial_views(**wrong)


@pytest.mark.parametrize("shape", [(1, 7, 8), (1, 8, 5), (3, 2, 8)])
def test_images_without_default_views_are_refused(shape):
    with pytest.raises(ValueError, match="give --size"):
        default_views(shape)


@pytest.mark.parametrize("shape", [(1, 4, 4), (1, 8, 8), (3, 32, 32), (3, 6, 10)])
def test_default_views_overlap_and_together_see_everything(shape):
    left, right, pooled = (named.map for named in default_views(shape))
    assert left.width + right.width > shape[2]
    assert right.left + right.width == shape[2]
    assert all(view.orthonormal for view in (left, right, pooled))


@pytest.mark.ray
@pytest.mark.slow
def test_a_toy_size_of_it_runs_and_the_second_time_does_nothing(one_ray, tmp_path, capsys):
    words = ["run", "partial_views", "--store", str(tmp_path / "runs"), "--json", *SMALL]
    assert main(words) == 0
    first = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert first["steps"] == {"run": 38, "cached": 0}
    names = {
        f"{kind}/{model}"
        for kind in ("denoising_error", *ORDER)
        for model in ("composed", "base", "distilled", "joint", "completed", "clean_only")
    }
    assert first["metrics"].keys() == names | {"ratio", "selection"}
    page = (tmp_path / "runs/results/partial_views" / first["target"] / "report.html").read_text()
    assert page.count("data:image/png;base64") >= 10
    assert "http" not in page, "it fetches something"
    assert page.count("<th>precision</th>") == page.count("<th>d₁/d₂ under ⅓</th>") == 1
    assert "16 samples against 1653 held-out images" in page

    assert main(words) == 0
    second = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert second["steps"] == {"run": 0, "cached": 38}
    assert {k: v for k, v in second.items() if k not in ("steps", "seconds")} == {
        k: v for k, v in first.items() if k not in ("steps", "seconds")
    }

    store = Store(str(tmp_path / "runs"))
    refs = store.refs()
    sets = {name: set(load(store.artifact(refs[f"partial_views/data/{name}"])).ids) for name in SETS}
    assert [len(sets[name]) for name in SETS] == [24, 40, 40, 40, 1797 - 144]
    assert len(set.union(*sets.values())) == 1797, "an image is in two sets"
    taught, held = (
        set(load(store.artifact(refs[f"partial_views/data/clean/{name}"])).ids) for name in ("taught", "held")
    )
    assert taught | held == sets["clean"]
    assert not taught & held
    assert len(held) == 4
    for view in default_views((1, 8, 8)):
        rows = load(store.artifact(refs[f"partial_views/data/{view.name}"]))
        whole = load(store.artifact(refs[f"partial_views/data/completed/0/{view.name}"]))
        assert whole.ids == tuple(f"{name}~{draw}" for draw in range(2) for name in rows.ids)
        torch.testing.assert_close(view.map(whole.x()), rows.x().repeat(2, 1, 1, 1), rtol=0, atol=2e-3)
        assert not torch.equal(whole.x()[:40], whole.x()[40:])
    runs = _runs(tmp_path / "runs" / "mlflow.db")
    assert len(runs) == 38
    assert {status for _, status in runs} == {"FINISHED"}


SETS = ("clean", "left", "right", "pooled", "test")


def _runs(database) -> list[tuple[str, str]]:
    import sqlite3

    with sqlite3.connect(database) as connection:
        return connection.execute("select name, status from runs").fetchall()
