"""The story of a run says what it was made from; it is one file, leads nowhere outside, and can be read on a phone."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
from itertools import pairwise

import alone
import kept
import pytest
from PIL import Image

from pipeline.backbones import mlp
from pipeline.data.manifest import name as shard
from pipeline.engine import ancestry
from pipeline.engine.preview import name
from pipeline.engine.report import Link, Report, Section
from pipeline.graph import walk
from pipeline.store import Store
from stages import story as stories
from stages.noisy import Harm
from stages.recipes.sfbd import sfbd
from stages.rounds import Rounds
from stages.train import Fit

SHORT = Fit(images=640)
TOY = mlp.Config(width=16, blocks=1)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A toy of sfbd, run in this process, and its store."""
    folder = tmp_path_factory.mktemp("story")
    with pytest.MonkeyPatch.context() as patch:
        alone.installed(patch)
        store = Store(str(folder / "runs"))
        how = {"backbone": TOY, "fit": SHORT, "clean_fit": SHORT, "samples": 12}
        target = sfbd(harm=Harm(clean=20, noise=0.3, count=30, test=20), rounds=Rounds(most=1, direct=True), **how)
        alone.made(target, store)
    patch = pytest.MonkeyPatch()
    patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
    yield target, store
    patch.undo()


def test_everything_upstream_is_told_once_and_first_things_first(run):
    target, store = run
    found = stories.upstream(store, target.address)
    assert {*found} == {node.address for node in walk(target) if node.address in found}
    needed = {address: stories.needed(one) for address, one in found.items()}
    order = list(found)
    assert order[-1] == target.address
    for address, needs in needed.items():
        assert all(order.index(need) < order.index(address) for need in needs)
    assert len(found) > 15


def test_the_story_has_what_went_in_what_was_hidden_and_every_cost(run):
    target, store = run
    page = stories.story(store, target.address, "sfbd")
    parts = {part.title: part for part in page.parts}
    noisy = parts["What went in: data/noisy"]
    assert [caption for caption, _ in noisy.pictures] == ["before", "told"], "noise hides nothing"
    assert dict(noisy.rows)["noise_stated"] == pytest.approx(0.3)
    assert not [title for title in parts if "noised" in title], "what models made did not go in"
    assert [row[0] for row in parts["Training"].rows] == ["pretrained", "round/1"]
    costs = parts["What each step cost"].rows
    assert sum(row[2] for row in costs) == pytest.approx(
        sum(round(one.seconds, 1) for one in stories.upstream(store, target.address).values())
    )
    drawn = [caption.split(",")[0] for caption, _ in parts["Samples on a timeline"].pictures]
    assert "round/1/samples" in drawn
    assert parts["Its options"].code
    assert json.loads(parts["How it was measured"].code)


def test_what_was_deleted_since_is_passed_over_and_said(run, tmp_path):
    target, store = run
    shutil.copytree(store.place.root, tmp_path / "runs")
    poor = Store(str(tmp_path / "runs"))
    (ingest,) = (address for address in poor.addresses() if address.startswith("ingest/"))
    poor.place.remove(f"objects/{ingest}")
    page = stories.story(poor, target.address, "sfbd")
    noisy = next(part for part in page.parts if part.title == "What went in: data/noisy")
    assert "not in the store any more" in " ".join(noisy.texts)
    assert ingest not in stories.upstream(poor, target.address)
    with pytest.raises(ValueError, match="is not in"):
        stories.story(poor, ingest, "gone")


def test_what_has_rotted_is_said_or_left_out(run, tmp_path):
    target, store = run
    shutil.copytree(store.place.root, tmp_path / "runs")
    poor = Store(str(tmp_path / "runs"))
    noisy = next(o for o in stories.upstream(poor, target.address).values() if o.manifest["label"] == "data/noisy")
    drawn = next(o for o in stories.upstream(poor, target.address).values() if "samples.png" in o.names())
    noisy.place.write(shard(0), b"rot")
    drawn.place.write("samples.png", b"rot")
    page = stories.story(poor, target.address, "sfbd")
    parts = {part.title: part for part in page.parts}
    assert "is damaged" in parts["What went in: data/noisy"].texts[0]
    captions = [caption.split(",")[0] for caption, _ in parts["Samples on a timeline"].pictures]
    assert captions
    assert drawn.manifest["label"] not in captions


def test_what_a_model_drew_while_it_learned_is_shown_in_time(tmp_path):
    files = {name(300): b"later", name(64): b"first", "metrics.json": b'{"images": 320, "loss": 0.5}'}
    one = kept.artifact(tmp_path / "made", files, {})
    one.manifest["label"] = "model"
    (part,) = stories.training({"made/made": one}, {"made/made": [(64, 1.0), (320, 0.5)]})
    assert [png for _, png in part.pictures[1:]] == [b"first", b"later"]
    assert [caption.split(",")[0] for caption, _ in part.pictures[1:]] == [
        "model after 64 images",
        "model after 300 images",
    ]
    assert part.texts == []


def test_in_the_picture_each_step_stands_below_what_it_was_made_from(monkeypatch):
    monkeypatch.setattr(ancestry, "as_png", lambda figure: figure)
    needs = {"a": [], "b": ["a"], "c": ["a", "b"], "d": ["c"], "e": ["a"]}
    drawn = ancestry.ancestry(needs, {"a": "data", "c": "model"})
    texts = [text for text in drawn.axes[0].texts if text.get_text()]
    where = {text.get_text(): text.xy for text in texts}
    assert {*where} == {*needs}
    assert all(where[need][1] > where[label][1] for label, found in needs.items() for need in found)
    assert len({tuple(at) for at in where.values()}) == len(needs), "two boxes at one place"


def test_many_seeds_are_one_box_even_where_rounds_need_themselves(monkeypatch):
    monkeypatch.setattr(ancestry, "as_png", lambda figure: figure)
    names = [f"seed {seed}/round/{k}" for seed in range(9) for k in range(6)]
    needs = {names[0]: []} | {b: [a] for a, b in pairwise(names)}
    drawn = ancestry.ancestry(needs, {})
    assert [text.get_text() for text in drawn.axes[0].texts if text.get_text()] == ["seed */\nround/*"]


def test_a_link_stays_in_the_store():
    for href in ("https://example.org", "//example.org", "javascript:alert(1)", "/etc/passwd"):
        with pytest.raises(ValueError, match="leads away"):
            Link("x", href)
    html = Report("t", [], [Section("s", header=["a"], rows=[[Link('<b>"', 'a"b/c.html')]])]).html()
    assert "<b>" not in html
    assert 'href="a&#34;b/c.html"' in html


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium, to look at the page")
@pytest.mark.parametrize("width", [390, 1200])
def test_a_browser_shows_every_picture_and_nothing_sticks_out(run, tmp_path, width):
    target, store = run
    html = stories.story(store, target.address, "sfbd").html()
    assert "http" not in re.sub(r"data:[^\"]*", "", html), "it fetches something"
    look = """<script>const bad = [...document.images].filter(i => !i.complete || !i.naturalWidth).length;
    const wide = document.documentElement.scrollWidth;
    const words = document.querySelector("figure.wide img");  // the lineage
    document.title = [document.images.length, bad, wide, innerWidth, words.width / words.naturalWidth].join(" ")
    </script>"""
    (tmp_path / "page.html").write_text(html.replace("</body>", f"{look}</body>"))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    flags += [
        "--disable-component-update",
        "--disable-sync",
        "--virtual-time-budget=5000",
        f"--window-size={width},2000",
    ]
    page = (tmp_path / "page.html").as_uri()
    shot = tmp_path / "page.png"
    said = subprocess.run(
        [CHROMIUM, *flags, f"--user-data-dir={tmp_path}/profile", "--dump-dom", page],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout
    images, bad, scroll, inner, shrunk = map(float, re.search(r"<title>([\d. ]+)</title>", said)[1].split())
    assert images >= 8
    assert bad == 0
    assert scroll <= inner
    assert shrunk == 1, "words must stay large enough to read"
    subprocess.run(
        [CHROMIUM, *flags, f"--user-data-dir={tmp_path}/profile", f"--screenshot={shot}", page],
        capture_output=True,
        timeout=120,
        check=True,
    )
    seen = Image.open(io.BytesIO(shot.read_bytes())).convert("L")
    assert len(set(seen.tobytes())) > 20, "the page is blank"
