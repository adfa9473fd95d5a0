"""Splits, globs and columns: what was chosen is read and nothing else, and what is unclear is one sentence."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.data.sources import Folder, Parquet, source_of
from pipeline.data.splits import split_of


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 5), value, np.uint8)).save(buffer, "png")
    return buffer.getvalue()


def rows(path: Path, value: int, **columns) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns or {"image": [png(value)]}), path)


def values(source) -> list[int]:
    """What the images of a source are filled with."""
    raws = (raw for piece in source.pieces() for raw in source.read(piece))
    return [int(np.asarray(Image.open(io.BytesIO(raw.image)))[0, 0]) for raw in raws]


NAMES = {
    "data/train-00000-of-00002.parquet": "train",
    "data/validation-00000-of-00001-a1b2c3.parquet": "validation",
    "data/random-00003-of-00005.parquet": "random",
    "mnist/test-00000-of-00001.parquet": "test",
    "cifar-test-bench/train-00000-of-00001.parquet": "train",
    "train.parquet": "train",
    "my_train_file.parquet": "train",
    "x-dev.parquet": "validation",
    "eval0.parquet": "test",
    "default/training/0000.parquet": "train",
    "train/part-00000-of-00002.parquet": "train",
    "Test-set/0.tar": "test",
    "test/train/0.tar": "train",
    "trainfile.parquet": None,
    "attest/contest.parquet": None,
    "part-00000-of-00002.parquet": None,
    "0.parquet": None,
}


@pytest.mark.parametrize("name", NAMES)
def test_names_tell_the_split_as_the_hub_documents_it(name: str) -> None:
    assert split_of(name) == NAMES[name]


def test_files_of_several_splits_are_never_mixed_unasked(refused, tmp_path: Path) -> None:
    for value, name in enumerate(["train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001", "more"]):
        rows(tmp_path / "data" / f"{name}.parquet", value)
    path = str(tmp_path)
    with refused(path, "has the splits test, train", "--split", "glob"):
        source_of(path)
    with refused("has the splits test, train"):  # nor by somebody who makes the source himself
        Parquet(path).pieces()
    assert source_of(path, split="train") == Parquet(path, split="train")
    assert values(source_of(path, split="train")) == values(source_of(path, split="training")) == [0, 1]
    assert values(source_of(path, split="eval")) == [2]
    assert values(source_of(f"{path}/data/train-00001-of-00002.parquet")) == [1]
    assert values(source_of(f"{path}/data/train-00001-of-00002.parquet", split="train")) == [1]
    for split in ("validation", "train[:10%]"):
        with refused(f"has no split '{split}'", "it has test, train"):
            source_of(path, split=split)
    for name in ("train", "test"):
        (tmp_path / "data" / f"{name}-00000-of-00001.parquet").unlink(missing_ok=True)
    (tmp_path / "data" / "train-00000-of-00002.parquet").unlink()
    assert values(source_of(path)) == [3, 1], "one split and files that say nothing are one set"


@pytest.mark.parametrize("name", ["test", "valid", "x-eval", "data/rare-00000-of-00001"])
def test_tests_are_not_mixed_with_files_that_name_no_split(name: str, refused, tmp_path: Path) -> None:
    rows(tmp_path / "data.parquet", 1)
    rows(tmp_path / f"{name}.parquet", 2)
    path, split = str(tmp_path), str(split_of(f"{name}.parquet"))
    with refused(f"has the split {split} beside files that name none", "--split", "glob"):
        source_of(path)
    assert values(source_of(path, split=split)) == [2]
    assert values(source_of(path, split="train")) == [1], "what names no split is for training"
    assert sorted(values(source_of(f"{path}/**"))) == [1, 2]
    (tmp_path / "data.parquet").unlink()
    assert values(source_of(path)) == [2], "all of it is of one split"


def test_images_of_a_test_folder_are_not_mixed_with_those_beside_it(refused, tmp_path: Path) -> None:
    for value, name in enumerate(["cat/0.png", "dog/1.png", "test/2.png"]):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(png(value))
    path = str(tmp_path)
    with refused("has the split test beside files that name none", "--split"):
        source_of(path)
    assert values(source_of(path, split="test")) == [2]
    assert values(source_of(f"{path}/[cd]*/*")) == [0, 1]
    (tmp_path / "test").rename(tmp_path / "train")
    assert values(source_of(path)) == [0, 1, 2], "as of other files"


def test_a_glob_names_files_at_any_depth_and_is_asked_no_questions(refused, tmp_path: Path) -> None:
    names = ["train-0.parquet", "a/train-1.parquet", "a/b/train-2.parquet", "a/test-3.parquet", "a/x.png"]
    for value, name in enumerate(names[:4]):
        rows(tmp_path / name, value)
    (tmp_path / names[4]).write_bytes(png(4))
    for glob, found in {
        "**/train-*.parquet": [2, 1, 0],
        "*.parquet": [0],
        "a/*.parquet": [3, 1],
        "a/**": [2, 3, 1],
        "**/*-[13].parquet": [3, 1],
        "a/**/*.png": [4],
    }.items():
        assert values(source_of(f"{tmp_path}/{glob}")) == found, glob
    assert values(source_of(f"{tmp_path}/**", split="test")) == [3]
    assert source_of(f"{tmp_path}/a/*.png") == Folder(f"{tmp_path}/a", glob="*.png")
    assert source_of(f"{tmp_path}/a/*.png").unread() == source_of(f"{tmp_path}/*.parquet").unread() == {}
    assert source_of(str(tmp_path), split="test").unread() == {".png": 1}
    for glob, part in {"**/*.jpg": "has no files that match **/*.jpg", "b/*.parquet": "b does not exist"}.items():
        with refused(part):
            source_of(f"{tmp_path}/{glob}")
    rows(tmp_path / "odd [1]" / "0.parquet", 5)
    assert values(source_of(f"{tmp_path}/odd [1]")) == [5], "what exists is no glob"
    (tmp_path / "a" / "film.avi").write_bytes(b"")
    with refused("gives clips", "a glob can choose nothing"):
        source_of(f"{tmp_path}/a/*.avi")


def test_archives_and_folders_of_images_have_splits_too(refused, tmp_path: Path) -> None:
    (tmp_path / "tars").mkdir()
    for value, name in enumerate(["train", "val"]):
        (tmp_path / "images" / name / "cat").mkdir(parents=True)
        (tmp_path / "images" / name / "cat" / "0.png").write_bytes(png(value))
        (tmp_path / "images" / name / "cat" / "0.txt").write_text(name)
        with tarfile.open(tmp_path / "tars" / f"{name}-000.tar", "w") as tar:
            tar.add(tmp_path / "images" / name / "cat" / "0.png", "0.png")
    for folder in ("tars", "images"):
        with refused("has the splits train, validation"):
            source_of(f"{tmp_path}/{folder}")
        assert values(source_of(f"{tmp_path}/{folder}", split="val")) == [1]
    assert source_of(f"{tmp_path}/images", split="train") == Folder(f"{tmp_path}/images/train", captions=True)
    (tmp_path / "images" / "train-2" / "train").mkdir(parents=True)
    (tmp_path / "images" / "train-2" / "train" / "0.png").write_bytes(png(2))
    with refused("several folders of that split (train-2/train, train)"):
        source_of(f"{tmp_path}/images", split="train")
    with refused("gives folder", "--image-column can choose nothing"):
        source_of(f"{tmp_path}/images/train", image="img")
    with refused("digits gives digits", "--split"):
        source_of("digits", split="train")


def test_columns_of_any_name_are_found_or_asked_for(refused, tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    struct = [{"bytes": png(7), "path": "7.png"}]
    rows(path, 0, img=struct, fine_label=[3], coarse_label=[1], words=["a cat"])
    assert source_of(str(path)) == Parquet(str(path), image="img")
    asked = source_of(str(path), image="img", label="fine_label", caption="words")
    (raw,) = asked.read(asked.pieces()[0])
    assert (raw.label, raw.caption, values(asked)) == (3, "a cat", [7])
    with refused("does not have one column 'lable'", "fine_label, coarse_label", "--label-column"):
        source_of(str(path), label="lable").pieces()
    with refused("holds string, not integers", "--label-column"):
        source_of(str(path), label="words").pieces()
    rows(path, 0, front=struct, back=struct, mask=[png(255)], words=["a cat"])
    with refused("front, back, mask, words", "front and back may be the images", "--image-column"):
        source_of(str(path))
    assert source_of(str(path), image="back") == Parquet(str(path), image="back", mask="mask")
    rows(path, 0, words=["a cat"])
    with refused("does not have one column 'image'", "it has words", "--image-column"):
        source_of(str(path)).pieces()
