"""Captions and embeddings from a stranger's file to what is drawn: each says what is seen, through the command line."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from pipeline.data.records import Examples
from pipeline.engine import cluster
from pipeline.learning.weights import unpack
from pipeline.store import Store
from stages.conditioned import cond_of
from stages.corrupt import load

TEXTS = (("a dark night", "dark and gloomy"), ("a bright day", "bright, sunny"))
VECTORS = ([1.0, -1.0, 1.0], [-1.0, 1.0, 1.0])
QUICK = [
    *("--test", "20", "--samples", "4", "--set", "fit.images=4800", "--set", "fit.optim.lr=0.01"),
    *("--backbone", "{is: pipeline.backbones.dit.Config, width: 16, depth: 1, heads: 2, patch: [4]}"),
]


@pytest.fixture
def shades(tmp_path) -> str:
    """Dark and bright pictures of 4x4 in parquet, which say which they are; of every fifth nothing is said."""
    rows, draw = [], np.random.default_rng(0)
    for i in range(120):
        file, bright = io.BytesIO(), i % 2
        Image.fromarray(draw.normal((50, 205)[bright], 8, (4, 4)).clip(0, 255).astype(np.uint8)).save(file, "PNG")
        told = i % 5 > 0
        vector = VECTORS[bright] if told else None if i % 2 else [0.0] * 3
        row = {"image": file.getvalue(), "caption": TEXTS[bright][i // 2 % 2] if told else None}
        rows.append(row | {"embedding": vector, "label": bright if told else None})
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "shades.parquet")
    return "shades.parquet"


@pytest.fixture
def quick(alone, monkeypatch):
    """The command line, everything done in this process."""

    def train(make, save, at, cadence, examples):
        for file, data in save(make(torch.device("cpu")).run()).items():
            at.out.write(file, data)
        return {"loss": 0.0}

    monkeypatch.setattr("stages.train.train", train)
    monkeypatch.setattr(cluster, "call", lambda scale, function, *given, **more: function(*given))
    return alone


def drawn(quick, *words) -> Examples:
    said = quick("sample", "plain/model", "--count", "8", "--steps", "6", "--json", *words)
    assert said.code == 0, said.err
    return load(Store("runs").artifact(said.json["samples"]))


def bright(rows: Examples) -> list[bool]:
    return (rows.images.reshape(len(rows), -1).mean(1) > 127).tolist()


@pytest.mark.slow
def test_a_model_of_captions_draws_what_a_caption_says(quick, shades):
    said = quick("run", "plain", "--data", shades, "--captions", *QUICK)
    assert said.code == 0, said.err
    rows = drawn(quick, "--caption", "one bright morning", "The DARK!")
    assert bright(rows) == [True, False] * 4
    assert rows.caption == ("one bright morning", "The DARK!") * 4
    assert bright(drawn(quick, "--caption", "dark", "--guide", "self", "--weight", "1.5")) == [False] * 8
    store = Store("runs")
    refs = {name: store.artifact(address) for name, address in store.refs().items()}
    test = load(refs["plain/data/test"])
    like = bright(drawn(quick, "--like", "plain/data/test"))
    for i, text in enumerate(test.caption[:8]):
        assert not text or like[i] == ("bright" in text)
    assert load(refs["plain/samples/guided"]).images.tobytes() != load(refs["plain/samples/model"]).images.tobytes()
    assert refs["plain/model"].json("metrics.json")["untold"] > 0
    words = ("sample", "plain/model", "--count", "2", "--steps", "2")
    quick(*words, "--caption", "?!").refused("'?!' has no word")
    quick(*words, "--label", "1").refused("label 1 was asked for")
    quick(*words, "--guide", "self").refused("give labels, captions or embeddings")
    quick(*words, "--caption", "dark", "--like", "plain/data/test").refused("give one of them")
    quick(*words, "--like", "plain/model").refused("no set of images")
    judged = quick("evaluate", "plain/model", "--test", "plain/data/test", "--samples", "4", "--json")
    assert judged.code == 0, judged.err


def test_a_model_of_embeddings_draws_what_an_embedding_says(quick, shades, tmp_path):
    said = quick("run", "plain", "--data", shades, "--embedding", "3", *QUICK)
    assert said.code == 0, said.err
    np.save("said.npy", np.array(VECTORS))
    assert bright(drawn(quick, "--embedding", "said.npy")) == [False, True] * 4
    store = Store("runs")
    artifact = store.artifact(store.find("plain/model"))
    cond = cond_of(unpack(artifact.read).config, load(store.artifact(store.find("plain/data/train"))))
    assert cond is not None
    assert sorted(map(tuple, cond.unique(dim=0).tolist())) == sorted([*map(tuple, VECTORS), (0.0, 0.0, 0.0)])
    words = ("sample", "plain/model", "--count", "2", "--steps", "2")
    quick(*words, "--caption", "dark").refused("no captions: leave them out")
    np.save("wrong.npy", np.ones((2, 4)))
    quick(*words, "--embedding", "wrong.npy").refused("embeddings are (4,)", "(3,)")
    np.save("objects.npy", np.array([{}], object), allow_pickle=True)
    for file in ("objects.npy", "absent.npy"):
        quick(*words, "--embedding", file).refused(f"--embedding {file} cannot be read")


def test_what_no_network_can_be_told_is_a_sentence_before_anything_is_trained(quick, shades):
    words = ("run", "plain", "--data", shades, *QUICK)
    quick(*words, "--captions", "--classes", "2").refused("classes and captions", "told one thing")
    quick(*words, "--embedding", "4").refused("row 0 of shades.parquet", "3 numbers where 4 are asked for")
    quick(*words, "--embedding", "3", "--embedding-column", "caption").refused("'caption'", "lists of numbers")
    quick(*words, "--embedding-column", "embedding").refused("say how many numbers")
    quick("run", "plain", "--captions").refused("digits has no captions")
    quick(*words[:4], "--captions", "--backbone", "{is: pipeline.backbones.mlp.Config}").refused("takes no captions")
