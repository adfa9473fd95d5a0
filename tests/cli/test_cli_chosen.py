"""Splits, globs and columns from the command line reach what is ingested and what is looked at."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from doubles import pixels, png

from pipeline.store import Store
from stages.corrupt import load

CLEAN = "{is: pipeline.physics.corruption.Clean}"


@pytest.fixture
def hub(tmp_path) -> str:
    """A data set as the hub has them: 20 images to train on and 4 to test on, columns of other names than ours."""
    (tmp_path / "hub" / "data").mkdir(parents=True)
    for name, part in {"train-00000-of-00001": range(20), "test-00000-of-00001": range(20, 24)}.items():
        images = [{"bytes": png(pixels(i)), "path": f"{i}.png"} for i in part]
        table = {"img": images, "mini": images, "fine": list(part), "said": [f"number {i}" for i in part]}
        pq.write_table(pa.table(table), tmp_path / "hub" / "data" / f"{name}.parquet")
    return "hub"


@pytest.mark.slow
def test_what_is_chosen_is_ingested_by_options_by_a_file_and_by_a_glob(alone, hub, tmp_path):
    named = ("--image-column", "img", "--label-column", "fine", "--caption-column", "said", "--corruption", CLEAN)
    said = alone("run", "corrupted", "--data", hub, "--split", "train", *named, "--json")
    assert said.code == 0, said.err
    rows = load(Store("runs").artifact(Store("runs").refs()["corrupted/data"]))
    assert sorted(rows.label.tolist()) == list(range(20))
    for image, label, caption in zip(rows.images, rows.label, rows.caption, strict=True):
        np.testing.assert_array_equal(image[0], pixels(label))
        assert caption == f"number {label}"
    options = {"data": hub, "split": "train", "image_column": "img", "label_column": "fine", "caption_column": "said"}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**options, "corruption": yaml.safe_load(CLEAN)}))
    assert alone("plan", "corrupted", "--config", "mine.yaml", "--json").json["target"] == said.json["target"]
    said = alone("run", "corrupted", "--data", f"{hub}/**/test-*", *named, "--json")
    assert said.json["metrics"]["rows"] == 4
    steps = alone("plan", "partial_views", "--data", hub, "--split", "train", *named[:4], "--json").json["steps"]
    assert {line["step"] for line in steps} > {"ingest", "data/left"}


def test_both_splits_are_looked_at_side_by_side(alone, hub):
    said = alone("data", hub, "--split", "train", "--image-column", "img", "--json")
    assert said.json["sets"][hub]["rows"] == 20
    for name in ("train", "test"):
        path = f"{hub}/data/{name}-00000-of-00001.parquet"
        pq.write_table(pq.read_table(path).select(["img"]), path)
    said = alone("data", f"{hub}/**/train-*", "--against", f"{hub}/**/test-*", "--json")
    assert [one["rows"] for one in said.json["sets"].values()] == [20, 4]


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("run", "corrupted", "--data", "hub"), ("has the splits test, train", "--split")),
        (("data", "hub"), ("has the splits test, train", "--split")),
        (("run", "corrupted", "--data", "hub", "--split", "dev"), ("no split 'dev'", "test, train")),
        (("run", "corrupted", "--data", "hub", "--split", "test"), ("img and mini may be", "--image-column")),
        (("plan", "partial_views", "--data", "hub", "--split", "test", "--image-column", "big"), ("'big'", "mini")),
        (("run", "corrupted", "--split", "test"), ("digits", "--split can choose nothing")),
        (("data", "digits", "--image-column", "x"), ("digits", "--image-column can choose nothing")),
        (("data", "hub/**/*.png"), ("no files that match **/*.png",)),
        (("data", "gone/x", "--split", "test"), ("neither a file or folder",)),
    ],
)
def test_what_is_unclear_is_one_sentence(alone, hub, words, parts):
    alone(*words).refused(*parts)
