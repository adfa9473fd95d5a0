"""What notebooks import gives what the command line gives, and shows itself without harm."""

from __future__ import annotations

import contextlib
import re
from types import SimpleNamespace

import pytest
import torch
from doubles import Silent

from pipeline import graph
from pipeline.data.records import Examples
from pipeline.diffusion.sample import Heun
from pipeline.engine import cluster, track
from pipeline.engine.ledger import FINISHED, Trial
from pipeline.graph import Event
from pipeline.learning.weights import unpack
from pipeline.physics.masks import PixelMask
from pipeline.shown import LINES, picture, table
from pipeline.store import Store
from stages import notebook
from stages.corrupt import load
from stages.progress import Cell
from stages.sweep import Found

TWO = Heun(steps=2)


@pytest.fixture
def alone(kintsugi, monkeypatch):
    """The command, whose steps run in this process."""
    monkeypatch.setattr(cluster, "connect", lambda: contextlib.nullcontext((1.0, 0.0)))
    monkeypatch.setattr(cluster, "call", lambda scale, function, *given, **how: function(*given))
    monkeypatch.setattr(track, "Tracking", Silent)
    return kintsugi


def test_a_model_by_its_name_is_the_denoiser_and_draws_what_the_command_draws(alone):
    assert alone("run", "model").code == 0
    said = alone("sample", "model/model", "--count", "3", "--steps", "2", "--json").json
    model = notebook.load("model/model")
    drawn = model.sample(3, sampler=TWO)
    rows = load(Store("runs").artifact(Store("runs").find(said["samples"])))
    assert torch.equal(drawn.x, rows.x())
    assert drawn._repr_png_().startswith(b"\x89PNG")
    x = torch.randn(2, *model.shape)
    D = unpack(Store("runs").artifact(Store("runs").find("model/model")).read)
    assert torch.equal(model(x, 0.5), D(x, torch.full((2,), 0.5)))
    assert torch.equal(model(x, torch.tensor([0.5, 2.0])), D(x, torch.tensor([0.5, 2.0])))
    assert model.made.address in model._repr_html_()
    with pytest.raises(ValueError, match="no labels"):
        model.sample(2, labels=(1,))
    with pytest.raises(ValueError, match=r"no option 'stepz'.*sampler"):
        model.sample(2, stepz=3)
    for sigma in (-0.5, 0.0, torch.tensor([0.5, float("nan")])):
        with pytest.raises(ValueError, match="give noise levels above 0"):
            model(x, sigma)
    assert repr(model) == f"Model({model.made.address} makes images {model.shape})"
    with pytest.raises(ValueError, match="no model"):
        notebook.load(said["samples"])


def test_a_plan_and_a_sweep_show_themselves(alone):
    before = notebook.plan("model")
    assert "of" in (said := before._repr_html_())
    assert said.count("never made") == len(list(graph.walk(before.target)))
    notebook.run("model")
    assert notebook.plan("model")._repr_html_().count("<td>cached</td>") == len(list(graph.walk(before.target)))
    trials = [
        Trial(number, {"lr": lr, "evil": "<b>"}, FINISHED, value)
        for number, lr, value in ((0, 0.1, 0.7), (1, 0.2, 0.5))
    ]
    shown = Found("s", trials[1], trials, "model/best", "train/x", 2, 0, Store("runs").place)._repr_html_()
    assert shown.index("<td>0.2</td>") < shown.index("<td>0.1</td>"), "the winner first"
    assert "model/best: trial 1" in shown
    assert "<b>" not in shown


def test_a_recipe_runs_by_its_paths_as_by_its_options(alone, tmp_path):
    first = alone("run", "model", "--side", "4", "--json").json
    found = notebook.run("model", {"side": 4})
    assert found.counts == {"run": 0, "cached": first["steps"]["run"]}
    assert found.asked.target.fingerprint == first["target"]
    assert found.load("model").shape == (1, 4, 4)
    assert found["model"].address == found.asked.target.address
    with pytest.raises(KeyError, match="mean 'model'"):
        found["modle"]
    with pytest.raises(ValueError, match="sied"):
        notebook.run("model", {"sied": 4})
    assert notebook.run("model", {"side": 4}, "elsewhere").counts["cached"] == 0
    assert (tmp_path / "elsewhere/results/model").is_dir()


def test_what_shows_itself_shows_what_it_is_told_as_text():
    harm = "<script>alert(1)</script>"
    for html in (table([harm], [[harm]], harm), picture(b"", harm)):
        assert "<script" not in html
        assert html.count("&lt;script&gt;") >= 2
    page = notebook.Page(f'<p title="x">{harm}</p>')._repr_html_()
    assert re.search(r'<iframe sandbox [^<>]*srcdoc="[^"<>]*"></iframe>$', page), "the page ends where its text says"
    rows = [[i] for i in range(LINES + 3)]
    assert "and 3 more" in table(["n"], rows)
    assert f"<td>{LINES}</td>" not in table(["n"], rows)


def test_a_store_an_artifact_and_a_step_show_what_they_hold(alone):
    assert alone("run", "model").code == 0
    store = Store("runs")
    address = store.find("model/model")
    for shown in (store, store.artifact(address), notebook.plan("model").target):
        assert address.split("/")[1] in shown._repr_html_()
    alone("sample", "model/model", "--count", "2", "--steps", "2")
    (drawn,) = (a for a in store.addresses() if a.startswith("sample/"))
    assert "data:image/png;base64" in store.artifact(drawn)._repr_html_()


def test_what_a_corruption_does_is_measured_and_shown():
    images = notebook.digits(200)
    assert isinstance(images, Examples)
    assert images.shape == (1, 8, 8)
    assert set(images.label) == set(range(10))
    seen = notebook.look(PixelMask(0.25, noise=0.2), images)
    assert seen.numbers["observed"] == pytest.approx(0.75, abs=0.02)
    assert seen.numbers["noise_rms"] == pytest.approx(0.2, rel=0.03)
    assert [caption for caption, _ in seen.shown] == ["before", "told", "hidden"]
    assert seen._repr_html_().count("<figure>") == 3


def test_a_cell_says_what_is_done_and_what_is_running(monkeypatch):
    told: list[str] = []
    handle = SimpleNamespace(update=lambda bundle, raw: told.append(bundle["text/plain"]))
    display = pytest.importorskip("IPython.display", reason="needs the extra notebooks")
    monkeypatch.setattr(display, "display", lambda *given, **how: handle)
    cell = Cell()
    one, two = (SimpleNamespace(label=label, address=f"train/{label}") for label in ("one", "two"))
    cell.event(Event(one, "start"))  # pyright: ignore[reportArgumentType]
    cell.event(Event(two, "start"))  # pyright: ignore[reportArgumentType]
    cell._last = 0.0
    cell.metrics(two, {"done": 0.5, "loss": 1.0}, at=3)  # pyright: ignore[reportArgumentType]
    assert told[-1] == "one, two 50%"
    cell.event(Event(one, "done", 2.0))  # pyright: ignore[reportArgumentType]
    assert told[-1] == "done one 2.0 s\ntwo 50%"
    cell.warn(two, "few images")  # pyright: ignore[reportArgumentType]
    cell.event(Event(two, "failed", 1.0))  # pyright: ignore[reportArgumentType]
    cell.close()
    assert told[-1] == "done one 2.0 s\ntwo: few images\nfailed two 1.0 s"
