"""Manifests: every row is found where it was put, and a stranger's files are refused in one sentence."""

from __future__ import annotations

import io
import json
import resource
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.manifest import Manifest, name
from pipeline.place import Place

SHAPE = (3, 8, 8)


def placed(tmp_path, counts=(3, 0, 2), **more) -> Place:
    out = Place(str(tmp_path / "set"))
    Manifest.of(counts, SHAPE, "uint8", more).write(out)
    return out


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=40))
def test_the_rows_of_the_shards_in_turn_are_all_rows_once_and_in_order(counts):
    manifest = Manifest.of(counts, SHAPE, "uint8")
    shard, within = manifest.shard_of(np.arange(manifest.rows))
    assert [(i, j) for i, count in enumerate(counts) for j in range(count)] == list(zip(shard, within))
    assert [manifest.count(i) for i in range(len(counts))] == counts
    assert manifest.filled().tolist() == [i for i, count in enumerate(counts) if count]


@pytest.mark.parametrize("mapped", [True, False])
def test_what_was_written_is_what_is_opened_mapped_or_read(tmp_path, mapped):
    out = placed(tmp_path, skipped=4, modes={"L": 5})
    again = Manifest.open(out.at if mapped else out.open)
    assert (again.rows, again.shape, again.dtype) == (5, SHAPE, "uint8")
    assert again.ends.tolist() == [3, 3, 5]
    assert again.more == {"skipped": 4, "modes": {"L": 5}}
    assert isinstance(again.ends, np.memmap) is mapped
    assert not again.ends.flags.writeable
    first = {file: out.read(file) for file in ("dataset.json", "shards.npy")}
    again.write(out)
    assert first == {file: out.read(file) for file in first}


def test_a_set_without_shards_has_no_rows(tmp_path):
    assert Manifest.open(placed(tmp_path, ()).at).rows == 0


@settings(max_examples=50)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=7), st.integers(1, 8))
def test_ends_are_taken_exactly_when_they_ascend_however_many_are_looked_at_in_one_go(ends, step):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.data.manifest.STEP", step)
        if ends == sorted(ends):
            assert Manifest(ends[-1], SHAPE, "uint8", np.array(ends)).rows == ends[-1]
        else:
            with pytest.raises(ValueError, match="not ascending from 0"):
                Manifest(ends[-1], SHAPE, "uint8", np.array(ends))


@pytest.mark.parametrize("ends", [np.array([[3, 5]]), np.array(5), np.array([3, 5], np.int32), np.array([3.0, 5.0])])
def test_ends_are_one_axis_of_int64(ends):
    with pytest.raises(ValueError, match="not one axis of int64"):
        Manifest(5, SHAPE, "uint8", ends)


def test_shards_are_named_in_the_order_of_their_numbers_up_to_a_million():
    assert name(0) == "shards/000000.parquet"
    assert sorted(map(name, (7, 123_456, 999_999))) == [name(7), name(123_456), name(999_999)]


def test_a_million_shards_are_mapped_and_searched_in_little_memory(tmp_path):
    out = placed(tmp_path, np.full(1_000_000, 1000))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    manifest = Manifest.open(out.at)
    shard, within = manifest.shard_of(np.array([0, 999, 1000, 999_999_999]))
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert shard.tolist() == [0, 0, 1, 999_999]
    assert within.tolist() == [0, 999, 0, 999]
    assert kilobytes * (1 if sys.platform == "linux" else 1 / 1024) < 64 * 1024


@pytest.mark.parametrize("rows", [[-1], [5], [0, 4, 9]])
def test_rows_that_are_not_there_are_refused(rows):
    with pytest.raises(ValueError, match=r"0\.\.4$"):
        Manifest.of((3, 2), SHAPE, "uint8").shard_of(np.array(rows))


def npy(array, **how) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **how)
    return file.getvalue()


GOOD = np.array([3, 3, 5])
BAD_SHARDS = {
    "descending": npy(np.array([3, 2, 5])),
    "negative": npy(np.array([-1, 3, 5])),
    "another total": npy(np.array([3, 3, 6])),
    "another number": npy(np.array([3, 5])),
    "another type": npy(GOOD.astype(np.int32)),
    "other byte order": npy(GOOD.astype(">i8")),
    "two axes": npy(GOOD[None]),
    "objects": npy(np.array([3, 3, 5], object), allow_pickle=True),
    "cut": npy(GOOD)[:-1],
    "longer": npy(GOOD) + b"\0",
    "empty": b"",
    "text": b"3,3,5",
    "no array": b"\x93NUMPY\x01\x00\x10\x00__import__('os')",
    "claims much": npy(GOOD).replace(b"(3,), }          ", b"(99999999999,), }"),
    "claims less than nothing": npy(GOOD).replace(b"(3,), } ", b"(-3,), }"),
    "long header": b"\x93NUMPY\x01\x00\xff\xff" + b" " * 65535,
    "version 2": b"\x93NUMPY\x02\x00" + npy(GOOD)[8:],
}


@pytest.mark.parametrize("mapped", [True, False])
@pytest.mark.parametrize("case", BAD_SHARDS)
def test_bad_ends_are_refused_in_one_sentence(tmp_path, case, mapped):
    out = placed(tmp_path)
    out.write("shards.npy", BAD_SHARDS[case])
    with pytest.raises(ValueError, match=r"^dataset\.json and shards\.npy do not describe .*[^.]\.$") as caught:
        Manifest.open(out.at if mapped else out.open)
    assert "\n" not in str(caught.value)
    not_int64 = case in ("another type", "other byte order", "two axes", "objects")
    assert ("not one axis of int64" in str(caught.value)) is not_int64


SAID = {"rows": 5, "shape": SHAPE, "dtype": "uint8", "shards": 3}
BAD_SAID = {
    "no json": "{",
    "a list": "[]",
    "deep": "[" * 100_000,
    "nothing": json.dumps({}),
    "rows": json.dumps(SAID | {"rows": 6}),
    "rows as a fraction": json.dumps(SAID | {"rows": 5.0}),
    "shards as a fraction": json.dumps(SAID | {"shards": 3.0}),
    "rows as text": json.dumps(SAID | {"rows": "5"}),
    "shape": json.dumps(SAID | {"shape": [3, 0, 8]}),
    "no shape": json.dumps(SAID | {"shape": []}),
    "shape of fractions": json.dumps(SAID | {"shape": [3.5, 8, 8]}),
    "shape of truths": json.dumps(SAID | {"shape": [True, 8, 8]}),
    "shape of texts": json.dumps(SAID | {"shape": "388"}),
    "dtype": json.dumps(SAID | {"dtype": "object"}),
    "true shards": json.dumps(SAID | {"shards": True}),
    "old": json.dumps(SAID | {"shards": [{"name": "shards/000000.parquet", "rows": 5}]}),
    "huge": json.dumps(SAID | {"modes": "x" * (1 << 24)}),
}


@pytest.mark.parametrize("case", BAD_SAID)
def test_a_bad_description_is_refused_in_one_sentence(tmp_path, case):
    out = placed(tmp_path)
    out.write("dataset.json", BAD_SAID[case])
    with pytest.raises(ValueError, match=r"^dataset\.json and shards\.npy do not describe .*[^.]\.$"):
        Manifest.open(out.at)


def test_a_description_without_end_is_refused():
    class Endless(io.BytesIO):
        def read(self, size=-1):
            assert size is not None
            assert size >= 0, "all of it was asked for"
            return b" " * size

    with pytest.raises(ValueError, match=r"dataset\.json has more than"):
        Manifest.open(lambda _: Endless())


def test_a_missing_file_is_named(tmp_path):
    out = placed(tmp_path)
    out.remove("shards.npy")
    for file in (out.at, out.open):
        with pytest.raises(ValueError, match=r"do not describe .*shards\.npy"):
            Manifest.open(file)


def test_an_earlier_version_says_what_to_do(tmp_path):
    out = placed(tmp_path)
    out.write("dataset.json", BAD_SAID["old"])
    with pytest.raises(ValueError, match="ingest the images again"):
        Manifest.open(out.at)


def test_fewer_than_no_rows_and_a_fact_said_twice_are_refused():
    with pytest.raises(ValueError, match="shard 1 has fewer"):
        Manifest.of((3, -1), SHAPE, "uint8")
    with pytest.raises(ValueError, match="'rows' cannot be said twice"):
        Manifest.of((3,), SHAPE, "uint8", {"rows": 3})
