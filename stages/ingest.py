"""Ingest: anybody's images, decoded, checked, brought to one shape and packed into shards.

A file that cannot be used is handled by `on_bad`: `FAIL` stops at the first; `SKIP` leaves it out; `QUARANTINE` keeps
its bytes under `quarantine/` as well. What was left out stands in `skipped.json`; more than `budget` of it is an error.
Files, members of tars and arrays that are not read at all are counted in `dataset.json`, by kind, under "not read".
What is held of a set while it is made are its pieces and some numbers for each, never its ids or its rows.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Any, ClassVar

import numpy as np
from fsspec.core import url_to_fs

from pipeline.data.damaged import EMBEDDING, OPERATOR, Known, observed, operator_row
from pipeline.data.images import BadImage, Framing, Resize, read_image
from pipeline.data.listing import listed, shown
from pipeline.data.manifest import Manifest
from pipeline.data.records import Examples
from pipeline.data.sources import Piece, Source
from pipeline.data.unique import check_unique
from pipeline.data.windows import Windows
from pipeline.engine.shards import Report, map_shards, report_of
from pipeline.engine.tasks import sweep
from pipeline.graph import Context, Stage
from pipeline.place import Place


class OnBad(Enum):
    """What to do with a file that is no usable image."""

    FAIL = "fail"
    SKIP = "skip"
    QUARANTINE = "quarantine"


@dataclass(frozen=True)
class Ingest(Stage):
    """Rows (id, image, label) of one shape from a source; no id occurs twice.

    Rows keep their captions where the source has them, and as operator columns the mask and sigma of images that were
    damaged before they arrived: those are taken as they are, and a resize of them is refused. So it is of a set that
    is declared to have been seen through one operator, whose rows are y = A x0 + noise.

    Args:
        source: where the images are.
        shape: (C, H, W) of every row, or (C, T, H, W) of clips of T frames; C = 1 is grey, 3 is RGB.
        resize: what happens to an image of another size.
        grey: whether colour images may become grey ones of a set with C = 1; refused otherwise.
        labels: whether every example must have a label.
        on_bad: what happens to a file that is no usable image.
        budget: the largest share of the files that may be left out, in [0, 1].
        snapshot: what `snapshot(source)` said when the step was planned, so that changed files are read again.
        seen_through: what all images went through before they arrived, the same for each, as a
            `Declared(corruption, shape)` of this shape.
        embedding: how many numbers the source's embedding of an image has, which becomes the operator column
            "embedding", zeros where a row has none; 0: none is taken.
    """

    version: ClassVar[int] = 2  # 2: shards.npy instead of lists of ids and shards

    source: Source
    shape: tuple[int, ...]
    resize: Resize = Resize.FAIL
    grey: bool = False
    labels: bool = False
    on_bad: OnBad = OnBad.FAIL
    budget: float = 0.01
    snapshot: str = ""
    seen_through: Known | None = None
    embedding: int = 0

    def __post_init__(self) -> None:
        if len(self.shape) not in (3, 4) or self.shape[0] not in (1, 3) or min(self.shape) < 1:
            raise ValueError(f"shape is {self.shape}: give (1 or 3, height, width), or (1 or 3, frames, height, width)")
        if not 0 <= self.budget <= 1:
            raise ValueError(f"budget is {self.budget}: give the share of files that may be left out, from 0 to 1")
        if self.embedding < 0:
            raise ValueError(f"embedding is {self.embedding}: give how many numbers an image's has, or 0")
        if self.seen_through is not None and self.seen_through.shape != self.shape:
            raise ValueError(
                f"shape is {self.shape} and seen_through is of {self.seen_through.shape}: give one for both"
            )

    def run(self, at: Context) -> None:
        pieces, known = self.source.pieces(), self.seen_through
        modes, damage, left_out = Counter[str](), set[str](), np.zeros(len(pieces), np.int64)

        def heed(report: Report) -> None:
            modes.update(report["modes"])
            damage.update(report.get("damage", ()))
            left_out[report["piece"]] = len(report["skipped"])

        counts = map_shards(partial(_ingest, self, at.out), pieces, at, heed)
        rows, skipped = int(counts.sum()), int(left_out.sum())
        first = _list_skipped(at.out, np.flatnonzero(left_out).tolist())
        if not rows:
            raise ValueError(f"none of the {skipped} files could be used; the first: {first}")
        if skipped > self.budget * (rows + skipped):
            raise ValueError(
                f"{skipped} of {rows + skipped} files had to be left out, over the budget of "
                f"{self.budget:.1%}; mend them or raise budget; the first: {first}"
            )
        more: dict[str, Any] = {"skipped": skipped, "modes": dict(sorted(modes.items()))}
        if known is not None:
            damage.add(OPERATOR)
            more |= known.told()
        more |= {"damage": sorted(damage)} if damage else {}
        more |= {"not read": unread} if (unread := self.source.unread()) else {}
        manifest = Manifest.of(counts, self.shape, "uint8" if known is None or known.uint8 else "float16", more)
        check_unique(at.out, manifest, partial(sweep, at=at))
        manifest.write(at.out)


def notes(told: Mapping[str, Any]) -> list[str]:
    """What a person should know of an ingested set, each in one sentence, from its `dataset.json`."""
    said, rows, skipped, unread = [], told["rows"], told["skipped"], told.get("not read", {})
    if skipped:
        said.append(f"{skipped} of {rows + skipped} images were left out: skipped.json says which and why.")
    if unread:
        said.append(f"What lies beside the images and was not read: {listed(unread)}.")
    return said


def image_shape(source: Source, size: int | None = None, colour: bool | None = None) -> tuple[int, int, int]:
    """(C, H, W) of rows from a source of still images: as its first image is, where nothing else is said.

    Args:
        source: where the images are.
        size: the side of square images.
        colour: whether C is 3 or 1.

    Raises: ValueError: the source gives clips.
    """
    if isinstance(source, Windows):
        first = shown(source.urls()[0])
        raise ValueError(f"{first} gives clips of {source.frames} frames, and this recipe learns from still images.")
    return _frame_shape(source, size, colour)


def row_shape(source: Source, size: int | None = None, colour: bool | None = None) -> tuple[int, ...]:
    """The same of any source: (C, T, H, W) of one that gives clips of T frames."""
    channels, *sides = _frame_shape(source, size, colour)
    return (channels, *((source.frames,) if isinstance(source, Windows) else ()), *sides)


def _frame_shape(source: Source, size: int | None, colour: bool | None) -> tuple[int, int, int]:
    mode, (height, width) = source.peek()
    grey = mode == "L" if colour is None else not colour
    return (1 if grey else 3, *((height, width) if size is None else (size, size)))


def snapshot(source: Source) -> str:
    """A digest of the names, sizes and times of a source's files; it changes when they do. "" for built-in data."""
    urls = source.urls()
    digest = hashlib.sha256()
    for url in urls:
        fs, root = url_to_fs(url)
        for path, info in sorted(fs.find(root, detail=True).items()):
            stamp = info.get("ETag") or info.get("etag") or info.get("mtime") or info.get("LastModified") or ""
            digest.update(f"{path[len(root) :]}\0{info.get('size')}\0{stamp}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:20] if urls else ""


def _ingest(stage: Ingest, out: Place, piece: Piece) -> tuple[Examples | None, dict[str, Any]]:
    ids: dict[str, str] = {}  # and what errors call the image
    images, labels, captions, rows, vectors, skipped, modes = [], [], [], [], [], [], Counter[str]()
    known = stage.seen_through
    mode, fit = "L" if stage.shape[0] == 1 else "RGB", Framing((stage.shape[-2], stage.shape[-1]), stage.resize)
    for raw in stage.source.read(piece):
        try:
            pixels, head = read_image(raw.image, raw.name, mode, fit)
            if pixels.shape != stage.shape:
                raise BadImage(f"{raw.name} gives {_said(pixels.shape)} where {_said(stage.shape)} is asked for.")
            row = operator_row(raw.damage, head, stage.shape, raw.name, known is not None)
            vector = _embedding(raw.embedding, stage.embedding, raw.name)
        except BadImage as error:
            if stage.on_bad is OnBad.FAIL:
                reason = str(error).rstrip(".")
                raise ValueError(
                    f"{reason}; leave such files out with --on-bad skip, or keep copies with --on-bad quarantine"
                ) from error
            skipped.append({"id": raw.id, "why": str(error)})
            if stage.on_bad is OnBad.QUARANTINE and isinstance(raw.image, bytes | tuple | np.ndarray):
                skipped[-1]["kept"] = f"quarantine/{hashlib.sha256(raw.id.encode()).hexdigest()[:20]}"
                out.write(skipped[-1]["kept"], _bytes(raw.image))
            continue
        if mode == "L" and head.mode == "RGB" and not stage.grey:
            raise ValueError(f"{raw.name} is in colour and the set is grey: take all in colour, or make all grey")
        if stage.labels and raw.label is None:
            raise ValueError(f"{raw.name} has no label: give every image one, or ask for no labels")
        if raw.id in ids:
            raise ValueError(f"{raw.name} has the id '{shown(raw.id)}', as {ids[raw.id]} has: make them differ")
        ids[raw.id] = raw.name
        images.append(observed(pixels, row) if known is None else known.y(pixels))
        captions.append(raw.caption)
        rows.append(row)
        vectors.append(vector)
        modes[head.stored] += 1
        labels.append(-1 if raw.label is None else raw.label)
    report = {"skipped": skipped, "modes": dict(modes)}
    if not ids:
        return None, report
    operator = {name: np.stack([np.asarray(row[name]) for row in rows]) for name in rows[0]}
    caption = () if captions[0] is None else tuple(captions)
    report |= {"damage": sorted(operator)} if operator else {}
    operator |= {EMBEDDING: np.stack(vectors)} if stage.embedding else {}
    return Examples(tuple(ids), np.stack(images), np.array(labels, dtype=np.int64), operator, caption), report


def _embedding(found: Any, size: int, name: str) -> np.ndarray:
    """Float32 (size,), zeros of None. Raises BadImage: these are no `size` finite numbers."""
    if found is None or not size:
        return np.zeros(size, np.float32)
    vector = np.asarray([np.nan if one is None else one for one in found], np.float32)
    if vector.shape != (size,):
        raise BadImage(f"The embedding of {name} has {vector.size} numbers where {size} are asked for.")
    if not np.isfinite(vector).all():
        raise BadImage(f"The embedding of {name} has numbers that are missing or not finite.")
    return vector


def _list_skipped(out: Place, pieces: list[int]) -> str:
    """Writes `skipped.json`, one piece after the other; gives the first reason there is."""
    found = (bad for i in pieces for bad in report_of(out, i)["skipped"])
    first, before = "", b"["
    with out.writing("skipped.json") as file:
        for bad in found:
            first = first or bad["why"]
            file.write(before + b"\n" + json.dumps(bad).encode())
            before = b","
        file.write(b"\n]" if pieces else b"[]")
    return first


def _said(shape: tuple[int, ...]) -> str:
    return f"a clip of {shape[1]} frames" if len(shape) == 4 else "a single image"


def _bytes(image: bytes | np.ndarray | tuple[bytes | np.ndarray, ...]) -> bytes:
    frames = image if isinstance(image, tuple) else (image,)
    return b"".join(frame if isinstance(frame, bytes) else np.ascontiguousarray(frame).tobytes() for frame in frames)
