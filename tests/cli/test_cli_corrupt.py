"""Parts that share no image; rows corrupted alike in any company; corrupted sets without their originals."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from doubles import pixels
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.records import Examples
from pipeline.data.shards import write_shard
from pipeline.data.sources import Folder
from pipeline.graph import Step, step
from pipeline.keys import Key
from pipeline.physics.corruption import Clean, Corruption, Row, Through
from pipeline.physics.linear import LinearMap
from pipeline.physics.views import Crop, Pool
from pipeline.store import Store
from stages.corrupt import Corrupt, Part, _corrupt, keeps_bytes, load
from stages.ingest import Ingest

ids = st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=40, unique=True)


@given(ids, st.data(), st.integers(0, 3))
def test_parts_with_ranges_that_do_not_meet_share_no_image_and_lose_none(names, data, seed):
    cuts = sorted({0, *data.draw(st.lists(st.integers(1, len(names)), max_size=4))})
    ends = [*cuts[1:], None]
    parts = [Part(a, b and b - a, seed) for a, b in zip(cuts, ends, strict=True) if a < len(names)]
    chosen = [part.choose(names) for part in parts]
    assert [len(rows) for rows, part in zip(chosen, parts, strict=True) if part.count] == [
        p.count for p in parts if p.count
    ]
    assert sorted(i for rows in chosen for i in rows) == list(range(len(names)))
    assert all(rows == sorted(rows) for rows in chosen)
    mixed = list(reversed(names))
    for rows, part in zip(chosen, parts, strict=True):
        assert {mixed[i] for i in part.choose(mixed)} == {names[i] for i in rows}, "it depends on the order of the rows"


def test_parts_change_with_the_seed_and_too_many_are_refused():
    names = [str(i) for i in range(100)]
    assert Part(0, 50, 0).choose(names) != Part(0, 50, 1).choose(names)
    for part in (Part(0, 101), Part(60, 41), Part(100), Part(100, 1)):
        with pytest.raises(ValueError, match=r"there are 100 images.*ask for fewer"):
            part.choose(names)
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

    def __init__(self, rows: Examples):
        self.rows = rows

    def file(self, name):
        buffer = io.BytesIO()
        write_shard(buffer, self.rows)
        buffer.seek(0)
        return buffer


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
        return _corrupt(stage, Fixed(ORIGINAL), uint8, ("shard", rows))[0]

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
