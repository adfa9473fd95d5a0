"""Idx: the format of MNIST, an idx3-ubyte file of images and an idx1-ubyte file of labels, plain or gzipped.

A big-endian header (two zeros, the type 8 = bytes, the number of axes, the length of each axis) and then the bytes:
LeCun, Cortes and Burges, "The MNIST database" (1998). The header is believed only as far as the file is long; of a
gzipped file, whose length is not known, no further than deflate can inflate it (1,032 times), and row by row.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, cast

import numpy as np

from pipeline.data.images import MAX_PIXELS
from pipeline.data.listing import locate, reading, shown
from pipeline.data.source import Piece, Raw, Source, checked_label, spans

DEFLATE = 1032  # bytes out for a byte in, at most


@dataclass(frozen=True)
class Idx(Source):
    """Grey images (N, H, W) of the idx3-ubyte file `url`, which may end in .gz.

    `labels` is the idx1-ubyte file; None means that of the usual name beside it where there is one ("images-idx3" as
    "labels-idx1"), "" none.
    """

    url: str
    labels: str | None = None

    def cut(self) -> Iterator[Piece]:
        """Ranges of rows."""
        with _opened(self.url, 3) as (_, shape):
            count = shape[0]
        labels = self._labels()
        if labels:
            with _opened(labels, 1) as (_, (other,)):
                if other != count:
                    raise ValueError(f"{shown(labels)} has {other} labels for the {count} images of {shown(self.url)}.")
        yield from (Piece(start=a, stop=b) for a, b in spans([count]))

    def read(self, piece: Piece) -> Iterator[Raw]:
        """The rows of one range."""
        stem = PurePosixPath(locate(self.url)[1]).name.removesuffix(".gz")
        labels, span = self._labels(), (piece.start, piece.stop)
        numbers = [row[()] for row in _rows(labels, 1, *span)] if labels else []
        for i, pixels in enumerate(_rows(self.url, 3, *span)):
            name = f"row {piece.start + i} of {shown(self.url)}"
            yield Raw(
                f"{stem}-{piece.start + i}", pixels, checked_label(int(numbers[i]), name) if labels else None, name
            )

    def urls(self) -> tuple[str, ...]:
        """The images, and the labels where there are any."""
        labels = self._labels()
        return (self.url, labels) if labels else (self.url,)

    def _labels(self) -> str:
        if self.labels is not None:
            return self.labels
        folder, slash, file = self.url.rpartition("/")
        stem = file.removesuffix(".gz").replace("images", "labels").replace("idx3", "idx1")
        for name in (f"{stem}{'.gz' if file.endswith('.gz') else ''}", stem, f"{stem}.gz"):
            fs, path = locate(self.url)
            if stem != file.removesuffix(".gz") and fs.exists(f"{path.rpartition('/')[0]}/{name}"):
                return folder + slash + name
        return ""


def is_idx(name: str) -> bool:
    """Whether a file is named as those of MNIST are."""
    return name.lower().removesuffix(".gz").endswith(("idx3-ubyte", ".idx3"))


@contextmanager
def _opened(url: str, axes: int) -> Iterator[tuple[IO[bytes], tuple[int, ...]]]:
    """The file after its header, and the checked shape."""
    fs, path = locate(url)
    name = shown(url)
    with reading(fs, path) as raw:
        try:
            packed = path.lower().endswith(".gz")
            stream = cast("IO[bytes]", gzip.GzipFile(fileobj=raw, mode="rb")) if packed else raw
            head = stream.read(4 + 4 * axes)
            if head[:4] != bytes([0, 0, 8, axes]) or len(head) < 4 + 4 * axes:
                raise ValueError(
                    f"{name} is not an idx{axes}-ubyte file; its first bytes are {head[:4].hex() or 'none'}."
                )
            shape = struct.unpack(f">{axes}I", head[4:])
            length = fs.info(path)["size"] * (DEFLATE if packed else 1)
            if 0 in shape or math.prod(shape[1:]) > MAX_PIXELS:
                raise ValueError(f"{name} has shape {shape}: no rows, or images beyond {MAX_PIXELS} pixels.")
            if len(head) + math.prod(shape) > length:
                raise ValueError(f"{name} is too short for its shape {shape}; it seems to be truncated.")
            yield stream, shape
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            reason = " ".join(str(error).split()).rstrip(".")
            raise ValueError(f"{name} is not an idx file that can be read: {reason}.") from error


def _rows(url: str, axes: int, start: int, stop: int) -> Iterator[np.ndarray]:
    """The rows start .. stop − 1, one at a time, uint8."""
    with _opened(url, axes) as (stream, shape):
        size = math.prod(shape[1:])
        stream.seek(4 + 4 * axes + start * size)
        for row in range(start, min(stop, shape[0])):
            data = stream.read(size)
            if len(data) != size:
                raise ValueError(f"{shown(url)} ends in row {row}, before its last; it seems to be truncated.")
            yield np.frombuffer(data, np.uint8).reshape(shape[1:])
