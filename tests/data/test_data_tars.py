"""Archives give what was packed, in order and in pieces, and nothing that a stranger put in gets out."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from bombs import tar_bomb
from PIL import Image

from pipeline.data.images import MAX_BYTES, BadImage, decode
from pipeline.data.sources import WebDataset, source_of
from stages.ingest import OnBad


def png(value: int, size: tuple[int, int] = (5, 4), mode: str = "L") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, value).save(buffer, "png")
    return buffer.getvalue()


def pack(path: Path, members: list[tuple[str, bytes]], kind: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix in (".gz", ".tgz") else "w", format=kind) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def odd(path: Path, name: str = "a.png", data: bytes = b"", **fields) -> Path:
    with tarfile.open(path, "w", format=fields.pop("format", tarfile.GNU_FORMAT)) as tar:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        for field, value in fields.items():
            setattr(info, field, value)
        tar.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize("ending", ["tar", "tar.gz", "tgz"])
@pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_samples_come_back_with_label_and_caption(ending: str, kind: int, tmp_path: Path, ingested) -> None:
    deep = "d" * 60 + "/" + "e" * 70  # beyond the 100 characters of a header
    members = []
    for i in range(7):
        members += [(f"{deep}/{i:03d}.png", png(i)), (f"{deep}/{i:03d}.cls", str(i % 3).encode())]
        members += [(f"{deep}/{i:03d}.txt", f"caption ü {i}\n".encode()), (f"{deep}/{i:03d}.ignored", b"x" * 700)]
    path = pack(tmp_path / f"train.{ending}", [*members, ("short.png", png(7))], kind)
    source = source_of(str(path))
    assert source == WebDataset(str(path), captions=True)
    rows = ingested(source, (1, 4, 5))
    assert rows.ids == (*(f"train/{deep}/{i:03d}" for i in range(7)), "train/short")
    assert rows.images[:, 0, 0, 0].tolist() == list(range(8))
    assert rows.label.tolist() == [*(i % 3 for i in range(7)), -1]
    assert rows.caption == (*(f"caption ü {i}" for i in range(7)), "")


def test_any_range_of_any_archive_of_a_folder_is_the_same_range(tmp_path: Path) -> None:
    one = png(1)
    pack(tmp_path / "b.tar.gz", [(f"{i}.png", one) for i in range(3)])
    pack(tmp_path / "a.tar", [m for i in range(2050) for m in ((f"{i}.json", b'{"label": %d}' % i), (f"{i}.png", one))])
    source = source_of(str(tmp_path))
    pieces = source.pieces()
    assert [(p.files, p.start, p.stop) for p in pieces] == [
        (("a.tar",), 0, 1024),
        (("a.tar",), 1024, 2048),
        (("a.tar",), 2048, 2050),
        (("b.tar.gz",), 0, 3),
    ]
    raws = [raw for piece in pieces for raw in source.read(piece)]
    assert [raw.id for raw in raws] == [f"a/{i}" for i in range(2050)] + [f"b/{i}" for i in range(3)]
    assert [raw.label for raw in raws] == [*range(2050), None, None, None]
    assert all(raw.image == one for raw in raws)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_a_piece_of_a_plain_archive_is_read_from_where_it_begins(kind: int, tmp_path: Path, monkeypatch) -> None:
    deep = "d" * 150  # so that the name of a member stands in a header of its own before it
    one = png(1)
    members = [m for i in range(2100) for m in ((f"{deep}/{i}.png", one), (f"{deep}/{i}.cls", b"%d" % i))]
    source = WebDataset(str(pack(tmp_path / "a.tar", [*members[:2049], (".hidden", b"x"), *members[2049:]], kind)))
    first, second, third = source.pieces()
    assert first.at == 0 < second.at < third.at
    data = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(b"\xff" * second.at + data[second.at :])  # what lies before is not looked at
    assert [raw.label for raw in source.read(second)] == list(range(1024, 2048))
    assert [raw.id for raw in source.read(third)] == [f"a/{deep}/{i}" for i in range(2048, 2100)]
    packed = WebDataset(str(pack(tmp_path / "b.tgz", [(f"{i}.png", one) for i in range(1025)], kind)))
    assert [piece.at for piece in packed.pieces()] == [-1, -1]


def test_json_carries_label_caption_and_sigma_and_a_mask_lies_beside(tmp_path: Path, ingested) -> None:
    seen = np.zeros((4, 5), np.uint8)
    seen[1:3, 2:] = 255
    mask = io.BytesIO()
    Image.fromarray(seen).save(mask, "png")
    told = json.dumps({"cls": 4, "text": "a cat", "sigma": 0.25}).encode()
    pack(tmp_path / "x.tar", [("s/1.png", png(9)), ("s/1.json", told), ("s/1.mask.png", mask.getvalue())])
    source = source_of(str(tmp_path / "x.tar"))
    assert (source.captions, source.damage) == (True, ("mask", "sigma"))
    rows = ingested(source, (1, 4, 5))
    assert (rows.ids, rows.caption, rows.label.tolist()) == (("x/s/1",), ("a cat",), [4])
    assert rows.operator["sigma"].tolist() == [0.25]
    np.testing.assert_array_equal(np.unpackbits(rows.operator["mask"][0], count=20).reshape(4, 5), seen > 0)


FIRST, LATER = [("0.png", png(1))], [("1.png", png(2))]
MORE = {
    "mask": [("1.mask.png", png(255))],
    "sigma": [("1.sigma", b"0.2")],
    "sigma in .json": [("1.json", b'{"sigma": 0.2}')],
    "caption": [("1.txt", b"a cat")],
    "caption in .json": [("1.json", b'{"text": "a cat"}')],
}


@pytest.mark.parametrize("ending", ["tar", "tgz"])
@pytest.mark.parametrize("more", MORE)
def test_a_sample_that_has_more_than_the_first_is_refused(more: str, ending: str, tmp_path, ingested, refused) -> None:
    path = pack(tmp_path / f"half.{ending}", [*FIRST, *LATER, *MORE[more]])
    with refused(f"1 in half.{ending} has a {more.split()[0]}, and the first sample", "or none"):
        ingested(source_of(str(path)), (1, 4, 5))


def test_what_the_later_samples_lack_is_missing_from_them_alone(tmp_path: Path, ingested) -> None:
    said = [("0.json", b'{"caption": null, "sigma": null}'), ("1.json", b'{"caption": "a cat", "sigma": null}')]
    path = pack(tmp_path / "x.tar", [*FIRST, said[0], *LATER, said[1]])
    rows = ingested(source_of(str(path)), (1, 4, 5))  # a null says that captions there are, and no sigma
    assert (rows.caption, rows.operator) == (("", "a cat"), {})
    path = pack(tmp_path / "y.tar", [*FIRST, ("0.sigma", b"0.5"), *LATER])
    with pytest.raises(ValueError, match=r"1 in y\.tar has sigma None"):
        ingested(source_of(str(path)), (1, 4, 5))


def test_the_tar_of_a_damaged_folder_gives_what_the_folder_gives(tmp_path: Path, ingested) -> None:
    seen = np.full((4, 5), 255, np.uint8)
    seen[2:, 1:] = 0
    mask = io.BytesIO()
    Image.fromarray(seen).save(mask, "png")
    members = [("0.png", png(9)), ("0.mask.png", mask.getvalue()), ("0.sigma", b"0.25\n")]
    (tmp_path / "f").mkdir()
    for name, data in members:
        (tmp_path / "f" / name).write_bytes(data)
    a = ingested(source_of(str(tmp_path / "f")), (1, 4, 5))
    b = ingested(source_of(str(pack(tmp_path / "f.tar", members))), (1, 4, 5))
    assert sorted(a.operator) == sorted(b.operator) == ["mask", "sigma"]
    for name, column in a.operator.items():
        np.testing.assert_array_equal(column, b.operator[name])
    np.testing.assert_array_equal(a.images, b.images)
    path = pack(tmp_path / "loud.tar", [("0.png", png(9)), ("0.sigma", b"loud")])
    with pytest.raises(ValueError, match=r"0 in loud\.tar has sigma loud"):
        ingested(source_of(str(path)), (1, 4, 5))


def test_an_image_that_is_missing_or_broken_spoils_only_its_sample(tmp_path: Path, ingested, refused) -> None:
    members = [("1.png", png(1)), ("2.cls", b"3"), ("3.png", b"<html>"), ("4.png", png(4)), ("5.jpg", png(5)[:-25])]
    source = source_of(str(pack(tmp_path / "x.tar", members)))
    assert ingested(source, (1, 4, 5), on_bad=OnBad.SKIP).ids == ("x/1", "x/4")
    raws = [raw for piece in source.pieces() for raw in source.read(piece)]
    for raw, part in zip(
        [raws[1], raws[2], raws[4]], ["2 in x.tar is empty", "3 in x.tar is not an image", "5 in x.tar"]
    ):
        with refused(part, kind=BadImage):
            decode(raw.image, raw.name)


NAMES = {
    "../../etc/x.png": "not inside",
    "/etc/x.png": "not inside",
    "a/../../x.png": "not inside",
    "C:/x.png": "drive",
    "a\\..\\x.png": "backslash",
    "a\x07.png": "control",
    "y/" * 2048 + "x.png": "more than 1024 characters",
    "\udcff\udcfe.png": "not Unicode",
}


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name)[:20])
@pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_names_that_lead_elsewhere_are_refused(name: str, kind: int, tmp_path: Path, refused) -> None:
    path = odd(tmp_path / "bad.tar", name, png(1), format=kind)
    before = sorted(tmp_path.rglob("*"))
    with refused("bad.tar", NAMES[name], "plain files only"):
        WebDataset(str(path)).pieces()
    assert sorted(tmp_path.rglob("*")) == before


def test_a_zero_character_in_a_long_name_is_refused(tmp_path: Path, refused) -> None:
    path = odd(tmp_path / "nul.tar", "a.png", png(1), format=tarfile.PAX_FORMAT, pax_headers={"path": "a\0b.png"})
    with refused("nul.tar", "control characters"):
        source_of(str(path))


@pytest.mark.parametrize("kind", ["SYMTYPE", "LNKTYPE", "CHRTYPE", "BLKTYPE", "FIFOTYPE", "GNUTYPE_SPARSE"])
def test_links_devices_and_holes_are_refused(kind: str, tmp_path: Path, refused) -> None:
    path = odd(tmp_path / "bad.tar", type=getattr(tarfile, kind), linkname="/etc/passwd")
    with refused("'a.png' in bad.tar", "is a link, a device"):
        source_of(str(path))


def test_what_is_huge_is_refused_before_it_is_read(tmp_path: Path, refused) -> None:
    info = tarfile.TarInfo("a.png")
    info.size = MAX_BYTES + 1
    (tmp_path / "huge.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(5000))
    info.size = 1 << 40
    (tmp_path / "vast.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT))
    info.size, info.type = 1 << 33, tarfile.GNUTYPE_LONGNAME
    (tmp_path / "long.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT))
    odd(tmp_path / "pax.tar", format=tarfile.PAX_FORMAT, pax_headers={"size": str(1 << 40)})
    for name, part in {
        "huge": "more than 64 MiB",
        "vast": "more than 64 MiB",
        "long": "more than",
        "pax": "huge",
    }.items():
        with refused(f"{name}.tar", part):
            source_of(str(tmp_path / f"{name}.tar"))
    path = pack(tmp_path / "text.tar", [("a.png", png(1)), ("a.txt", b"x" * ((1 << 20) + 1))])
    with refused("'a.txt' in text.tar", "more than 1048576"):
        source_of(str(path))


@pytest.mark.slow
def test_a_bomb_of_a_thousand_to_one_is_stopped_and_costs_no_memory(tmp_path: Path) -> None:
    tar_bomb(tmp_path / "bomb.tar.gz", 8, 40, level=9)
    code = """if True:
        import resource, sys
        from pipeline.data.sources import WebDataset
        peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        before = peak()
        try: WebDataset(sys.argv[1]).pieces()
        except ValueError as error: assert "bomb" in str(error), error
        else: sys.exit("inflated it all")
        print((peak() - before) // 1024)"""
    command = [sys.executable, "-c", code, str(tmp_path / "bomb.tar.gz")]
    assert int(subprocess.run(command, capture_output=True, text=True, check=True).stdout) < 30  # MiB of 320


def test_archives_that_are_damaged_or_empty_are_refused(tmp_path: Path, refused) -> None:
    whole = pack(tmp_path / "w.tar", [(f"{i}.png", png(i, (90, 90), "RGB")) for i in range(9)]).read_bytes()
    packed = pack(tmp_path / "w.tgz", [(f"{i}.png", png(i, (90, 90), "RGB")) for i in range(9)]).read_bytes()
    hole = whole[:1024] + b"\xff" * 512 + whole[1536:]
    flat = packed[: len(packed) // 2] + b"\xff" * 20 + packed[len(packed) // 2 + 20 :]
    files = {"e.tar": b"", "t.tar": b"text", "z.tar": bytes(2048), "h.tar": whole[:1300], "m.tar": hole}
    files |= {"i.tar": whole[:700], "e.tgz": b"", "t.tgz": b"text", "h.tgz": packed[:-40], "f.tgz": flat}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        with refused(name):
            WebDataset(str(tmp_path / name)).pieces()


def test_labels_and_captions_that_cannot_be_read_name_the_sample(tmp_path: Path, refused) -> None:
    for members, part in {
        (("a.png", png(1)), ("a.cls", b"cat")): "label, caption or .json",
        (("a.png", png(1)), ("a.cls", b"-7")): "label -7",
        (("a.png", png(1)), ("a.json", b"[1]")): "no object",
        (("a.png", png(1)), ("a.json", b'{"label": "cat"}')): "label 'cat'",
        (("a.png", png(1)), ("a.json", b"[" * 100_000)): "cannot be read",
        (("a.png", png(1)), ("a.txt", b"\xff\xfe")): "cannot be read",
    }.items():
        source = WebDataset(str(pack(tmp_path / "x.tar", list(members))), captions=True)
        with refused("a in x.tar", part):
            list(source.read(source.pieces()[0]))
    with refused("would start a program"):
        WebDataset("pipe:curl http://host/x.tar").pieces()
    (tmp_path / "none").mkdir()
    with refused("has no archives"):
        WebDataset(str(tmp_path / "none")).pieces()


def test_an_image_with_a_dot_in_its_name_is_told_rather_than_passed_over(tmp_path: Path, refused) -> None:
    aside = [("0.png", png(1)), ("0.seg.png", png(2)), ("0.v2.json", b"{}")]
    assert len(list(all_of(WebDataset(str(pack(tmp_path / "a.tar", aside)))))) == 1
    with refused("img_1.5.png in b.tar has a dot in its name", "name it without") as _:
        WebDataset(str(pack(tmp_path / "b.tar", [("img_1.5.png", png(1))]))).pieces()


def test_a_mask_that_is_no_png_is_refused(tmp_path: Path, refused) -> None:
    with refused("s/0.mask.jpg in m.tar is named as a mask", ".mask.png"):
        WebDataset(str(pack(tmp_path / "m.tar", [("s/0.jpg", png(1)), ("s/0.mask.jpg", png(2))]))).pieces()


def all_of(source: WebDataset):
    """Every sample."""
    return (raw for piece in source.pieces() for raw in source.read(piece))
