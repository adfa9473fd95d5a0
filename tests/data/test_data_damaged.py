"""What is known of damage and what is written beside an image arrive with it, bit by bit, and nothing is made up."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from pipeline.data.damaged import observed, operator_row
from pipeline.data.images import BadImage, Header, Resize
from pipeline.data.records import Examples
from pipeline.data.shards import read_shard, write_shard
from pipeline.data.sources import Arrays, Folder, Parquet, source_of
from pipeline.physics.masks import PixelMask
from stages.ingest import OnBad

RNG = np.random.default_rng(0)
U = RNG.integers(0, 256, (6, 8, 7)).astype(np.uint8)
SEEN = RNG.random((6, 8, 7)) < 0.5
SIGMA = np.linspace(0.1, 0.6, 6).astype(np.float32)


def png(pixels: np.ndarray, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png", **options)
    return buffer.getvalue()


def stored(kind: str, tmp_path: Path) -> str:
    """The same six damaged images, as each kind of collection keeps them."""
    if kind == "npz":
        np.savez(tmp_path / "x.npz", images=U, mask=SEEN, sigma=SIGMA)
    elif kind == "folder":
        for i in range(6):
            (tmp_path / f"{i}.png").write_bytes(png(U[i]))
            (tmp_path / f"{i}.mask.png").write_bytes(png(SEEN[i].astype(np.uint8) * 255))
            (tmp_path / f"{i}.sigma").write_text(f"{SIGMA[i]}\n")
        return str(tmp_path)
    else:
        pictures = [png(seen.astype(np.uint8) * 255) for seen in SEEN]
        masks = {
            "bytes": pictures,
            "struct": [{"bytes": data, "path": "../../etc/passwd"} for data in pictures],
            "lists": SEEN.tolist(),
            "numbers": SEEN.astype(np.uint8).tolist(),
        }[kind]
        table = {"image": [png(u) for u in U], "mask": masks, "sigma": SIGMA}
        pq.write_table(pa.table(table), tmp_path / "x.parquet")
    return str(tmp_path / ("x.npz" if kind == "npz" else "x.parquet"))


@pytest.mark.parametrize("kind", ["npz", "folder", "bytes", "struct", "lists", "numbers"])
def test_masks_and_sigmas_arrive_and_what_was_hidden_is_forgotten(kind: str, tmp_path: Path, ingested) -> None:
    rows = ingested(source_of(stored(kind, tmp_path)), (1, 8, 7))
    np.testing.assert_array_equal(rows.images[:, 0], np.where(SEEN, U, 128))
    np.testing.assert_array_equal(rows.operator["sigma"], SIGMA)
    A = PixelMask(0.0).at(rows.operator, (1, 8, 7))  # the masks are kept as those that are drawn here
    np.testing.assert_array_equal(A(torch.ones(6, 1, 8, 7)).numpy()[:, 0] > 0, SEEN)


@pytest.mark.parametrize("shape", [(1, 8, 7), (3, 8, 7), (3, 4, 8, 7)])
def test_a_hidden_pixel_is_forgotten_in_every_channel_and_frame(shape) -> None:
    head = Header("RGB" if shape[0] == 3 else "L", (8, 7), "", False)
    row = operator_row({"mask": SEEN[0]}, head, shape, "x")
    seen = PixelMask(0.0).at({"mask": np.asarray(row["mask"])[None]}, shape)(torch.ones(1, *shape))[0].numpy() > 0
    assert (seen == SEEN[0]).all()
    pixels = RNG.integers(0, 256, shape).astype(np.uint8)
    np.testing.assert_array_equal(observed(pixels, row), np.where(seen, pixels, 128))
    assert observed(pixels, {}) is pixels


EXIF = Image.Exif()
EXIF[0x0112] = 3
SAID = {
    "a truth for sigma": ({"sigma": True}, "has sigma True"),
    "a text for sigma": ({"sigma": "0.5"}, "has sigma 0.5"),
    "no mask": ({"mask": None}, "The mask of x is missing"),
    "a truth for a mask": ({"mask": True}, "The mask of x is no array"),
    "a mask of three axes": ({"mask": SEEN[:1]}, "The mask of x is no array"),
    "a mask of fractions": ({"mask": SEEN[0] * 0.5}, "The mask of x is no array"),
    "a mask of some number": ({"mask": SEEN[0] * -1}, "The mask of x is no array"),
    "a mask to be turned": ({"mask": png(U[0], exif=EXIF.tobytes())}, "save it upright"),
}


@pytest.mark.parametrize("case", SAID)
def test_what_is_no_mask_and_no_sigma_is_said_to_be_none(case: str) -> None:
    damage, part = SAID[case]
    with pytest.raises(BadImage, match=part):
        operator_row(damage, Header("L", (8, 7), "", False), (1, 8, 7), "x")


def test_a_pixel_of_a_mask_is_seen_from_128_on_and_a_number_of_one_unless_it_is_0() -> None:
    grey = np.array([[0, 1, 127], [128, 129, 255]], np.uint8)
    for mask, expected in ((png(grey), grey > 127), (grey, grey > 0), (grey.tolist(), grey > 0)):
        row = operator_row({"mask": mask}, Header("L", (2, 3), "", False), (1, 2, 3), "x")
        assert np.unpackbits(row["mask"], count=6).tolist() == expected.ravel().tolist()
    coloured = png(np.array([[[255, 0, 0], [0, 255, 0]]], np.uint8))  # red is darker than green
    row = operator_row({"mask": coloured}, Header("L", (1, 2), "", False), (1, 1, 2), "x")
    assert np.unpackbits(row["mask"], count=2).tolist() == [0, 1]


def test_without_being_asked_no_source_takes_more_than_the_image(tmp_path: Path, ingested) -> None:
    for kind in ("npz", "bytes"):
        path = stored(kind, tmp_path)
        source = Arrays(path) if kind == "npz" else Parquet(path)
        rows = ingested(source, (1, 8, 7))
        assert (rows.operator, rows.caption) == ({}, ())
        assert ingested(source, (1, 16, 14), resize=Resize.STRETCH).shape == (1, 16, 14)


BAD = {
    "sigma nan": (None, float("nan"), "has sigma nan"),
    "sigma inf": (None, float("inf"), "has sigma inf"),
    "sigma 0": (None, 0.0, "has sigma 0.0"),
    "sigma < 0": (None, -0.5, "has sigma -0.5"),
    "sigma vanishing": (None, 1e-60, "has sigma 1e-60"),
    "sigma missing": (None, None, "has sigma None"),
    "mask all hidden": (png(np.zeros((8, 7), np.uint8)), 0.5, "hides every pixel"),
    "mask 0/1 in 8 bits": (png(np.ones((8, 7), np.uint8)), 0.5, "hides every pixel"),
    "mask of another size": (png(np.full((7, 8), 255, np.uint8)), 0.5, "is 7x8 where the image is 8x7"),
    "mask no image": (b"<html>", 0.5, "is not an image"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_mask_or_sigma_that_cannot_be_right_spoils_only_its_row(case: str, tmp_path: Path, ingested) -> None:
    mask, sigma, part = BAD[case]
    good = png(np.full((8, 7), 255, np.uint8))
    table = {"image": [png(u) for u in U[:3]], "mask": [good, mask or good, good], "sigma": [0.5, sigma, 0.5]}
    pq.write_table(pa.table(table), tmp_path / "x.parquet")
    source = source_of(str(tmp_path / "x.parquet"))
    with pytest.raises(ValueError, match=part) as caught:
        ingested(source, (1, 8, 7))
    assert "row 1 of x.parquet" in str(caught.value)
    assert isinstance(caught.value.__cause__, BadImage)
    assert ingested(source, (1, 8, 7), on_bad=OnBad.SKIP).ids == ("x-0", "x-2")


def test_nothing_that_would_falsify_mask_or_noise_is_done(tmp_path: Path, ingested, refused) -> None:
    source = source_of(stored("bytes", tmp_path))
    for resize in (Resize.CROP, Resize.STRETCH):
        with refused("row 0 of x.parquet was damaged", "8x7 pixels", "16x14"):
            ingested(source, (1, 16, 14), resize=resize)
    exif = Image.Exif()
    exif[0x0112] = 3
    table = {"image": [png(U[0], exif=exif.tobytes())], "sigma": [0.5]}
    pq.write_table(pa.table(table), tmp_path / "turned.parquet")
    with refused("to be turned"):
        ingested(source_of(str(tmp_path / "turned.parquet")), (1, 8, 7))
    table = {"image": [png(np.repeat(U[0][..., None], 3, 2))], "sigma": [0.5]}
    pq.write_table(pa.table(table), tmp_path / "colour.parquet")
    with refused("damaged in colour"):
        ingested(source_of(str(tmp_path / "colour.parquet")), (1, 8, 7), grey=True)


def test_damage_that_does_not_fit_the_images_is_refused_with_its_name(tmp_path: Path, ingested, refused) -> None:
    np.savez(tmp_path / "m.npz", images=U, mask=SEEN[:5])
    with refused("mask in", "m.npz", "bools (6, 8, 7)"):
        source_of(str(tmp_path / "m.npz")).pieces()
    np.savez(tmp_path / "s.npz", images=U, sigma=np.array(["a"] * 6))
    with refused("sigma in", "floats (6,)"):
        source_of(str(tmp_path / "s.npz")).pieces()
    np.save(tmp_path / "a.npy", U)
    with refused("needs an .npz"):
        Arrays(str(tmp_path / "a.npy"), sigma="sigma").pieces()
    ragged = {"image": [png(U[0])], "mask": [[[True], [True, False]]]}
    pq.write_table(pa.table(ragged), tmp_path / "r.parquet")
    with pytest.raises(ValueError, match=r"of row 0 of r\.parquet is no array"):
        ingested(source_of(str(tmp_path / "r.parquet")), (1, 8, 7))
    folder = tmp_path / "f"
    folder.mkdir()
    (folder / "a.png").write_bytes(png(U[0]))
    (folder / "a.sigma").write_text("loud")
    with pytest.raises(ValueError, match=r"f/a\.png has sigma loud"):
        ingested(source_of(str(folder)), (1, 8, 7))
    (folder / "a.sigma").write_text("0.5")
    (folder / "b.png").write_bytes(png(U[1]))
    with pytest.raises(ValueError, match=r"f/b\.png has sigma None"):
        ingested(source_of(str(folder)), (1, 8, 7))


@pytest.mark.parametrize("channels", [(), (1,), (3,)])
def test_floats_that_a_mask_hides_may_be_anything(channels, tmp_path: Path, ingested) -> None:
    u = np.broadcast_to(U.reshape(6, 8, 7, *[1] * len(channels)), (6, 8, 7, *channels))
    v = u / 255.0
    hidden = np.argwhere(~SEEN[2])
    for place, value in zip(hidden, (np.nan, np.inf, -7.0)):
        v[2, *place] = value
    np.savez(tmp_path / "x.npz", images=v, mask=SEEN)
    rows = ingested(source_of(str(tmp_path / "x.npz")), (3 if channels == (3,) else 1, 8, 7))
    np.testing.assert_array_equal(rows.images, np.where(SEEN[:, None], U[:, None], 128).repeat(rows.shape[0], 1))
    v[2, *np.argwhere(SEEN[2])[0]] = np.nan
    np.savez(tmp_path / "x.npz", images=v, mask=SEEN)
    with pytest.raises(ValueError, match=r"row 2 of .* has values that are not finite"):
        ingested(source_of(str(tmp_path / "x.npz")), (3 if channels == (3,) else 1, 8, 7))


@pytest.mark.parametrize("name", ["0.mask.jpg", "0.MASK.png", "0.mask.PNG", "0.mask.webp", "0.Sigma", "d/1.mask.JPEG"])
@pytest.mark.parametrize("frames", [None, 1])
def test_what_is_named_as_a_mask_or_sigma_is_read_as_one_or_refused(name, frames, tmp_path, refused) -> None:
    for one in ("0.png", "1.png", "d/1.png"):
        (tmp_path / one).parent.mkdir(exist_ok=True)
        (tmp_path / one).write_bytes(png(U[0]))
    (tmp_path / name).write_bytes(png(U[0]))
    with refused(name, ".mask.png", "rename"):
        source_of(str(tmp_path), frames=frames).pieces()


def test_a_mask_is_no_image_whoever_asks_for_one(tmp_path: Path) -> None:
    folder = stored("folder", tmp_path)
    names = tuple(f"{i}.png" for i in range(6))
    assert [piece.files for piece in Folder(folder).pieces()] == [names]
    assert [piece.files for piece in Folder(folder, damage=("mask",)).pieces()] == [names]


@pytest.mark.parametrize("name", ["caption", "text"])
def test_captions_come_from_a_column_or_from_beside_the_image(name: str, tmp_path: Path, ingested) -> None:
    table = {"image": [png(u) for u in U], name: ["a", "ü", None, "", "e\nf", "g"]}
    pq.write_table(pa.table(table), tmp_path / "x.parquet")
    source = source_of(str(tmp_path / "x.parquet"))
    assert source == Parquet(str(tmp_path / "x.parquet"), caption=name)
    assert ingested(source, (1, 8, 7)).caption == ("a", "ü", "", "", "e\nf", "g")
    folder = tmp_path / "f"
    folder.mkdir()
    for i in range(3):
        (folder / f"{i}.png").write_bytes(png(U[i]))
    assert source_of(str(folder)) == Folder(str(folder))
    (folder / "readme.txt").write_text("of no image")
    assert source_of(str(folder)) == Folder(str(folder))
    (folder / "1.txt").write_text("one ü\n")
    source = source_of(str(folder))
    assert source == Folder(str(folder), captions=True)
    assert ingested(source, (1, 8, 7)).caption == ("", "one ü", "")


def test_captions_survive_shards_and_their_absence_leaves_no_trace() -> None:
    plain = Examples(("a", "b"), U[:2], np.array([1, -1]))
    told = Examples(plain.ids, plain.images, plain.label, caption=("one", ""))
    files = []
    for examples in (plain, told):
        file = io.BytesIO()
        write_shard(file, examples)
        files.append(file)
    assert pq.read_schema(files[0]).names == ["id", "image", "label"]
    assert b"caption" not in files[0].getvalue()
    assert read_shard(files[0]).caption == ()
    assert read_shard(files[1]).caption == ("one", "")
    assert told.take([1, 0]).caption == ("", "one")
    assert Examples.concat([told, Examples(("c",), U[2:3], caption=("three",))]).caption == ("one", "", "three")
    with pytest.raises(ValueError, match="some have none"):
        Examples.concat([told, Examples(("c",), U[2:3])])
    with pytest.raises(ValueError, match="2 ids and 1 captions"):
        Examples(plain.ids, plain.images, caption=("one",))
