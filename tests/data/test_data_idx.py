"""MNIST's own format, plain and gzipped, is read row for row and believed no further than it is long."""

from __future__ import annotations

import gzip
import os
import struct
from pathlib import Path

import numpy as np
import pytest

from pipeline.data.sources import Idx, source_of
from stages.ingest import snapshot

U = np.random.default_rng(0).integers(0, 256, (2100, 4, 5)).astype(np.uint8)


def idx(path: Path, array: np.ndarray) -> Path:
    data = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.slow
@pytest.mark.parametrize(("images", "labels"), [("", ""), (".gz", ".gz"), (".gz", ""), ("", ".gz")])
def test_images_and_labels_come_back_as_they_were_written(images, labels, tmp_path: Path, ingested) -> None:
    path = idx(tmp_path / f"train-images-idx3-ubyte{images}", U)
    idx(tmp_path / f"train-labels-idx1-ubyte{labels}", (np.arange(2100) % 10).astype(np.uint8))
    source = source_of(str(path))
    assert source == source_of(str(tmp_path)) == Idx(str(path))
    rows = ingested(source, (1, 4, 5))
    np.testing.assert_array_equal(rows.images[:, 0], U)
    assert rows.label.tolist() == [i % 10 for i in range(2100)]
    assert rows.ids == tuple(f"train-images-idx3-ubyte-{i}" for i in range(2100))
    before = snapshot(source)
    idx(tmp_path / f"train-labels-idx1-ubyte{labels}", np.zeros(2100, np.uint8))
    os.utime(tmp_path / f"train-labels-idx1-ubyte{labels}", (1, 1))
    assert snapshot(source) != before
    last = list(source.read(source.pieces()[-1]))
    np.testing.assert_array_equal(np.stack([raw.image for raw in last]), U[2048:])
    assert {raw.label for raw in Idx(str(path), labels="").read(source.pieces()[0])} == {None}


def test_files_that_say_more_than_they_hold_are_refused(tmp_path: Path, refused) -> None:
    whole = idx(tmp_path / "w-idx3-ubyte", U).read_bytes()
    boast = bytes([0, 0, 8, 3]) + struct.pack(">3I", 10**9, 28, 28)
    files = {
        "e": b"",
        "t": b"text of any kind",
        "h": whole[:-1],
        "b": boast,
        "f": bytes([0, 0, 13, 3]) + whole[4:],
        "n": bytes([0, 0, 8, 3]) + struct.pack(">3I", 0, 28, 28),
        "x": bytes([0, 0, 8, 3]) + struct.pack(">3I", 1, 2**20, 2**20),
        "a": whole[:9],
    }
    for name, data in files.items():
        for end, stored in (("", data), (".gz", gzip.compress(data))):
            path = tmp_path / f"{name}-idx3-ubyte{end}"
            path.write_bytes(stored)
            with refused(path.name):
                source = Idx(str(path))
                for piece in source.pieces():
                    list(source.read(piece))
    for name in ("h-idx3-ubyte", "b-idx3-ubyte", "b-idx3-ubyte.gz"):  # before any row is read
        with refused(name, "too short for its shape"):
            Idx(str(tmp_path / name)).pieces()
    for name, data in {"e": b"", "t": b"no gzip", "h": gzip.compress(whole)[:-30]}.items():
        (tmp_path / f"{name}-idx3-ubyte.gz").write_bytes(data)
        with refused(f"{name}-idx3-ubyte.gz"):
            source = Idx(str(tmp_path / f"{name}-idx3-ubyte.gz"))
            for piece in source.pieces():
                list(source.read(piece))


def test_labels_must_be_as_many_and_several_sets_must_be_told_apart(tmp_path: Path, refused) -> None:
    path = idx(tmp_path / "t10k-images-idx3-ubyte", U[:5])
    other = idx(tmp_path / "others", np.zeros(4, np.uint8))
    with refused("others has 4 labels for the 5 images"):
        Idx(str(path), labels=str(other)).pieces()
    with refused("others is not an idx3-ubyte file"):
        Idx(str(other)).pieces()
    idx(tmp_path / "train-images-idx3-ubyte", U[:5])
    with refused("name one of its .npy, .npz or idx3-ubyte files"):
        source_of(str(tmp_path))
