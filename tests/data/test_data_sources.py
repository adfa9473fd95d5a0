"""Every kind of collection is cut, read and refused alike, whatever it is stored in."""

from __future__ import annotations

import errno
import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.data.images import BadImage, decode
from pipeline.data.records import Examples
from pipeline.data.shards import read_shard, write_shard
from pipeline.data.source import spans
from pipeline.data.sources import Arrays, Digits, Folder, Parquet, Piece, Source, source_of


def png(value: int = 0, mode: str = "L", size: tuple[int, int] = (5, 4)) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, value).save(buffer, "png")
    return buffer.getvalue()


def everything(source: Source) -> list:
    return [raw for piece in source.pieces() for raw in source.read(piece)]


def put(root: Path, **files: bytes) -> Path:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def parquet(path: Path, rows: int = 5, group: int = 2, **columns) -> Path:
    table = {"image": [png(i % 256) for i in range(rows)]} | columns
    pq.write_table(pa.table({k: v for k, v in table.items() if v is not None}), path, row_group_size=group)
    return path


@given(st.lists(st.integers(0, 40), max_size=12), st.integers(1, 25))
def test_spans_cover_the_rows_once_in_order_and_never_exceed_their_bound(groups: list[int], most: int) -> None:
    cut = list(spans(groups, most))
    assert [row for a, b in cut for row in range(a, b)] == list(range(sum(groups)))
    assert all(0 < b - a <= most for a, b in cut)


@pytest.fixture
def one_of_each(tmp_path: Path) -> dict[str, Source]:
    images = np.random.default_rng(0).integers(0, 256, (7, 4, 5)).astype(np.uint8)
    np.save(tmp_path / "a.npy", images)
    np.savez_compressed(tmp_path / "a.npz", images=images, labels=np.arange(7))
    return {
        "digits": Digits(),
        "folder": Folder(str(put(tmp_path / "f", **{"x/1.png": png(), "y/2.PNG": png(2)}))),
        "parquet": Parquet(str(parquet(tmp_path / "a.parquet"))),
        "npy": Arrays(str(tmp_path / "a.npy")),
        "npz": Arrays(str(tmp_path / "a.npz")),
    }


def test_a_piece_means_the_same_after_json_and_pickle_and_alone(one_of_each) -> None:
    for source in one_of_each.values():
        pieces = source.pieces()
        assert pieces == source.pieces()
        for piece in pieces:
            assert Piece(**json.loads(json.dumps(asdict(piece)))) == pickle.loads(pickle.dumps(piece)) == piece
        last = [raw.id for raw in source.read(pieces[-1])]
        ids = [raw.id for raw in everything(source)]
        assert ids[-len(last) :] == last
        assert len(set(ids)) == len(ids)


def test_peek_tells_mode_and_size_of_what_is_read(one_of_each) -> None:
    for source in one_of_each.values():
        mode, size = source.peek()
        for raw in everything(source)[:3]:
            assert decode(raw.image, raw.name, mode).shape == ({"L": 1, "RGB": 3}[mode], *size)


def test_digits_are_the_known_ones() -> None:
    raws = everything(Digits())
    assert [raws[0].id, raws[-1].id, len(raws)] == ["digits-0000", "digits-1796", 1797]
    assert [raw.label for raw in raws[:12]] == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    assert raws[0].image[0].tolist() == [0, 0, 80, 207, 143, 16, 0, 0]  # 0 0 5 13 9 1 0 0 sixteenths
    assert max(raw.image.max() for raw in raws) == 255


def test_a_folder_is_sorted_labelled_by_its_first_level_and_free_of_hidden_files(tmp_path: Path) -> None:
    names = ["b/2.png", "b/deep/1.JPG", "a/z.webp", "top.png", "a/._z.webp", ".cache/1.png", "a/notes.txt"]
    put(tmp_path, **{name: name.encode() for name in names})
    raws = everything(Folder(str(tmp_path)))
    assert [(raw.id, raw.label) for raw in raws] == [
        ("a/z.webp", 0),
        ("b/2.png", 1),
        ("b/deep/1.JPG", 1),
        ("top.png", None),
    ]
    assert all(raw.image == raw.id.encode() and raw.name == f"{tmp_path}/{raw.id}" for raw in raws)
    assert [raw.id for raw in everything(Folder(str(tmp_path), "b/*"))] == ["b/2.png", "b/deep/1.JPG"]


def test_a_folder_may_be_any_url_and_large_ones_come_in_pieces() -> None:
    fs = fsspec.filesystem("memory")
    for i in range(1030):
        fs.pipe(f"/many/{i % 10}/{i:04d}.png", b"x")
    source = source_of("memory://many")
    assert [len(piece.files) for piece in source.pieces()] == [1024, 6]
    assert Counter(raw.label for raw in everything(source)) == dict.fromkeys(range(10), 103)
    assert all(raw.id.startswith(f"{raw.label}/") for raw in everything(source))


def test_names_and_links_that_lead_elsewhere_are_refused(refused, tmp_path: Path) -> None:
    secret = put(tmp_path, **{"secret.png": png()}) / "secret.png"
    inner = put(tmp_path / "root", **{"ok.png": png()})
    (inner / "again.png").symlink_to(inner / "ok.png")
    assert [raw.id for raw in everything(Folder(str(inner)))] == ["again.png", "ok.png"]
    (inner / "out.png").symlink_to(secret)
    with refused("'out.png'", "link that leaves it"):
        Folder(str(inner)).pieces()
    with refused("'out.png'", "link that leaves it"):
        list(Folder(str(inner)).read(Piece(("out.png",), (-1,))))
    (inner / "out.png").unlink()
    (inner / "loop").symlink_to(inner)
    with refused("'loop'", "link to a folder"):
        source_of(str(inner))
    (inner / "loop").unlink()
    for name in ("../secret.png", str(secret), "a/../../secret.png"):
        with refused("is not inside it"):
            list(Folder(str(inner)).read(Piece((name,), (-1,))))
    os.mkfifo(inner / "pipe.png")  # opening it would wait for ever
    assert len(Folder(str(inner)).pieces()[0].files) == 2
    for odd in (b"c:evil.png", b"back\\slash.png", b"bad-\xff.png", b"new\nline.png"):
        with open(os.path.join(os.fsencode(inner), odd), "wb"):
            pass
        with refused("rename, copy or remove it"):
            source_of(str(inner))
        os.unlink(os.path.join(os.fsencode(inner), odd))


@pytest.mark.parametrize("name", ["../../x.png", "a/../../x.png", "C:/x.png", "n" * 2000 + ".png"])
def test_an_archive_with_names_that_climb_is_refused(name: str, refused, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "slip.zip", "w") as archive:
        archive.writestr(name, png())
    with refused("rename, copy or remove it"):
        Folder(f"zip://::{tmp_path}/slip.zip").pieces()


def test_parquet_of_bytes_and_of_hugging_face_structs_with_all_their_columns(tmp_path: Path) -> None:
    plain = parquet(
        tmp_path / "p.parquet", label=[3, None, -1, 0, 1], id=[f"i{k}" for k in range(5)], caption=["c"] * 5
    )
    raws = everything(source_of(str(plain)))
    assert [(raw.id, raw.label) for raw in raws] == [("i0", 3), ("i1", None), ("i2", None), ("i3", 0), ("i4", 1)]
    struct = [{"bytes": png(k), "path": "/etc/passwd"} for k in range(3)] + [
        {"bytes": None, "path": "/etc/passwd"},
        None,
    ]
    hf = parquet(tmp_path / "hf.parquet", image=None, img=struct, label=[1] * 5, fine=[9, 8, 7, 6, 5])
    raws = everything(Parquet(str(hf), image="img", label="fine", id=""))
    assert [raw.id for raw in raws] == [f"hf-{k}" for k in range(5)]
    assert [raw.label for raw in raws] == [9, 8, 7, 6, 5]
    assert [raw.image for raw in raws] == [png(0), png(1), png(2), b"", b""]
    assert all(raw.label is None for raw in everything(Parquet(str(hf), image="img", label="")))


def test_a_failing_disk_is_not_blamed_on_the_file(tmp_path: Path, monkeypatch) -> None:
    parquet(tmp_path / "p.parquet")

    def fail(*_, **__) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(pq, "ParquetFile", fail)
    with pytest.raises(OSError, match="Input/output"):
        Parquet(str(tmp_path / "p.parquet")).pieces()
    with pytest.raises(OSError, match="Input/output"):
        read_shard(tmp_path / "p.parquet")


def test_parquet_folders_keep_equal_stems_apart_and_rows_do_not_depend_on_row_groups(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    parquet(tmp_path / "train" / "0.parquet", 3000, 1300)
    parquet(tmp_path / "0.parquet", 10, 3)
    source = source_of(str(tmp_path))
    pieces = source.pieces()
    assert [piece.stop - piece.start for piece in pieces] == [10, 1024, 276, 1024, 676]
    raws = everything(source)
    assert [raw.id for raw in raws] == [f"0-{i}" for i in range(10)] + [f"train/0-{i}" for i in range(3000)]
    assert all(raw.image == png(i % 256) for i, raw in enumerate(raws[10:]))


def test_a_file_named_outright_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot" / "l.parquet").symlink_to(parquet(tmp_path / "blob.parquet"))
    assert len(everything(source_of(str(tmp_path / "snapshot" / "l.parquet")))) == 5


def test_parquet_with_other_columns_says_which_there_are(refused, tmp_path: Path) -> None:
    path = str(parquet(tmp_path / "odd.parquet", images=[1] * 5, image=None, lable=["cat"] * 5, id=[None] * 5))
    with refused("'image'", "images, lable, id", "did you mean 'images'", "set image="):
        source_of(path).pieces()
    with refused("holds int64, not encoded images"):
        Parquet(path, image="images").pieces()
    good = str(parquet(tmp_path / "good.parquet", lable=["cat"] * 5, id=pa.array(["a", None, "c", "", "x"])))
    with refused("'label'", "did you mean 'lable'"):
        Parquet(good, label="label").pieces()
    with refused("holds string, not integers"):
        Parquet(good, label="lable").pieces()
    with refused("row 1 of good.parquet has no id"):
        everything(Parquet(good))
    bell = str(parquet(tmp_path / "bell.parquet", id=["a", "b", "c\a", "d", "e"]))
    with refused("row 2 of bell.parquet has an id", "control"):
        everything(Parquet(bell))
    low = str(parquet(tmp_path / "low.parquet", label=[0, -2, 1, 1, 1]))
    with refused("row 1 of low.parquet has the label -2"):
        everything(Parquet(low))


def test_files_that_are_not_sound_parquet_or_are_ours_already_are_refused(refused, tmp_path: Path) -> None:
    whole = parquet(tmp_path / "whole.parquet", 500, 100).read_bytes()
    put(tmp_path, **{"empty.parquet": b"", "text.parquet": b"PAR1 no", "half.parquet": whole[: len(whole) // 2]})
    for name in ("empty", "text", "half"):
        with refused(f"{name}.parquet", "not a sound parquet file"):
            Parquet(str(tmp_path / f"{name}.parquet")).peek()
    hole = bytearray(whole)
    hole[4:60] = bytes(56)
    put(tmp_path, **{"hole.parquet": bytes(hole)})
    with refused("hole.parquet", "not a sound parquet file"):
        everything(Parquet(str(tmp_path / "hole.parquet")))
    write_shard(tmp_path / "ours.parquet", Examples(("a",), np.zeros((1, 1, 2, 2), np.uint8)))
    with refused("ours.parquet is a kintsugi shard already"):
        Parquet(str(tmp_path / "ours.parquet")).pieces()
    with refused("has no rows"):
        Parquet(str(parquet(tmp_path / "none.parquet", image=pa.array([], pa.binary())))).pieces()


@pytest.mark.parametrize("shape", [(6, 4, 5), (6, 4, 5, 1), (6, 4, 5, 3)])
@pytest.mark.parametrize("dtype", ["|u1", "<f4", ">f8", "<f2"])
def test_arrays_come_back_as_they_were_saved(shape, dtype, tmp_path: Path) -> None:
    u = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    stored = u if dtype == "|u1" else (u / 255).astype(dtype)
    np.save(tmp_path / "s.npy", stored)
    np.savez(tmp_path / "s.npz", noise=np.zeros(3), labels=np.arange(6), images=stored)
    for path, labels in ((tmp_path / "s.npy", [None] * 6), (tmp_path / "s.npz", list(range(6)))):
        raws = everything(source_of(str(path)))
        np.testing.assert_array_equal(np.stack([raw.image for raw in raws]), u)
        assert [raw.label for raw in raws] == labels
        assert [raw.id for raw in raws] == [f"s-{i}" for i in range(6)]
    fsspec.filesystem("memory").pipe("/s.npz", (tmp_path / "s.npz").read_bytes())
    assert len(everything(source_of("memory://s.npz"))) == 6


def test_any_range_of_a_compressed_archive_is_the_same_range(tmp_path: Path) -> None:
    u = np.random.default_rng(0).integers(0, 9, (2500, 3, 3)).astype(np.uint8)
    np.savez_compressed(tmp_path / "x.npz", x_train=u, y_train=np.arange(2500) % 10)
    source = Arrays(str(tmp_path / "x.npz"), labels="y_train")
    assert [(p.start, p.stop) for p in source.pieces()] == [(0, 1024), (1024, 2048), (2048, 2500)]
    raws = list(source.read(source.pieces()[2]))
    np.testing.assert_array_equal(np.stack([raw.image for raw in raws]), u[2048:])
    assert [raw.label for raw in raws] == [i % 10 for i in range(2048, 2500)]


def test_arrays_that_are_not_images_are_refused(refused, tmp_path: Path) -> None:
    good = np.zeros((3, 4, 5), np.uint8)
    cases = {
        "pickled Python objects": np.array([{"a": 1}] * 3, dtype=object),
        "holds int64": good.astype(np.int64),
        "has shape (3, 4)": good[..., 0],
        "has shape (3, 4, 5, 7)": np.zeros((3, 4, 5, 7), np.uint8),
        "no images": good[:0],
        "column by column": np.asfortranarray(good),
        "holds [('a'": np.zeros((3, 4, 5), [("a", "u1")]),
    }
    for part, array in cases.items():
        np.save(tmp_path / "bad.npy", array, allow_pickle=True)
        with refused(part, "bad.npy"):
            source_of(str(tmp_path / "bad.npy")).pieces()
    with zipfile.ZipFile(tmp_path / "boast.npz", "w") as archive, archive.open("images.npy", "w") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (10**9, 9, 9)})
    with refused("images in", "boast.npz has 128 bytes where its shape"):
        Arrays(str(tmp_path / "boast.npz")).pieces()
    for value in (-1.0, 255.0):
        np.save(tmp_path / "range.npy", np.full((3, 4, 5), value, np.float32))
        with refused("row 0 of", "range.npy has values outside 0..1"):
            source_of(str(tmp_path / "range.npy")).peek()
    np.savez(tmp_path / "two.npz", images=good, labels=np.zeros(2))
    with refused("labels in", "two.npz", "one integer for each image"):
        Arrays(str(tmp_path / "two.npz")).pieces()
    with refused("no array 'x'", "images, labels"):
        Arrays(str(tmp_path / "two.npz"), images="x").pieces()


def test_array_files_that_are_damaged_are_refused(refused, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 9, (150, 8, 8)).astype(np.uint8)
    np.save(tmp_path / "w.npy", noise)
    np.savez_compressed(tmp_path / "w.npz", images=noise)
    npy, npz = (tmp_path / "w.npy").read_bytes(), (tmp_path / "w.npz").read_bytes()
    hole = npz[:1500] + bytes(80) + npz[1580:]
    flat = npz[:1500] + b"\xff" * 80 + npz[1580:]
    files = {
        "e.npy": b"",
        "t.npy": b"text",
        "h.npy": npy[:-1],
        "e.npz": b"",
        "h.npz": npz[:999],
        "o.npz": hole,
        "z.npz": flat,
    }
    put(tmp_path, **files)
    for name in files:
        with refused(name):
            everything(source_of(str(tmp_path / name)))


@pytest.mark.slow
def test_archives_that_inflate_and_headers_that_boast_cost_no_memory(tmp_path: Path) -> None:
    with (
        zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("images.npy", "w") as f,
    ):
        np.lib.format.write_array_header_1_0(f, {"descr": "|u1", "fortran_order": False, "shape": (150, 1000, 1000)})
        for row in np.random.default_rng(0).integers(0, 256, (150, 20_000), dtype=np.uint8):
            f.write(row.tobytes() + bytes(980_000))
    with open(tmp_path / "boast.npy", "wb") as f:
        np.lib.format.write_array_header_1_0(f, {"descr": "|u1", "fortran_order": False, "shape": (10**9, 9000, 900)})
    code = """if True:
        import resource, sys
        from pipeline.data.sources import source_of
        peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        before = peak()
        bomb = source_of(sys.argv[1])
        assert bomb.peek() == ("L", (1000, 1000))
        assert sum(1 for raw in bomb.read(bomb.pieces()[-1])) == 150
        try: source_of(sys.argv[2]).pieces()
        except ValueError as error: assert "truncated" in str(error)
        else: sys.exit("believed the header")
        print((peak() - before) // 1024)"""
    paths = [str(tmp_path / "bomb.npz"), str(tmp_path / "boast.npy")]
    out = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True, check=True)
    assert int(out.stdout) < 40  # MiB of 150


def test_bad_images_spoil_only_themselves_and_peek_passes_over_them(refused, tmp_path: Path) -> None:
    put(tmp_path, **{"0.png": b"", "1.jpg": b"<html>", "2.png": png()[:-20], "3.jpg": png(9)})
    source = source_of(str(tmp_path))
    assert source.peek() == ("L", (4, 5))
    *bad, good = everything(source)
    for raw in bad:
        with refused(str(tmp_path / raw.id), kind=BadImage):
            decode(raw.image, raw.name, "L")
    assert (decode(good.image, good.name, "L") == 9).all()
    (tmp_path / "3.jpg").unlink()
    with refused("None of the first 3 images can be read", "0.png is empty"):
        source.peek()


def test_peek_reads_no_more_than_it_must(tmp_path: Path) -> None:
    parquet(tmp_path / "0.parquet")
    put(tmp_path, **{"1.parquet": b"not looked at"})
    assert source_of(str(tmp_path)).peek() == ("L", (4, 5))


def test_source_of_looks_and_says_what_it_looked_for(refused, tmp_path: Path) -> None:
    assert source_of("digits") == Digits()
    put(tmp_path, **{"i/1.png": png(), "e/.hidden.png": png(), "n/1.npy": b"", "t.csv": b"1", "both/1.png": png()})
    parquet(tmp_path / "both" / "0.parquet")
    assert source_of(str(tmp_path / "i")) == Folder(str(tmp_path / "i"))
    assert source_of(str(tmp_path / "both")) == Parquet(str(tmp_path / "both"))
    for path, parts in {
        tmp_path / "gone": ("gone does not exist",),
        tmp_path / "e": ("/e was searched for images (.bmp", ".parquet files"),
        tmp_path / "n": ("name one of its .npy",),
        tmp_path / "t.csv": ("t.csv is a file of unknown kind", ".npz"),
        "": ("is empty",),
        "pipe:cat /etc/passwd": ("would start a program",),
        "nosuch://host/x": ("nosuch://host/x cannot be opened",),
        "s3://user:secret@host/x": ("s3://host/x has a password in it",),
        "https://host/x.npy?X-Amz-Expires=9&X-Amz-Signature=f00": ("https://host/x.npy has a signature in it",),
        "https://host/x.npy?download=1&access_token=f00": ("https://host/x.npy has a signature in it",),
        "a\0b": ("zero character",),
    }.items():
        with refused(*parts) as _:
            source_of(str(path))
    with refused("has no images that match 'z*'"):
        Folder(str(tmp_path / "i"), "z*").pieces()
    with refused("is not a folder"):
        Folder(str(tmp_path / "t.csv")).pieces()
    with refused("has no .parquet files"):
        Parquet(str(tmp_path / "i")).pieces()


def test_a_real_shard_of_cifar() -> None:
    home = os.environ.get("KINTSUGI_DATA")
    if not home:
        pytest.skip("KINTSUGI_DATA does not name the folder of real data")
    source = source_of(f"{home}/cifar10")
    assert source.peek() == ("RGB", (32, 32))
    pieces = source.pieces()
    assert sum(piece.stop - piece.start for piece in pieces) == 30_000
    raws = list(source.read(pieces[0]))
    pixels = np.stack([decode(raw.image, raw.name) for raw in raws])
    assert pixels.shape == (1000, 3, 32, 32)
    assert [(raws[k].id, raws[k].label) for k in (0, 1)] == [("cifar10-train-00000", 6), ("cifar10-train-00001", 9)]
    np.testing.assert_allclose(pixels.mean((0, 2, 3)), [125.3, 123.0, 113.9], atol=3)  # the whole set's means
