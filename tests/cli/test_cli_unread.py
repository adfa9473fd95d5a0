"""What is not used of a set is counted and said: rows that are not finite, and files of kinds that are not read."""

from __future__ import annotations

import io
import json
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from doubles import pixels, png
from PIL import Image

from pipeline.data.listing import KINDS, OTHERS
from pipeline.data.parquet import Parquet
from pipeline.data.shards import read_shard
from pipeline.data.sources import Clips, Folder, WebDataset, source_of
from pipeline.graph import step
from pipeline.store import Store
from stages.ingest import Ingest, OnBad, notes

BAD = {2: np.nan, 5: np.inf, 6: -np.inf}


@pytest.fixture(params=["x.npy", "x.npz"])
def wild(request, tmp_path) -> str:
    """Twelve images of floats, three of which have a value that is not finite."""
    values = (np.stack([pixels(i) for i in range(12)]) / 255).astype(np.float32)
    for row, value in BAD.items():
        values[row, 3, 4] = value
    (np.save if request.param == "x.npy" else np.savez)(tmp_path / request.param, values)
    return str(tmp_path / request.param)


@pytest.mark.parametrize("policy", OnBad)
def test_rows_that_are_not_finite_spoil_only_themselves(here, tmp_path, wild, policy):
    target = step(Ingest(source_of(wild), (1, 8, 8), on_bad=policy, budget=0.3))
    store = Store(str(tmp_path / "store"))
    if policy is OnBad.FAIL:
        with pytest.raises(
            RuntimeError, match=r"row 2 of .*x\.np[yz] has values that are not finite .*, 1 of 64; .*skip"
        ) as e:
            here(target, store)
        assert ". " not in str(e.value)
        return
    here(target, store)
    made = store.artifact(target.address)
    rows = read_shard(made.file("shards/000000.parquet"))
    assert rows.ids == tuple(f"x-{i}" for i in range(12) if i not in BAD)
    np.testing.assert_array_equal(rows.images[:, 0], [pixels(i) for i in range(12) if i not in BAD])
    left_out = made.json("skipped.json")
    assert [bad["id"] for bad in left_out] == [f"x-{i}" for i in BAD]
    assert all(f"row {i} of " in bad["why"] and wild in bad["why"] for i, bad in zip(BAD, left_out, strict=True))
    assert made.json("dataset.json")["skipped"] == 3
    assert notes(made.json("dataset.json")) == ["3 of 12 images were left out: skipped.json says which and why."]
    if policy is OnBad.QUARANTINE:
        for (row, value), bad in zip(BAD.items(), left_out, strict=True):
            kept = np.frombuffer(made.read(bad["kept"]), np.float32).reshape(8, 8)
            assert kept[3, 4] == value or (np.isnan(value) and np.isnan(kept[3, 4]))
            assert kept[0, 0] == np.float32(pixels(row)[0, 0] / 255)


def test_the_data_report_counts_rows_that_are_not_finite(kintsugi, toy, here, wild):
    found = kintsugi("data", wild, "--json")
    one = found.json["sets"][wild]
    assert (one["rows"], one["not finite"], one["unreadable"]["count"]) == (9, 3, 3)
    assert f"3 images of {wild} have values that are NaN or infinite." in found.out


@pytest.fixture
def mixed(tmp_path):
    """A folder with images of which one is a .jfif, what lies beside them, and what is not read."""
    folder = tmp_path / "mixed"
    (folder / "deep").mkdir(parents=True)
    for i in range(3):
        (folder / f"{i}.png").write_bytes(png(pixels(i)))
        (folder / f"{i}.txt").write_text("a caption")
    Image.fromarray(pixels(9)).save(folder / "photo.JFIF", "jpeg")
    for name in ("notes.txt", "deep/table.csv", "deep/more.CSV", "README", ".hidden", "IMG_0001", "x.heic"):
        (folder / name).write_bytes(b"?")
    return folder


UNREAD = {"": 2, ".csv": 2, ".heic": 1, ".txt": 1}


def test_files_of_kinds_that_are_not_read_are_counted_by_ingest_and_by_the_report(kintsugi, toy, here, mixed):
    said = kintsugi("run", "folder", "--data", mixed, "--json")
    assert said.code == 0, said.err
    made = Store("runs").artifact(f"ingest/{said.json['target']}")
    assert made.json("dataset.json")["rows"] == 4
    assert made.json("dataset.json")["not read"] == UNREAD
    listed = "2 without a suffix, 2 .csv, 1 .heic, 1 .txt"
    warnings = [line for line in map(json.loads, said.err.splitlines()) if line["event"] == "warning"]
    assert [line["text"] for line in warnings] == [f"What lies beside the images and was not read: {listed}."]
    found = kintsugi("data", mixed, "--json")
    assert found.json["sets"][str(mixed)]["not read"] == UNREAD
    assert found.json["sets"][str(mixed)]["format"] == {"JPEG": 1, "PNG": 3}
    assert f"Of what lies in {mixed} some is of kinds not read: {listed}." in found.out


def test_what_lies_beside_images_counts_as_read_only_where_it_is_taken(mixed):
    for end in (".mask.png", ".sigma"):
        (mixed / f"0{end}").write_bytes(b"1")
    both = ("mask", "sigma")
    assert Folder(str(mixed), captions=True, damage=both).unread() == UNREAD
    assert Folder(str(mixed), damage=both).unread() == UNREAD | {".txt": 4}
    assert Folder(str(mixed), captions=True).unread() == UNREAD | {".png": 1, ".sigma": 1}
    assert Folder(str(mixed), "deep/*").unread() == {".csv": 2}
    assert Clips(str(mixed), frames=2).unread() == UNREAD | {".txt": 4, ".png": 1, ".sigma": 1}


def test_what_lies_beside_parquet_and_archives_is_counted_and_single_files_have_nothing_beside_them(tmp_path):
    (tmp_path / "README.md").write_text("?")
    (tmp_path / "1.png").write_bytes(png(pixels(1)))
    (tmp_path / "x.TAR").write_bytes(bytes(1024))
    pq.write_table(pa.table({"image": [png(pixels(0))]}), tmp_path / "x.parquet")
    assert Parquet(str(tmp_path)).unread() == {".md": 1, ".png": 1, ".tar": 1}
    assert WebDataset(str(tmp_path)).unread() == {".md": 1, ".parquet": 1, ".png": 1}
    for one in (Parquet(str(tmp_path / "x.parquet")), WebDataset(str(tmp_path / "x.TAR")), source_of("digits")):
        assert one.unread() == {}


def test_members_of_kinds_that_are_not_read_are_counted_within_archives(tmp_path, monkeypatch):
    names = ["0.png", "0.cls", "0.sigma", "0.heic", "a/1.PNG", "a/1.seg.PNG", "a/1.Heic", "README", ".hidden"]
    for name, folder in (("x.tar", "deep"), ("y.tgz", "")):
        with tarfile.open(tmp_path / name, "w:gz" if name == "y.tgz" else "w") as tar:
            for member in names:
                info = tarfile.TarInfo(f"{folder}/{member}".removeprefix("/"))
                info.size = 1
                tar.addfile(info, io.BytesIO(b"1"))
    (tmp_path / "notes.md").write_text("?")
    one = {".heic": 2, "": 1, ".png": 1}
    assert WebDataset(str(tmp_path / "x.tar")).unread() == one
    both = WebDataset(str(tmp_path))
    both.pieces()
    monkeypatch.setattr("pipeline.data.webdataset.members", None)  # passed once is enough
    assert both.unread() == {kind: 2 * count for kind, count in one.items()} | {".md": 1}
    assert both == WebDataset(str(tmp_path))


def test_arrays_that_are_not_taken_are_listed(tmp_path, kintsugi, toy, here):
    u = np.stack([pixels(i) for i in range(6)])
    split = {"x_train": u, "y_train": np.arange(6), "x_test": u, "y_test": np.arange(6)}
    named = {"images": u, "labels": np.arange(6), "masks": u > 9, "sigmas": np.ones(6)}
    for name, arrays, left in (("s", split, ["y_train", "x_test", "y_test"]), ("n", named, ["masks", "sigmas"])):
        path = tmp_path / f"{name}.npz"
        np.savez(path, **arrays)
        assert source_of(str(path)).unread() == {f"array '{one}'": 1 for one in left}
        said = kintsugi("run", "folder", "--data", path, "--json")
        assert all(f"1 array '{one}'" in said.err for one in left), said.err
    np.savez(tmp_path / "d.npz", images=u, labels=np.arange(6), mask=u > 9, sigma=np.ones(6))
    np.save(tmp_path / "x.npy", u)
    assert source_of(str(tmp_path / "d.npz")).unread() == source_of(str(tmp_path / "x.npy")).unread() == {}


def test_hostile_suffixes_are_printable_and_few(tmp_path):
    (tmp_path / "1.png").write_bytes(png(pixels(1)))
    for i in range(KINDS + 3):
        (tmp_path / f"{i}.k{i:02d}").write_bytes(b"")
    for i in range(2):
        (tmp_path / f"{i}.\x1b[31m").write_bytes(b"")
    found = Folder(str(tmp_path)).unread()
    assert next(iter(found)) == ".\\x1b[31m"
    assert (len(found), found[OTHERS], sum(found.values())) == (KINDS + 1, 4, KINDS + 5)
