"""Masks of frames, or one for all frames of a film, arrive with the clips whose frames they hide."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from pipeline.data.images import BadImage
from pipeline.data.records import Examples
from pipeline.data.sources import Clips, source_of
from pipeline.physics.masks import PixelMask
from stages.ingest import OnBad

RNG = np.random.default_rng(0)
FILMS = {name: RNG.integers(0, 256, (7, 4, 6)).astype(np.uint8) for name in "ab"}
SEEN = {name: RNG.random((7, 4, 6)) < 0.5 for name in "ab"}
SHAPE = (1, 2, 4, 6)  # clips of 2 frames, 2 apart: of the frames 0, 2 and 4, 6


def png(pixels: np.ndarray, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png", **options)
    return buffer.getvalue()


def white(seen: np.ndarray) -> bytes:
    return png(seen.astype(np.uint8) * 255)


def stored(kind: str, root: Path) -> Path:
    """The films as parquet, as folders with a mask a frame, or with one for all of them."""
    if kind == "parquet":
        table = {
            "image": [png(frame) for film in FILMS.values() for frame in film],
            "mask": [white(frame) for film in SEEN.values() for frame in film],
            "sigma": [0.25] * 7 + [0.5] * 7,
            "clip": ["a"] * 7 + ["b"] * 7,
        }
        pq.write_table(pa.table(table), root / "x.parquet")
        return root / "x.parquet"
    for name, film in FILMS.items():
        (root / name).mkdir()
        for t, frame in enumerate(film):
            (root / name / f"{t}.png").write_bytes(png(frame))
            if kind == "folders":
                (root / name / f"{t}.mask.png").write_bytes(white(SEEN[name][t]))
        if kind == "one mask":
            (root / f"{name}.mask.png").write_bytes(white(SEEN[name][0]))
    if kind == "one mask":  # and a film in a file
        first, *rest = [Image.fromarray(frame) for frame in FILMS["b"]]
        first.save(root / "b.gif", save_all=True, append_images=rest, duration=40)
        for path in sorted((root / "b").iterdir()):
            path.unlink()
        (root / "b").rmdir()
    return root


def clips(films: dict[str, np.ndarray]) -> np.ndarray:
    return np.stack([film[start : start + 3 : 2] for film in films.values() for start in (0, 4)])


def check(rows: Examples, seen: np.ndarray) -> None:
    np.testing.assert_array_equal(rows.images[:, 0], np.where(seen, clips(FILMS), 128))
    A = PixelMask(0.0).at(rows.operator, rows.shape)
    np.testing.assert_array_equal(A(torch.ones(4, *rows.shape)).numpy()[:, 0] > 0, seen)


@pytest.mark.parametrize("kind", ["parquet", "folders", "one mask"])
def test_masks_are_those_of_the_frames_that_a_clip_shows(kind: str, tmp_path: Path, ingested, monkeypatch) -> None:
    monkeypatch.setattr("pipeline.data.windows.PIECE", 4)  # pieces of two clips, the second film in its own
    source = source_of(str(stored(kind, tmp_path)), frames=2, stride=2)
    assert len(source.pieces()) > 1
    rows = ingested(source, (3, *SHAPE[1:]) if kind == "one mask" else SHAPE)  # GIFs have colours
    same = {name: np.broadcast_to(seen[0], seen.shape) for name, seen in SEEN.items()}
    check(rows, clips(same if kind == "one mask" else SEEN))
    assert set(rows.operator) == ({"mask", "sigma"} if kind == "parquet" else {"mask"})
    if kind == "parquet":
        assert rows.operator["sigma"].tolist() == [0.25, 0.25, 0.5, 0.5]


def test_a_sigma_beside_a_film_is_that_of_its_clips(tmp_path: Path, ingested) -> None:
    root = stored("folders", tmp_path)
    for name, sigma in (("a", "0.25"), ("b", "0.5")):
        (root / f"{name}.sigma").write_text(sigma)
    source = source_of(str(root), frames=2, stride=2)
    assert source == Clips(str(root), ("mask", "sigma"), frames=2, stride=2)
    rows = ingested(source, SHAPE)
    check(rows, clips(SEEN))
    assert rows.operator["sigma"].tolist() == [0.25, 0.25, 0.5, 0.5]
    assert source.unread() == {}


def change(table: dict[str, list], column: str, value: object) -> dict[str, list]:
    return table | {column: [value if i == 2 else old for i, old in enumerate(table[column])]}


WRONG = {
    "a frame without a mask": ("mask", None, "Frame 1 of the mask of clip 0 of a in x.parquet is missing"),
    "a mask of another size": (
        "mask",
        white(np.ones((6, 4))),
        "Frame 1 of the mask of clip 0 of a in x.parquet is 6x4 where the image is 4x6",
    ),
    "another sigma": ("sigma", 0.75, r"clip 0 of a in x.parquet has sigma \(0.25, 0.75\)"),
    "a frame to be turned": ("image", None, "to be turned"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_right_spoils_only_its_clip(case: str, tmp_path: Path, ingested) -> None:
    column, value, part = WRONG[case]
    stored("parquet", tmp_path)
    if column == "image":
        exif = Image.Exif()
        exif[0x0112] = 3
        value = png(FILMS["a"][2], exif=exif.tobytes())
    table = change(pq.read_table(tmp_path / "x.parquet").to_pydict(), column, value)
    pq.write_table(pa.table(table), tmp_path / "x.parquet")
    source = source_of(str(tmp_path / "x.parquet"), frames=2, stride=2)
    with pytest.raises(ValueError, match=part) as caught:
        ingested(source, SHAPE)
    if column != "image":  # turning is asked for by whoever stores it, and refused for all
        assert isinstance(caught.value.__cause__, BadImage)
        assert ingested(source, SHAPE, on_bad=OnBad.SKIP).ids == ("x/a-1", "x/b-0", "x/b-1")


def test_masks_beside_films_are_no_images_and_none_may_be_missing(tmp_path: Path, ingested) -> None:
    root = stored("folders", tmp_path)
    (root / "b" / "4.mask.png").unlink()
    source = source_of(str(root), frames=2, stride=2)
    with pytest.raises(ValueError, match=r"Frame 0 of the mask of clip 1 of b is missing"):
        ingested(source, SHAPE)
    assert ingested(source, SHAPE, on_bad=OnBad.SKIP).ids == ("a-0", "a-1", "b-0")
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "x.mp4").write_bytes(b"")
    (tmp_path / "videos" / "x.mask.png").write_bytes(white(SEEN["a"][0]))
    assert source_of(str(tmp_path / "videos")) == Clips(str(tmp_path / "videos"), ("mask",), frames=16)
