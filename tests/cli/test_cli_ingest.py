"""Bad files under each policy, nothing lost; parts that share no image; corrupted sets without their originals."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from doubles import BAD, pixels, png
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.records import Examples
from pipeline.data.shards import read_shard, write_shard
from pipeline.data.sources import Folder
from pipeline.engine.shards import _write
from pipeline.graph import Step, run, step
from pipeline.keys import Key
from pipeline.physics.corruption import Clean, Corruption, Row, Through
from pipeline.physics.linear import LinearMap
from pipeline.physics.views import Crop, Pool
from pipeline.place import Place
from pipeline.store import Store
from stages import corrupt as corrupting
from stages.corrupt import Corrupt, Part, _corrupt, keeps_bytes, load
from stages.ingest import Ingest, OnBad, _ingest, snapshot


def ingest(folder: Path, out: str = "memory://ingest", **options):
    """One piece of a folder, ingested: (rows, report, what was written)."""
    source = Folder(str(folder))
    (piece,) = source.pieces()
    place = Place(out)
    place.remove()
    rows, report = _ingest(Ingest(source, (1, 8, 8), **options), place, piece)
    return rows, report, place


def test_good_files_come_through_byte_by_byte(pictures):
    rows, report, _ = ingest(pictures(6, bad=False))
    assert rows.ids == tuple(f"good-{i}.png" for i in range(6))
    np.testing.assert_array_equal(rows.images[:, 0], [pixels(i) for i in range(6)])
    assert report == {"skipped": [], "modes": {"L": 6}}


@pytest.mark.parametrize("bad", BAD)
def test_fail_names_the_file_and_the_way_out(pictures, bad):
    folder = pictures(2, bad=False)
    (folder / bad).write_bytes(BAD[bad][0])
    with pytest.raises(ValueError, match=BAD[bad][1]) as caught:
        ingest(folder)
    assert bad in str(caught.value)
    assert "--on-bad skip" in str(caught.value)
    assert ". " not in str(caught.value)


def test_skip_keeps_every_good_file_and_says_what_it_left_out(pictures):
    rows, report, place = ingest(pictures(6), on_bad=OnBad.SKIP)
    assert rows.ids == tuple(f"good-{i}.png" for i in range(6))
    assert {bad["id"]: BAD[bad["id"]][1] in bad["why"] for bad in report["skipped"]} == dict.fromkeys(BAD, True)
    assert place.names() == []


def test_quarantine_also_keeps_the_bytes(pictures):
    rows, report, place = ingest(pictures(6), on_bad=OnBad.QUARANTINE)
    assert len(rows) == 6
    assert {bad["id"]: place.read(bad["kept"]) for bad in report["skipped"]} == {
        n: data for n, (data, _) in BAD.items()
    }
    assert len(place.names()) == len(BAD)


def test_nothing_but_bad_files_is_no_shard(pictures):
    rows, report, _ = ingest(pictures(0), on_bad=OnBad.SKIP)
    assert rows is None
    assert len(report["skipped"]) == len(BAD)


@pytest.mark.xfail(reason="Folder.read lets PermissionError through: no policy reaches such a file", strict=True)
def test_a_file_without_read_permission_is_a_bad_file(pictures):
    folder = pictures(2, bad=False)
    for above in (folder, folder.parent):
        os.chmod(above, 0o755)
    os.chmod(folder / "good-0.png", 0)
    user = os.geteuid()
    try:
        if user == 0:
            os.seteuid(65534)
        rows, report, _ = ingest(folder, on_bad=OnBad.SKIP)
    finally:
        os.seteuid(user)
    assert rows.ids == ("good-1.png",)
    assert "permission" in report["skipped"][0]["why"].lower()


def test_mixed_modes_become_the_one_asked_for_and_are_counted(pictures):
    folder = pictures(2, bad=False)
    (folder / "colour.png").write_bytes(png(np.stack([pixels(7)] * 3, axis=-1)))
    rows, report, _ = ingest(folder)
    np.testing.assert_array_equal(rows.images[0, 0], pixels(7))
    assert report["modes"] == {"L": 2, "RGB": 1}


def test_mixed_sizes_are_refused_whatever_the_policy(pictures):
    folder = pictures(2, bad=False)
    (folder / "large.png").write_bytes(png(pixels(7, (9, 8))))
    for policy in OnBad:
        with pytest.raises(ValueError, match=r"large.png is 9x8 pixels where 8x8 was expected; choose resize=crop"):
            ingest(folder, on_bad=policy)


def test_labels_are_required_only_where_they_are_asked_for(pictures):
    folder = pictures(2, bad=False)
    rows, _, _ = ingest(folder)
    assert rows.label.tolist() == [-1, -1]
    with pytest.raises(ValueError, match=r"good-0.png has no label: give every image one"):
        ingest(folder, labels=True)
    (folder / "cats").mkdir()
    for name in ("good-0.png", "good-1.png"):
        (folder / name).rename(folder / "cats" / name)
    assert ingest(folder, labels=True)[0].label.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("field", "value"), [("shape", (2, 8, 8)), ("shape", (1, 0, 8)), ("budget", 1.5), ("budget", -1)]
)
def test_a_stage_that_cannot_be_is_refused(field, value):
    with pytest.raises(ValueError, match=f"{field} is .*: give"):
        Ingest(**{"source": Folder("x"), "shape": (1, 8, 8), field: value})


def test_the_snapshot_moves_with_names_sizes_and_times(pictures):
    folder = pictures(2, bad=False)
    seen = {snapshot(Folder(str(folder)))}
    assert seen == {snapshot(Folder(str(folder)))}
    os.utime(folder / "good-0.png", (1, 1))
    seen.add(snapshot(Folder(str(folder))))
    (folder / "good-0.png").rename(folder / "other.png")
    seen.add(snapshot(Folder(str(folder))))
    (folder / "other.png").unlink()
    seen.add(snapshot(Folder(str(folder))))
    assert len(seen) == 4


def test_a_worker_hands_back_what_the_data_or_the_disk_refuse(tmp_path):
    def refuse(piece):
        raise ValueError("no")

    def full(piece):
        raise OSError(28, "No space left on device", "/data/x")

    rows = {"i": 0, "piece": None}
    assert json.loads(_write(rows, refuse, Place(str(tmp_path)))["report"]) == {"refused": "no"}
    assert json.loads(_write(rows, full, Place(str(tmp_path)))["report"]) == {"errno": 28, "file": "/data/x"}
    assert list(tmp_path.iterdir()) == []


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


@pytest.fixture
def here(monkeypatch):
    """`here(target, store)`: run with the shards made in this process."""

    def in_process(make, pieces, at):
        return [json.loads(_write({"i": i, "piece": piece}, make, at.out)["report"]) for i, piece in enumerate(pieces)]

    monkeypatch.setattr(corrupting, "map_shards", in_process)
    monkeypatch.setattr("stages.ingest.map_shards", in_process)
    return lambda target, store: run(target, store, _nothing, (2, 0))


def _nothing(step):
    return contextlib.nullcontext(None)


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


@pytest.mark.parametrize("budget", [0.3, 0.4])
def test_the_budget_is_a_share_of_all_files(here, pictures, tmp_path, budget):
    source = Folder(str(pictures(6)))
    target = step(Ingest(source, SHAPE, on_bad=OnBad.SKIP, budget=budget))
    store = Store(str(tmp_path / "store"))
    if budget < 3 / 9:
        with pytest.raises(RuntimeError, match=r"3 of 9 files had to be left out, over the budget of 30.0%; mend them"):
            here(target, store)
        assert not store.has(target)
    else:
        here(target, store)
        made = store.artifact(target.address)
        assert made.json("dataset.json")["skipped"] == len(made.json("skipped.json")) == 3


def test_a_folder_of_bad_files_only_is_refused(here, pictures, tmp_path):
    source = Folder(str(pictures(0)))
    target = step(Ingest(source, SHAPE, on_bad=OnBad.SKIP, budget=1))
    with pytest.raises(RuntimeError, match="none of the 3 files could be used; the first: "):
        here(target, Store(str(tmp_path / "store")))


@pytest.mark.ray
@pytest.mark.parametrize("policy", ["fail", "skip", "quarantine"])
def test_a_folder_with_bad_files_end_to_end(one_ray, kintsugi, pictures, tmp_path, policy):
    folder = pictures(6)
    said = kintsugi("run", "folder", "--data", folder, "--on-bad", policy, "--json")
    if policy == "fail":
        said.refused("ingest failed", "--on-bad skip")
        assert kintsugi("ls", "--json").json == []
        return
    assert said.code == 0, said.err
    assert said.json["steps"] == {"run": 1, "cached": 0}
    made = Store(str(tmp_path / "runs")).artifact(f"ingest/{said.json['target']}")
    rows = read_shard(made.file("shards/000000.parquet"))
    assert rows.ids == tuple(f"good-{i}.png" for i in range(6))
    assert {bad["id"] for bad in made.json("skipped.json")} == BAD.keys()
    kept = {bad["id"]: made.read(bad["kept"]) for bad in made.json("skipped.json") if "kept" in bad}
    assert kept == ({name: data for name, (data, _) in BAD.items()} if policy == "quarantine" else {})
    again = kintsugi("run", "folder", "--data", folder, "--on-bad", policy, "--json")
    assert again.json["steps"] == {"run": 0, "cached": 1}
    for name in BAD:
        (folder / name).unlink()
    mended = kintsugi("run", "folder", "--data", folder, "--json").json
    assert mended["steps"]["run"] == 1
    assert mended["target"] != said.json["target"]
