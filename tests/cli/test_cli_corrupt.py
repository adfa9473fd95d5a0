"""Parts that share no image; rows corrupted alike in any company; corrupted sets without their originals."""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from doubles import pixels
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.manifest import Manifest, name
from pipeline.data.ranks import Between, between, select
from pipeline.data.records import Examples
from pipeline.data.shards import read_shard, write_shard
from pipeline.data.sources import Folder
from pipeline.graph import Step, step
from pipeline.keys import Key
from pipeline.physics.corruption import Clean, Corruption, Row, Through
from pipeline.physics.linear import LinearMap
from pipeline.physics.views import Crop, Pool
from pipeline.place import Place
from pipeline.store import Store
from stages.corrupt import Corrupt, Part, _corrupt, keeps_bytes, load
from stages.ingest import Ingest

ids = st.lists(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6), min_size=1, max_size=40, unique=True
)


def told(shards: list[list[str]]) -> tuple[Place, Manifest]:
    """A set that has nothing but ids."""
    place = Place(f"memory://chosen-{uuid.uuid4()}")
    for i, names in enumerate(shards):
        if names:
            with place.writing(name(i)) as file:
                pq.write_table(pa.table({"id": names}), file)
    return place, Manifest.of([len(names) for names in shards], (1, 1, 1), "uint8")


def chosen(part: Part, shards: list[list[str]], most: int = 1 << 18) -> list[list[int]]:
    """The places of a part's rows in each shard of a set that has nothing but ids."""
    place, manifest = told(shards)
    key = Key(part.seed).fold("split")
    found = between(key, part.first, part.end(manifest.rows), manifest, place.open, map, most)
    return [found.places(names).tolist() for names in shards]


@pytest.mark.slow
@given(ids, st.data(), st.integers(0, 3), st.sampled_from([0, 1, 4, 50]))
def test_a_part_is_a_range_of_ranks_however_the_rows_are_cut_into_shards(names, data, seed, most):
    """The ranks as one would say them: everything sorted at once."""
    first = data.draw(st.integers(0, len(names) - 1))
    count = data.draw(st.none() | st.integers(1, len(names) - first))
    ranked = sorted(names, key=lambda text: (Key(seed).fold("split", text).bits(), text))
    wanted = set(ranked[first : first + count if count else None])
    cuts = sorted(data.draw(st.lists(st.integers(0, len(names)), max_size=3)))
    shards = [names[a:b] for a, b in zip([0, *cuts], [*cuts, len(names)], strict=True)]
    found = chosen(Part(first, count, seed), shards, most)
    assert {shard[i] for shard, places in zip(shards, found, strict=True) for i in places} == wanted
    assert all(places == sorted(places) for places in found)


def test_each_prefix_is_counted_once_and_of_all_rows_only_one_bin_for_each_rank_is_listed():
    swept = []

    def sweep(function, items):
        swept.append([function(item) for item in items])
        return iter(swept[-1])

    place, manifest = told([[f"{i}-{k}" for k in range(20)] for i in range(3)])
    between(Key(0).fold("split"), 5, 30, manifest, place.open, sweep, 0)
    assert len(swept) == 8 + 7 + 1, "both ranks begin with the same count, of no prefix"
    assert sum(map(len, swept[-1])) == 2


def test_which_rows_a_part_has_never_changes():
    """Golden: other rows would silently leak between parts that were made before and after."""
    assert chosen(Part(3, 5, seed=7), [[f"img-{i}" for i in range(20)]]) == [[2, 4, 5, 6, 9]]


def test_equal_hashes_are_told_apart_by_the_id():
    """Marks that agree in all 128 bits, which no key gives, are ranked by their ids after all bits were counted."""
    marks = [(bytes(16), f"{i:02d}") for i in range(9)]
    marks += [(b"\1\1" + bytes(14), f"{i}") for i in range(3)] + [(b"\1" * 16, "x")]

    def count(prefix):
        digits = [m[0][len(prefix) : len(prefix) + 2] for m in marks if m[0].startswith(prefix)]
        return np.bincount([int.from_bytes(d, "big") for d in digits], minlength=1 << 16)

    def listed(prefixes):
        return [m for m in marks if m[0].startswith(prefixes)]

    for most in (1, 5, 100):
        assert select([0, 8, 9, 11, 12, 4], 13, count, listed, most) == [marks[i] for i in (0, 8, 9, 11, 12, 4)]


def test_parts_change_with_the_seed_and_too_many_are_refused():
    names = [[str(i) for i in range(100)]]
    assert chosen(Part(0, 50, 0), names) != chosen(Part(0, 50, 1), names)
    for part in (Part(0, 101), Part(60, 41), Part(100), Part(100, 1)):
        with pytest.raises(ValueError, match=r"there are 100 images.*ask for fewer"):
            part.end(100)
    for first, count in ((-1, 2), (0, 0)):
        with pytest.raises(ValueError, match="give first >= 0 and count >= 1"):
            Part(first, count)


@dataclass(frozen=True)
class Masked(Corruption):
    """Each pixel is lost with probability `rate`: an operator that is drawn for every row."""

    rate: float = 0.3

    def draw(self, shape, key: Key) -> Row:
        return {"mask": key.numpy().random(shape) >= self.rate}

    def at(self, rows, shape) -> LinearMap:
        return Kept(shape, rows["mask"])

    def out_shape(self, shape):
        return shape


class Kept(LinearMap):
    """x times a mask for each row."""

    def __init__(self, shape, mask):
        self.shape, self.mask = shape, torch.from_numpy(mask)

    in_shape = out_shape = property(lambda self: self.shape)

    def __call__(self, x):
        return x * self.mask

    adjoint = __call__


class Fixed:
    """An artifact of one shard, in memory."""

    address = "fixed"

    def __init__(self, rows: Examples):
        self.place = Place(f"memory://fixed-{uuid.uuid4()}")
        self.file = self.place.open
        with self.place.writing(name(0)) as file:
            write_shard(file, rows)


SHAPE = (1, 8, 8)
ORIGINAL = Examples(tuple(f"id-{i}" for i in range(24)), np.stack([pixels(i)[None] for i in range(24)]))
CORRUPTIONS = [
    Clean(),
    Through(Crop(SHAPE, 0, 2, 8, 5)),
    Through(Pool(SHAPE, 2), noise=0.2),
    Masked(noise=0.1),
    Masked(),
]


@pytest.mark.parametrize("corruption", CORRUPTIONS, ids=str)
def test_a_row_is_corrupted_alike_alone_and_in_any_split(corruption):
    stage = Corrupt(Step(Ingest(Folder("x"), SHAPE)), corruption=corruption, seed=3)
    uint8 = keeps_bytes(corruption, SHAPE)

    def made(*rows):
        return _corrupt(stage, Fixed(ORIGINAL.take(rows)), uint8, Between(Key(0), (b"", ""), None), (0,))[0]

    whole = made(*range(24))
    for split in ([(i,) for i in range(24)], [tuple(range(7)), tuple(range(7, 24))]):
        again = Examples.concat([made(*rows) for rows in split])
        assert again.ids == whole.ids
        assert again.images.tobytes() == whole.images.tobytes()
        assert {k: v.tobytes() for k, v in again.operator.items()} == {
            k: v.tobytes() for k, v in whole.operator.items()
        }


@pytest.mark.parametrize("rate", [0.003, 0.3])
def test_bytes_are_kept_only_where_every_row_keeps_them(rate):
    assert keeps_bytes(Clean(), SHAPE)
    assert keeps_bytes(Through(Crop(SHAPE, 0, 2, 8, 5)), SHAPE)
    assert not keeps_bytes(Through(Pool(SHAPE, 2)), SHAPE)
    assert not keeps_bytes(Through(Crop(SHAPE, 0, 2, 8, 5), noise=0.1), SHAPE)
    assert not keeps_bytes(Masked(rate=rate), SHAPE), "the probe's row may have lost no pixel where another did"


@pytest.mark.parametrize("corruption", CORRUPTIONS[1:], ids=str)
def test_a_corrupted_set_never_carries_its_clean_original(here, pictures, tmp_path, corruption):
    folder = pictures(8, bad=False)
    full = step(Ingest(Folder(str(folder)), SHAPE))
    part = step(Corrupt(full, Part(2, 5), corruption), "part")
    store = Store(str(tmp_path / "store"))
    here(part, store)
    made = store.artifact(part.address)
    rows = load(made)
    assert len(rows) == 5
    assert set(rows.ids) <= {f"good-{i}.png" for i in range(8)}
    (name,) = [name for name in made.names() if name.endswith(".parquet")]
    columns = set(pq.read_schema(made.file(name)).names)
    assert columns == {"id", "image", "label"} | {f"operator.{key}" for key in corruption.draw(SHAPE, Key(0))}
    everything = [rows.images, *rows.operator.values()]
    for i in range(8):
        u = pixels(i)
        for clean in (u, (u / 127.5 - 1).astype(np.float16), (u / 127.5 - 1).astype(np.float32)):
            assert not any(clean.tobytes() in column.tobytes() for column in everything)
    assert made.json("dataset.json")["shape"] == list(corruption.out_shape(SHAPE))
    files = {hashlib.sha256(made.read(name)).hexdigest() for name in made.names()}
    assert not files & {hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_few_rows_of_many_shards_are_packed_in_their_order(here, pictures, tmp_path, monkeypatch):
    """And a part of a part has the rows that the ranks say, whatever the shards are."""
    monkeypatch.setattr("pipeline.data.folders.PIECE", 3)
    monkeypatch.setattr("pipeline.engine.shards.each", lambda function, items, *how: map(function, reversed(items)))
    full = step(Ingest(Folder(str(pictures(22, bad=False))), SHAPE))
    part = step(Corrupt(full, Part(1, 5), Clean()), "part")
    store = Store(str(tmp_path / "store"))
    here(part, store)
    whole, said = load(store.artifact(full.address)), store.artifact(part.address).json("dataset.json")
    assert store.artifact(full.address).json("dataset.json")["shards"] == 8
    assert (said["shards"], said["rows"]) == (2, 5)
    rows = load(store.artifact(part.address))
    for artifact in map(store.artifact, (full.address, part.address)):
        told = Manifest.open(artifact.file)
        assert all(told.count(i) == len(read_shard(artifact.file(name(i)))) for i in told.filled().tolist())
    (wanted,) = chosen(Part(1, 5), [list(whole.ids)])
    assert rows.ids == tuple(whole.ids[i] for i in wanted)
    np.testing.assert_array_equal(rows.images, whole.images[wanted])
    again = step(Corrupt(part, Part(2, 3), Clean()), "again")
    here(again, store)
    assert set(load(store.artifact(again.address)).ids) < set(rows.ids)
