"""Bad files under each policy; whatever can be used is kept, whatever is left out is named."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from doubles import BAD, pixels, png

from pipeline.data.listing import reading
from pipeline.data.shards import read_shard
from pipeline.data.sources import Folder, Parquet
from pipeline.engine.tasks import _result, _Tried
from pipeline.graph import step
from pipeline.place import Place
from pipeline.store import Store
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


def test_a_file_without_read_permission_is_a_bad_file(pictures, monkeypatch):
    def shut(fs, path):
        if path.endswith("good-0.png"):
            raise PermissionError(13, "Permission denied", path)
        return reading(fs, path)

    monkeypatch.setattr("pipeline.data.folders.reading", shut)
    for policy in (OnBad.SKIP, OnBad.QUARANTINE):
        rows, report, _ = ingest(pictures(2, bad=False), on_bad=policy)
        assert rows.ids == ("good-1.png",)
        assert "permission" in report["skipped"][0]["why"]
    with pytest.raises(ValueError, match=r"good-0.png may not be read.*--on-bad skip"):
        ingest(pictures(2, bad=False))


def test_mixed_modes_become_the_one_asked_for_and_are_counted(pictures):
    folder = pictures(2, bad=False)
    (folder / "colour.png").write_bytes(png(np.stack([pixels(7)] * 3, axis=-1)))
    rows, report, _ = ingest(folder, grey=True)
    np.testing.assert_array_equal(rows.images[0, 0], pixels(7))
    assert report["modes"] == {"L": 2, "RGB": 1}


def test_colour_is_not_lost_unasked(pictures):
    folder = pictures(2, bad=False)
    (folder / "colour.png").write_bytes(png(np.stack([pixels(7)] * 3, axis=-1)))
    for policy in OnBad:
        with pytest.raises(ValueError, match=r"colour.png is in colour and the set is grey"):
            ingest(folder, on_bad=policy)


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


def test_a_worker_hands_back_what_the_data_or_the_disk_refuse():
    def refuse(piece):
        raise ValueError("no")

    def full(piece):
        raise OSError(28, "No space left on device", "/data/x")

    row = {"item": pickle.dumps(3)}
    assert _result(_Tried(lambda piece: piece + 1)(row)) == 4
    with pytest.raises(ValueError, match=r"^no$"):
        _result(_Tried(refuse)(row))
    with pytest.raises(OSError, match="No space left") as caught:
        _result(_Tried(full)(row))
    assert (caught.value.errno, caught.value.filename) == (28, "/data/x")


@pytest.mark.parametrize("budget", [0.3, 0.4])
def test_the_budget_is_a_share_of_all_files(here, pictures, tmp_path, budget):
    source = Folder(str(pictures(6)))
    target = step(Ingest(source, (1, 8, 8), on_bad=OnBad.SKIP, budget=budget))
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
    target = step(Ingest(source, (1, 8, 8), on_bad=OnBad.SKIP, budget=1))
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


def test_an_id_that_occurs_in_two_files_is_refused(tmp_path, here):
    """A duplicate would put one image into two disjoint parts."""
    for name, ids in (("a", ["1", "2"]), ("b", ["3", "1"])):
        images = [png(pixels(int(i))) for i in ids]
        pq.write_table(pa.table({"id": ids, "image": images}), tmp_path / f"{name}.parquet")
    target = step(Ingest(Parquet(str(tmp_path), id="id"), (1, 8, 8)))
    with pytest.raises(Exception, match="1 ids occur more than once, such as '1'"):
        here(target, Store(str(tmp_path / "runs")))


def test_an_id_that_occurs_twice_in_a_file_is_refused_with_both_places(tmp_path, here):
    ids = ["1", "2", "1"]
    pq.write_table(pa.table({"id": ids, "image": [png(pixels(i)) for i in range(3)]}), tmp_path / "a.parquet")
    target = step(Ingest(Parquet(str(tmp_path), id="id"), (1, 8, 8)))
    with pytest.raises(Exception, match=r"row 2 of a\.parquet has the id '1', as row 0 of a\.parquet has: make them"):
        here(target, Store(str(tmp_path / "runs")))
