"""`sample --label` and `--guide self`: what is asked for is drawn, by number and seed alone, and shown line by line."""

from __future__ import annotations

import contextlib
import functools
import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from doubles import Silent
from PIL import Image

from pipeline.data.records import Examples
from pipeline.diffusion.guide import ClassifierFree
from pipeline.diffusion.sample import Heun, samples
from pipeline.engine import cluster, shards, tasks, track
from pipeline.engine.pictures import grid, lines
from pipeline.graph import Given, Scale
from pipeline.learning.weights import unpack
from pipeline.store import Store
from stages import sample as stage
from stages.corrupt import load
from stages.evaluate import Evaluate
from stages.sample import Sample


@pytest.fixture
def models(kintsugi, monkeypatch):
    """The command with models in the store, of three, two and no classes; all is done in this process."""
    monkeypatch.setattr(track, "Tracking", Silent)
    monkeypatch.setattr(cluster, "connect", lambda: contextlib.nullcontext((2.0, 0.0)))
    monkeypatch.setattr(cluster, "call", lambda scale, function, *given: function(*given))
    monkeypatch.setattr(tasks, "each", lambda function, items, at: map(function, items))
    two = kintsugi("run", "model", "--classes", "2", "--json").json["target"]
    none = kintsugi("run", "model", "--json").json["target"]
    assert kintsugi("run", "model", "--classes", "3").code == 0
    return kintsugi, two, none


def drawn(kintsugi, *words) -> Examples:
    said = kintsugi("sample", "model/model", "--steps", "4", "--json", *words)
    assert said.code == 0, said.err
    return load(Store("runs").artifact(said.json["samples"]))


@pytest.mark.slow
def test_labels_come_in_turn_and_an_image_depends_on_its_own_alone(models):
    kintsugi, _, _ = models
    three = drawn(kintsugi, "--label", "0,1,2", "--count", "7")
    assert three.label.tolist() == [0, 1, 2, 0, 1, 2, 0]
    for label in range(3):
        one = drawn(kintsugi, "--label", str(label), "--count", "7")
        assert one.label.tolist() == [label] * 7
        same = np.abs(one.images.astype(int) - three.images) <= 1
        assert same[three.label == label].all()
        assert not same[three.label != label].all()
    every = drawn(kintsugi, "--label", "all", "--count", "7")
    assert every.images.tobytes() == three.images.tobytes()
    unconditional = drawn(kintsugi, "--count", "7")
    assert unconditional.label.tolist() == [-1] * 7
    assert (unconditional.images != three.images).any()


@pytest.mark.usefixtures("models")
def test_the_batch_makes_no_difference():
    store = Store("runs")
    artifact = store.artifact(Given.find(store, "model/model").address)
    made = []
    for size in (1, 3, 7):
        asked = Sample(Given.find(store, "model/model"), 7, Heun(4), batch=size, labels=(2, 0), classifier_free=True)
        made.append(stage.drawn(asked, lambda asked=asked: stage.ready(asked, artifact, None, None, None)))
    for other in made[1:]:
        assert np.abs(other.images.astype(int) - made[0].images).max() <= 1


@pytest.mark.slow
def test_many_images_are_drawn_by_all_workers_and_are_the_same(models, monkeypatch):
    """Eight are three pieces of three, of which the last is short."""
    kintsugi, _, _ = models
    model, pieces = Given.find(Store("runs"), "model/model"), []
    asked = Sample(model, 8, Heun(4), seed=5, labels=(0, 1, 2, 2))
    whole = stage.drawn(asked, lambda: stage.ready(asked, Store("runs").artifact(model.address), None, None, None))

    def pool(function, items, at, load=None):
        assert at.scale == Scale(workers=2, gpus=0)
        pieces.extend(piece for _, piece in items)
        loaded = functools.cache(load)
        return (function(item, loaded) for item in reversed(items))

    monkeypatch.setattr(shards, "each", pool)
    monkeypatch.setattr(stage, "PIECE", 3)
    parts = drawn(kintsugi, "--label", "0,1,2,2", "--count", "8", "--seed", "5", "--workers", "2")
    assert pieces == [range(0, 3), range(3, 6), range(6, 8)]
    assert parts.ids == whole.ids
    assert parts.label.tolist() == whole.label.tolist()
    assert np.abs(parts.images.astype(int) - whole.images).max() <= 1


@pytest.mark.slow
def test_guidance_by_itself_is_classifier_free_guidance(models):
    kintsugi, _, _ = models
    store = Store("runs")
    D = unpack(store.artifact(store.find("model/model")).read)
    told = torch.tensor([2, 2, 2])
    for words, low_high in (((), ()), (("--interval", "0.1", "5"), (0.1, 5.0))):
        got = drawn(kintsugi, "--label", "2", "--count", "3", "--guide", "self", "--weight", "3", *words)
        want = samples(ClassifierFree(D, 3.0, None, *low_high), Heun(4), (1, 8, 8), range(3), 0, 3, told)
        want = Examples.from_x("abc", want.clamp(-1, 1), uint8=True)
        assert np.abs(got.images.astype(int) - want.images).max() <= 1
    plain = drawn(kintsugi, "--label", "2", "--count", "3")
    assert drawn(kintsugi, "--label", "2", "--count", "3", "--guide", "self", "--weight", "1").images.tobytes() == (
        plain.images.tobytes()
    )
    assert (got.images != plain.images).any()


def test_the_picture_has_a_line_for_each_label(models, tmp_path):
    kintsugi, _, _ = models
    rows = drawn(kintsugi, "--label", "2,0", "--count", "5")
    shown = Image.open(tmp_path / "samples.png")
    plain = Image.open(
        io.BytesIO(grid(np.concatenate([rows.images[1::2], rows.images[:1] * 0 + 255, rows.images[::2]]), 3))
    )
    margin = shown.width - plain.width
    assert 10 < margin < 40
    assert shown.height == plain.height
    assert np.array_equal(np.asarray(shown)[:, margin:], np.asarray(plain))
    left = np.asarray(shown)[:, :margin].min(axis=(1, 2)) < 128
    half = len(left) // 2
    assert left[:half].any()
    assert left[half:].any()
    many = np.arange(40)
    picture = Image.open(io.BytesIO(lines(np.zeros((40, 1, 8, 8), np.uint8), many)))
    assert picture.height < 16 * 60, "a picture of a thousand classes is no picture"


@pytest.mark.slow
def test_evaluation_tells_the_model_the_test_images_labels(models, tmp_path):
    kintsugi, _, none = models
    judged = kintsugi("evaluate", "model/model", "--test", "model/model", "--samples", "6", "--json")
    assert judged.code == 0, judged.err
    store = Store("runs")
    artifact = store.artifact(store.find("model/model"))
    rows, D = load(artifact), unpack(artifact.read)
    told = torch.from_numpy(rows.label)
    want, _ = Evaluate.error(D, rows.x(), rows.ids, told)
    assert judged.json["metrics"]["denoising_error"] == pytest.approx(want)
    assert Evaluate.error(D, rows.x(), rows.ids, (told + 1) % 3)[0] != pytest.approx(want, rel=1e-4)
    used = [a for a in store.addresses() if a.startswith("sample/")]
    assert load(store.artifact(used[0])).label.tolist() == [0, 1, 2, 0, 1, 2]
    kintsugi("evaluate", "model/model", "--test", none, "--samples", "0").refused(
        "told of a label", "no test image has one"
    )


def test_what_cannot_be_drawn_is_one_sentence(models):
    kintsugi, two, none = models
    words = ("sample", "model/model", "--steps", "2", "--count", "2")
    kintsugi(*words, "--label", "3").refused("the labels 0 to 2", "label 3")
    for wrong in ("-1", "cat", "1,", "", "1.5"):
        kintsugi(*words, f"--label={wrong}").refused("--label", "names no classes")
    kintsugi("sample", none, "--label", "0").refused("no labels")
    kintsugi("sample", none, "--label", "all").refused("told no labels: leave out --label")
    kintsugi(*words, "--guide", "self").refused("give labels")
    kintsugi(*words, "--label", "1", "--guide", two).refused("told of Labels(classes=2), not Labels(classes=3)")
    assert kintsugi(*words, "--label", "1", "--guide", "model/model").code == 0


@pytest.mark.usefixtures("models")
def test_a_model_that_was_always_told_a_label_does_not_do_without():
    store = Store("runs")
    artifact = store.artifact(store.find("model/model"))
    backbone = json.loads(artifact.read("denoiser.json"))["backbone"]
    for share, always in ((0.0, "its label"), (0.1, "")):
        artifact.manifest["config"] = {"backbone": backbone, "fit": {"unconditional": share}}
        assert stage.always_told(artifact) == always
    some = SimpleNamespace(
        manifest={"config": {"backbone": backbone, "fit": {"unconditional": 0}}},
        names=lambda: ["metrics.json"],
        json=lambda name: {"untold": 3},
    )
    assert not stage.always_told(some), "three images came without a label"
    artifact.manifest["config"] = {"backbone": backbone, "fit": {"unconditional": 0}}
    for asked in (
        Sample(Given.find(store, "model/model")),
        Sample(Given.find(store, "model/model"), labels=(0,), classifier_free=True),
    ):
        at = SimpleNamespace(open=lambda step: artifact, store=store)
        with pytest.raises(ValueError, match="was told its label with every image"):
            asked.run(at)  # type: ignore[arg-type]
    for strange in ({}, {"backbone": 3, "fit": []}, {"backbone": {"condition": "x"}, "fit": {"unconditional": 0}}):
        artifact.manifest["config"] = strange
        assert not stage.always_told(artifact)
