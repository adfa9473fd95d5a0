"""No id occurs twice, whatever shards and buckets it lies in; equal words of different ids are no duplicate."""

from __future__ import annotations

import uuid

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data import unique
from pipeline.data.ids import groups, read_ids
from pipeline.data.listing import shown
from pipeline.data.manifest import Manifest, name
from pipeline.data.unique import check_unique
from pipeline.place import Place

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=3)


def made(shards: list[list[str]]) -> tuple[Place, Manifest]:
    """A set that has nothing but ids; shards without any have no file."""
    place = Place(f"memory://ids-{uuid.uuid4()}")
    for i, ids in enumerate(shards):
        if ids:
            with place.writing(name(i)) as file:
                pq.write_table(pa.table({"id": ids}), file)
    return place, Manifest.of([len(ids) for ids in shards], (1, 1, 1), "uint8")


@pytest.fixture
def narrow(monkeypatch):
    """Groups of two shards."""
    monkeypatch.setattr("pipeline.data.ids.FEWEST", 2)


@given(st.lists(st.lists(texts, max_size=6), min_size=1, max_size=7).filter(any), st.integers(1, 9))
def test_a_set_is_refused_exactly_when_an_id_occurs_twice(shards, bucket):
    place, manifest = made(shards)
    every = [text for ids in shards for text in ids]
    twice = sorted({text for text in every if every.count(text) > 1})
    if not twice:
        check_unique(place, manifest, map, bucket)
        return
    with pytest.raises(ValueError) as caught:
        check_unique(place, manifest, map, bucket)
    assert str(caught.value).startswith(f"{len(twice)} ids occur more than once, such as '{shown(twice[0])}'")


def test_groups_and_buckets_hide_no_duplicate_and_leave_nothing_behind(narrow):
    shards = [[f"{i}-{k}" for k in range(20)] for i in range(9)]
    shards[8][11] = "0-3"
    place, manifest = made(shards)
    assert len(groups(manifest.filled())) == 5
    for bucket in (7, 50, 1000):
        with pytest.raises(ValueError, match="1 ids occur more than once, such as '0-3': make them differ"):
            check_unique(place, manifest, map, bucket)
    shards[8][12:14] = ["0-9", "0-10"]
    with pytest.raises(ValueError, match="3 ids occur more than once, such as '0-10': make them differ"):
        check_unique(*made(shards), map)
    kept = [text for text in place.names() if not text.startswith("shards/")]
    assert kept
    assert all(text.startswith("_work/") for text in kept), "what is not below _work/ becomes part of the artifact"


def test_ids_that_share_a_word_are_compared_themselves(monkeypatch, narrow):
    """64 bits of a billion ids collide in one set of forty; here all do, in their first letter."""
    monkeypatch.setattr(unique, "words", lambda ids: np.array([ord(text[0]) for text in ids], np.uint64))
    place, manifest = made([["a1", "a2"], ["b1", "a3"], ["b2"]])
    check_unique(place, manifest, map)
    place, manifest = made([["a1", "a2"], ["b1", "a3"], ["a2"]])
    with pytest.raises(ValueError, match="1 ids occur more than once, such as 'a2'"):
        check_unique(place, manifest, map)


def test_suspects_are_followed_up_as_they_come_where_there_are_many(monkeypatch, narrow):
    monkeypatch.setattr(unique, "SUSPECTS", 2)
    place, manifest = made([[str(i) for i in range(30)], [str(i) for i in range(30)]])
    with pytest.raises(ValueError, match=r"^\d or more ids occur more than once, such as '"):
        check_unique(place, manifest, map, 10)


def test_no_bucket_is_much_larger_than_asked_and_only_suspects_are_read_again_and_once(monkeypatch, narrow):
    swept = []

    def sweep(function, items):
        swept.append((items, [function(item) for item in items]))
        return iter(swept[-1][1])

    check_unique(*made([[f"{i}-{k}" for k in range(500)] for i in range(8)]), sweep, 200)
    _, (buckets, _) = swept
    sizes = [sum(ends) - sum(starts) for starts, ends in buckets]
    assert sum(sizes) == 4000
    assert max(sizes) < 200 + 7 * 200**0.5
    swept.clear()
    monkeypatch.setattr(unique, "SUSPECTS", 1)
    monkeypatch.setattr(unique, "words", lambda ids: np.array([ord(text[0]) << 57 for text in ids], np.uint64))
    check_unique(*made([["!1", "A1", "a1"], ["!2", "A2", "a2", "q"]]), sweep, 2)
    read = [{text for found in results for text in found} for _, results in swept[2:]]
    assert read == [{"!1", "!2"}, {"A1", "A2"}, {"a1", "a2"}]


@pytest.mark.parametrize("table", [{"x": ["a"]}, {"id": [1, 2]}, {"id": ["a", None]}, None])
def test_a_shard_without_ids_is_named(table, tmp_path, refused):
    path = tmp_path / "x"
    path.write_bytes(b"no parquet") if table is None else pq.write_table(pa.table(table), path)
    with path.open("rb") as file, refused("shards/000003.parquet is not a shard whose ids can be read"):
        read_ids(file, name(3))


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_ids_are_read_in_their_order(kind, tmp_path):
    pq.write_table(pa.table({"image": [1, 2], "id": pa.array(["ü", "a"], kind)}), tmp_path / "x")
    with (tmp_path / "x").open("rb") as file:
        assert read_ids(file, "x") == ["ü", "a"]


def test_a_million_shards_make_about_a_thousand_groups():
    many = groups(np.arange(1_000_000))
    assert 1000 <= len(many) <= 1024
    assert [i for group in many for i in group] == list(range(1_000_000))
    assert groups(np.array([3, 7])) == [(3, 7)]
    assert groups(np.array([3, 7, 9]), 2) == [(3, 7), (9,)]
