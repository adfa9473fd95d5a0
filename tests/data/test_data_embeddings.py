"""Embeddings beside images: read as they are, zeros where there are none, bad ones spoil only their own row."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.data.images import BadImage
from pipeline.data.shards import read_shard, write_shard
from pipeline.data.sources import source_of
from pipeline.place import Place
from stages.ingest import Ingest, OnBad, _ingest

VECTORS = np.arange(12.0).reshape(4, 3)


def png() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(file, "PNG")
    return file.getvalue()


def parquet(path, vectors, kind=None) -> str:
    column = pa.array(vectors, kind)
    pq.write_table(pa.table({"image": [png()] * len(vectors), "embedding": column}), path)
    return str(path)


def rows(url, tmp_path, on_bad=OnBad.FAIL, size=3, column="embedding"):
    stage = Ingest(source_of(url, embedding=column), (1, 2, 2), on_bad=on_bad, embedding=size)
    (piece,) = stage.source.pieces()
    return _ingest(stage, Place(str(tmp_path)), piece)


@pytest.mark.parametrize("kind", [None, pa.list_(pa.float32(), 3), pa.large_list(pa.int64())])
def test_lists_of_numbers_become_a_column_that_shards_keep(tmp_path, kind):
    vectors = VECTORS.astype(int).tolist() if kind == pa.large_list(pa.int64()) else VECTORS.tolist()
    examples, report = rows(parquet(tmp_path / "a.parquet", vectors, kind), tmp_path)
    np.testing.assert_array_equal(examples.operator["embedding"], VECTORS)
    assert "damage" not in report, "an embedding says nothing of damage"
    write_shard(tmp_path / "shard.parquet", examples)
    assert read_shard(tmp_path / "shard.parquet").operator["embedding"].dtype == np.float32


def test_arrays_of_an_npz_do_as_well(tmp_path):
    np.savez(tmp_path / "a.npz", images=np.zeros((4, 2, 2), np.uint8), clip=VECTORS)
    examples, _ = rows(str(tmp_path / "a.npz"), tmp_path, column="clip")
    np.testing.assert_array_equal(examples.operator["embedding"], VECTORS)
    assert source_of(str(tmp_path / "a.npz")).unread() == {"array 'clip'": 1}, "nobody asked for it"
    for wrong in (np.ones(4), np.ones((3, 3)), np.ones((4, 3), complex)):
        np.savez(tmp_path / "b.npz", images=np.zeros((4, 2, 2), np.uint8), clip=wrong)
        with pytest.raises(ValueError, match=r"'?clip'? in .*an embedding numbers \(4, E\)"):
            rows(str(tmp_path / "b.npz"), tmp_path, column="clip")


def test_a_row_without_one_has_zeros_and_a_bad_one_is_left_out(tmp_path):
    url = parquet(tmp_path / "a.parquet", [[1.0, 2.0, 3.0], None, [1.0, 2.0], [1.0, None, 3.0], [1.0, np.inf, 3.0]])
    examples, report = rows(url, tmp_path, OnBad.SKIP)
    np.testing.assert_array_equal(examples.operator["embedding"], [[1, 2, 3], [0, 0, 0]])
    why = [one["why"] for one in report["skipped"]]
    assert "2 numbers where 3 are asked for" in why[0]
    assert all("missing or not finite" in one for one in why[1:])
    with pytest.raises((ValueError, BadImage), match=r"row 2 of a\.parquet"):
        rows(url, tmp_path)


def test_what_is_no_embedding_is_refused_with_what_there_is(tmp_path):
    url = parquet(tmp_path / "a.parquet", VECTORS.tolist())
    with pytest.raises(ValueError, match=r"'image'.*not lists of numbers.*--embedding-column"):
        source_of(url, embedding="image").pieces()
    with pytest.raises(ValueError, match=r"'embeding'.*did you mean 'embedding'"):
        source_of(url, embedding="embeding").pieces()
    np.save(tmp_path / "a.npy", np.zeros((4, 2, 2), np.uint8))
    with pytest.raises(ValueError, match=r"a mask, sigma or embedding needs an \.npz"):
        source_of(str(tmp_path / "a.npy"), embedding="clip").pieces()
    with pytest.raises(ValueError, match="digits"):
        source_of("digits", embedding="clip")
