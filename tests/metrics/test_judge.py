"""The stage that judges: the same numbers however sets are cut into shards, cards beside all of them, copies found."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from pipeline import graph
from pipeline.data.manifest import Manifest, name
from pipeline.data.records import Examples
from pipeline.data.shards import write_shard
from pipeline.engine import cluster, tasks
from pipeline.graph import Context, Scale, Stage, step
from pipeline.metrics.classifier import Classifier
from pipeline.metrics.features import DESCRIPTION
from pipeline.metrics.files import File
from pipeline.metrics.judging import Judging
from pipeline.store import Store
from stages.adopt import Weights
from stages.extractors import AdoptFeatures, Classify, extractor
from stages.judge import Drawn, Judge, flat
from stages.judgement_page import judgements
from stages.recipes.partial_views import partial_views
from stages.recipes.plain import plain


@dataclass(frozen=True)
class Set(Stage):
    """Rows of random pixels; some are those of seed 0."""

    count: int = 60
    seed: int = 0
    shards: int = 1
    copied: int = 0
    labelled: bool = True
    side: int = 8

    def run(self, at: Context) -> None:
        def pixels(seed, count):
            return np.random.default_rng(seed).integers(0, 256, (count, 1, self.side, self.side)).astype(np.uint8)

        images = pixels(self.seed, self.count)
        images[: self.copied] = pixels(0, self.copied)
        label = np.arange(self.count) % 3 if self.labelled else np.full(self.count, -1)
        images = images // (1 + label % 3)[:, None, None, None].astype(np.uint8)
        rows = Examples(tuple(f"{self.seed}-{i}" for i in range(self.count)), images, label.astype(np.int64))
        cuts = np.linspace(0, self.count, self.shards + 1).astype(int)
        for i in range(self.shards):
            with at.out.writing(name(i)) as file:
                write_shard(file, rows.take(np.arange(cuts[i], cuts[i + 1])))
        Manifest.of(np.diff(cuts), rows.shape, "uint8").write(at.out)


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Makes a step, in this process, and gives its artifact."""
    monkeypatch.setattr(tasks, "each", lambda function, items, at: map(function, items))
    monkeypatch.setattr(cluster, "call", lambda scale, function, *given: function(*given))
    store = Store(str(tmp_path / "store"))
    tracker = SimpleNamespace(metrics=lambda *a, **k: None, card=lambda *a: None, picture=lambda *a: None)

    def make(target):
        for node in graph.walk(target):
            if not store.has(node):
                with store.writing(node) as out:
                    node.stage.run(Context(out, store, Scale(), tracker))
        return store.artifact(target.address)

    return make


def judgement(made, cut: int = 1, judging: Judging = Judging(), eye=None, **drawn):
    samples = Set(40, 2, cut, **drawn)
    return made(judging_of(cut, judging, eye, samples)).json("judgement.json")


def judging_of(cut, judging, eye, samples):
    return step(Judge((Drawn("a", step(samples)),), step(Set(60, 1, cut)), step(Set(50, 0, cut)), judging, eye))


@pytest.mark.parametrize("most", [10_000, 25])
def test_numbers_do_not_depend_on_how_sets_are_cut(made, most):
    judging = Judging(most=most)
    one, many = (judgement(made, cut, judging) for cut in (1, 7))
    for metric, found in one["numbers"]["a"].items():
        other = many["numbers"]["a"][metric]
        for end in ("value", "low", "high"):
            assert found[end] == pytest.approx(other[end]), metric
    assert one["cards"]["a"]["precision"]["samples"] == min(most, 40)
    assert one["cards"]["a"]["frechet"]["samples"] == 40


def test_copies_are_found_and_every_number_has_its_card(made):
    found = judgement(made, 3, copied=10)
    numbers, cards = found["numbers"]["a"], found["cards"]["a"]
    assert numbers["copied"]["value"] == numbers["similar_0.99"]["value"] == 0.25
    assert found["held_out"]["copied"]["value"] == 0
    assert numbers.keys() == cards.keys()
    for card in cards.values():
        assert card["features"] == "pixels"
        assert {"resize", "dimension", "samples", "reference", "interval", "samples_of"} <= card.keys()
    assert cards["copied"]["learned_images"] == 50
    assert cards["frechet"]["reference_images"] == 60
    assert "fewer images than the 64 features" in cards["frechet"]["beware"]
    assert flat(found)["copied/a"] == 0.25
    tables = judgements(found, lambda file: b"")
    assert [row[0] for row in tables[1].rows] == ["a", "held-out images"]
    assert json.loads(tables[1].code) == found["cards"]


def test_the_nearest_learned_image_stands_below_what_is_closest_to_one(made):
    """However sets are cut; of copies the two rows are the same pixels."""
    artifacts = [made(judging_of(cut, Judging(), None, Set(40, 2, cut, copied=15))) for cut in (1, 7)]
    found = artifacts[0].json("judgement.json")
    assert found["nearest"].keys() == {"held out", "a"}
    assert found["nearest"]["a"]["ratios"] == [0.0] * 12
    assert min(found["nearest"]["held out"]["ratios"]) > 0.3
    (one, more), chance = (
        [Image.open(io.BytesIO(artifact.read(found["nearest"][who]["file"]))) for artifact in artifacts]
        for who in ("a", "held out")
    )
    for picture, same in ((one, True), (chance[0], False)):
        above, below = np.array_split(np.asarray(picture)[_gap(picture) :], 2)
        assert np.array_equal(above, below) is same
    assert one.tobytes() == more.tobytes()
    assert chance[0].tobytes() == chance[1].tobytes()
    (section,) = [part for part in judgements(found, artifacts[0].read) if part.pictures]
    assert [caption.split(":")[0] for caption, _ in section.pictures] == ["held out", "a"]


def _gap(picture):
    """The white rows above the first image."""
    return int((np.asarray(picture).min((1, 2)) < 255).argmax())


def test_too_few_images_leave_out_what_cannot_be_said_of_them(made):
    stage = Judge((Drawn("a", step(Set(5, 2))),), step(Set(60, 1)), None, Judging())
    found = made(step(stage)).json("judgement.json")
    assert found["numbers"]["a"].keys() == {"frechet", "kernel", "sliced_wasserstein"}
    assert "at least 12 images of each set, not 5" in found["lacking"]["a"]["neighbours"]
    assert any("Not judged" in text for text in judgements(found, lambda file: b"")[0].texts)


def test_samples_of_another_size_are_a_sentence(made):
    stage = Judge((Drawn("a", step(Set(20, 2, side=4))),), step(Set(20, 1)))
    with pytest.raises(ValueError, match=r"a drew images \(1, 4, 4\), those held out are \(1, 8, 8\)"):
        made(step(stage))
    with pytest.raises(ValueError, match="different names"):
        Judge((), step(Set()))


class Half(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, 0].flatten(1)[:, ::2] / 255.0


def test_a_file_judges_and_is_known_by_its_content(made, tmp_path):
    path = tmp_path / "net.pt"
    torch.jit.save(torch.jit.script(Half()), path)
    asked = Judging(features=File(str(path)))

    def eye():
        return extractor(asked, (1, 8, 8), step, step(Set()), Scale())

    how, adopted = eye()
    assert how == Judging()
    found = judgement(made, judging=how, eye=adopted)
    card = found["cards"]["a"]["kernel"]
    assert card["sha256"] == Weights.of(path).sha256
    assert (card["file"], card["dimension"]) == ("net.pt", 32)
    (tmp_path / "moved.pt").write_bytes(path.read_bytes())
    elsewhere = extractor(Judging(features=File(str(tmp_path / "moved.pt"))), (1, 8, 8), step, step(Set()), Scale())[1]
    assert elsewhere.fingerprint == adopted.fingerprint, "where it lies is no part of it"
    stage = AdoptFeatures(Weights.of(path), File(), (3, 8, 8))
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(ValueError, match="has changed since it was looked at: run again"):
        made(step(stage))
    path.write_bytes(b"no network")
    with pytest.raises(ValueError, match=r"net\.pt: .*neither TorchScript nor ONNX"):
        made(eye()[1])
    with pytest.raises(ValueError, match="no file: name a feature network"):
        extractor(Judging(features=File("nowhere.pt")), (1, 8, 8), step, step(Set()), Scale())


@pytest.mark.slow
def test_a_classifier_is_trained_once_and_judges(made):
    spec = Classifier(width=4, images=6400, batch=64)
    how, eye = extractor(Judging(features=spec), (1, 8, 8), lambda: step(Set(120, 5)), step(Set(60, 6)), Scale())
    card = made(eye).json("card.json")
    assert card["classes"] == 3
    assert card["test_accuracy"] > 0.5
    found = judgement(made, judging=how, eye=eye)
    assert found["cards"]["a"]["frechet"]["sha256"] == card["sha256"]
    assert found["cards"]["a"]["frechet"]["dimension"] == 16
    assert DESCRIPTION in made(eye).names()
    with pytest.raises(ValueError, match="images without a label: a classifier learns from labels"):
        made(step(Classify(step(Set(30, 5, labelled=False)), step(Set()), spec)))


def test_recipes_look_at_the_features_before_they_train():
    for recipe, learned in ((plain, "data/train"), (partial_views, "data/unharmed")):
        nodes = {n.label: n for n in graph.walk(recipe(judging=Judging(features=Classifier())))}
        assert nodes["features"].stage.data.label == learned
        assert nodes["judge"].stage.extractor is nodes["features"]
        trains = [n for label, n in nodes.items() if label in ("model", "joint", "clean_only", "view/left")]
        assert trains
        assert all(nodes["features"] in node.after for node in trains)
        assert "features" not in {n.label for n in graph.walk(recipe())}
