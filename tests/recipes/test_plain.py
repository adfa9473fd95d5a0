"""plain: what it plans with and without labels, what it refuses, and a toy size of it from end to end."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from pipeline import graph
from pipeline.backbones import dit, mlp
from pipeline.backbones.captions import Captions
from pipeline.backbones.condition import Embedded, Labels
from pipeline.learning.weights import unpack
from pipeline.metrics.judging import ORDER
from pipeline.store import Store
from stages.__main__ import main
from stages.corrupt import load
from stages.recipes.plain import plain
from stages.train import Fit

SMALL = [
    *("--test", "40", "--samples", "20", "--set", "fit.images=1280"),
    *("--backbone", "{is: pipeline.backbones.dit.Config, width: 16, depth: 1, heads: 2}"),
]


def stages(**options) -> dict[str, graph.Step]:
    return {node.label: node for node in graph.walk(plain(**options))}


def test_classes_reach_the_network_the_set_and_the_samples():
    found = stages(classes=10)
    assert found["model"].stage.backbone.condition == Labels(10)
    assert not found["ingest"].stage.labels, "an image without a label is of use"
    assert found["samples/model"].stage.labels == tuple(range(10))
    assert found["samples/guided"].stage.classifier_free
    assert found["model"].stage.fit.unconditional == 0.1
    own = stages(backbone=dit.Config(condition=Labels(3)))
    assert own["samples/model"].stage.labels == (0, 1, 2)
    alone = stages()
    assert alone["model"].stage.backbone.condition is None
    assert "samples/guided" not in alone
    for never in ({"weight": 1.0}, {"fit": Fit(images=64)}):
        assert "samples/guided" not in stages(classes=10, **never)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"classes": -1}, "classes is -1"),
        ({"classes": 10, "backbone": mlp.Config()}, "takes no labels"),
        ({"samples": 1}, "samples is 1"),
        ({"test": 1}, "test 1"),
    ],
)
def test_what_makes_no_sense_is_refused_before_any_work(wrong, says):
    with pytest.raises(ValueError, match=says):
        plain(**wrong)


def test_captions_and_embeddings_reach_the_network_the_set_and_the_samples(tmp_path):
    np.savez(
        tmp_path / "set.npz", images=np.zeros((9, 4, 4), np.uint8), embedding=np.ones((9, 5)), other=np.ones((9, 6))
    )
    found = stages(data=str(tmp_path / "set.npz"), embedding=5)
    assert found["model"].stage.backbone.condition == Embedded(5)
    assert (found["ingest"].stage.embedding, found["ingest"].stage.source.embedding) == (5, "embedding")
    assert found["samples/model"].stage.like.label == "data/test"
    assert found["samples/guided"].stage.classifier_free
    other = stages(data=str(tmp_path / "set.npz"), embedding=6, embedding_column="other")
    assert other["ingest"].stage.source.embedding == "other"
    (tmp_path / "photos").mkdir()
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "photos/a.png")
    with pytest.raises(ValueError, match=r"has no captions: lay a\.txt beside a\.png"):
        stages(data=str(tmp_path / "photos"), captions=True)
    (tmp_path / "photos/a.txt").write_text("a cat")
    found = stages(data=str(tmp_path / "photos"), captions=True)
    assert found["model"].stage.backbone.condition == Captions()
    assert found["ingest"].stage.embedding == 0
    assert found["samples/model"].stage.like.label == "data/test"


def test_clips_are_refused_before_any_work_with_their_file_named(tmp_path):
    frames = [Image.fromarray(np.full((8, 8), shade, np.uint8)) for shade in range(20)]
    frames[0].save(tmp_path / "film.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match=r"film\.gif gives clips of 16 frames, and this recipe learns from still"):
        plain(data=str(tmp_path / "film.gif"))


@pytest.mark.ray
@pytest.mark.slow
def test_a_toy_size_of_it_runs_with_labels_and_too_few_classes_are_a_sentence(one_ray, tmp_path, capsys):
    words = ["run", "plain", "--store", str(tmp_path / "runs"), "--json", *SMALL]
    assert main([*words, "--classes", "10"]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said["steps"] == {"run": 10, "cached": 0}  # both sets of samples are of one model, which is measured once
    kinds = {f"{kind}/{name}" for kind in ("denoising_error", *ORDER) for name in ("model", "guided")}
    assert said["metrics"].keys() == kinds
    page = (tmp_path / "runs/results/plain" / said["target"] / "report.html").read_text()
    assert page.count("data:image/png;base64") >= 7
    assert "the denoising error of model is" in page
    store = Store(str(tmp_path / "runs"))
    refs = {name: store.artifact(address) for name, address in store.refs().items()}
    assert unpack(refs["plain/model"].read).config.backbone.condition == Labels(10)
    sets = [load(refs[f"plain/data/{name}"]) for name in ("train", "test")]
    assert [len(rows) for rows in sets] == [1797 - 40, 40]
    assert not set(sets[0].ids) & set(sets[1].ids)
    drawn = load(refs["plain/samples/guided"])
    np.testing.assert_array_equal(drawn.label, np.arange(20) % 10)
    assert (drawn.images != load(refs["plain/samples/model"]).images).any()
    assert main([*words, "--classes", "9"]) == 2
    assert "has label 9 and the network is told of 9 classes" in capsys.readouterr().err
