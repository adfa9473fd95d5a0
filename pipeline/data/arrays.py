"""Arrays: numpy's .npy and .npz files, read row by row and never unpickled.

The header is believed only as far as the file is long: its shape is compared with the bytes that are there before any
is read, and a row may take no more than `MAX_HELD`. Members of an .npz are streams, so a compressed one is read from
its beginning for every piece, and none can inflate beyond the row that is being read. One that would inflate more than
100 times is refused, as in archives. A row of floats that are not all finite where it is seen spoils only itself.
"""

from __future__ import annotations

import errno
import math
import zipfile
import zlib
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO

import numpy as np

from pipeline.data.images import MAX_BYTES, MAX_HELD, MAX_PIXELS
from pipeline.data.listing import commonest, locate, oddity, reading, shown
from pipeline.data.source import PIECE, Piece, Raw, Source, checked_label, spans
from pipeline.data.tars import INFLATION

PIECE_BYTES = 1 << 28  # of pixels in a piece, where single images are large
AT_ONCE = 1 << 20  # floats that are converted together


@dataclass(frozen=True)
class Column:
    """An array in a file: `shape[0]` rows of `dtype`, in C order, from the byte `offset` of `stream`."""

    stream: IO[bytes]
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int

    def rows(self, start: int, stop: int) -> Iterator[np.ndarray]:
        """The rows start .. stop − 1, one at a time."""
        size = math.prod(self.shape[1:]) * self.dtype.itemsize
        self.stream.seek(self.offset + start * size)
        for row in range(start, min(stop, self.shape[0])):
            data = self.stream.read(size)
            if len(data) != size:
                raise ValueError(f"{self.name} ends in row {row}, before its last; it seems to be truncated.")
            yield np.frombuffer(data, self.dtype).reshape(self.shape[1:])


@dataclass(frozen=True)
class Arrays(Source):
    """Images (N, H, W), (N, H, W, 1) or (N, H, W, 3) in uint8, or in floats from 0 to 1, of one file.

    `images` and `labels` name arrays of an .npz that must be there; None means the array of that name where there is
    one, and for the images else the first that is not the labels; labels="" means none at all. `mask` (N, H, W) of
    bools or integers, not 0 where seen, `sigma` (N,) and `embedding` (N, E) of numbers name arrays of an .npz that are
    taken too, "" none.
    """

    url: str
    images: str | None = None
    labels: str | None = None
    mask: str = ""
    sigma: str = ""
    embedding: str = ""

    def cut(self) -> Iterator[Piece]:
        """Ranges of rows."""
        with self._columns() as (images, _, _):
            size = math.prod(images.shape[1:]) * images.dtype.itemsize
            yield from (
                Piece(start=a, stop=b) for a, b in spans([images.shape[0]], min(PIECE, PIECE_BYTES // size or 1))
            )

    def read(self, piece: Piece) -> Iterator[Raw]:
        """The rows of one range."""
        stem = PurePosixPath(locate(self.url)[1]).stem
        with self._columns() as (images, labels, damage):
            span = piece.start, piece.stop
            known = {name: column.rows(*span) for name, column in damage.items()}
            numbers = [int(value) for value in labels.rows(*span)] if labels else None
            for i, pixels in enumerate(images.rows(*span)):
                row = piece.start + i
                name = f"row {row} of {images.name}"
                label = checked_label(numbers[i], name) if numbers else None
                here = {kind: next(rows) for kind, rows in known.items()}
                here = {kind: value if value.ndim else value[()] for kind, value in here.items()}
                vector = here.pop("embedding", None)
                if pixels.dtype.kind == "f" and "mask" in here:  # what is hidden may be anything, and is forgotten
                    pixels = np.where(here["mask"].reshape(pixels.shape[:2] + (1,) * (pixels.ndim - 2)) != 0, pixels, 0)
                yield Raw(f"{stem}-{row}", _bytes(pixels, name), label, name, None, here, vector)

    def unread(self) -> dict[str, int]:
        """The arrays of an .npz that are none of these."""
        names = self.names()
        return commonest(Counter(f"array {name!r}" for name in names if name not in self._used(names).values()))

    def names(self) -> list[str]:
        """The arrays of an .npz; none of an .npy."""
        fs, path = locate(self.url)
        if not path.lower().endswith(".npz"):
            return []
        with reading(fs, path) as file, _unzipping(shown(self.url)):
            return list(_arrays(zipfile.ZipFile(file), shown(self.url)))

    @contextmanager
    def _columns(self) -> Iterator[tuple[Column, Column | None, dict[str, Column]]]:
        """The checked images, labels and what is known of the damage, open."""
        fs, path = locate(self.url)
        name = shown(self.url)
        with reading(fs, path) as file, _unzipping(name):
            size = fs.info(path)["size"]
            if path.lower().endswith(".npz"):
                images, labels, damage = self._members(zipfile.ZipFile(file), name, size)
            elif self.mask or self.sigma or self.embedding:
                raise ValueError(f"{name} holds one array; a mask, sigma or embedding needs an .npz with several.")
            else:
                images, labels, damage = _column(file, name, size), None, {}
            _check_images(images)
            if labels and (labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]):
                raise ValueError(f"{labels.name} is {labels.dtype} {labels.shape}; give one integer for each image.")
            count = images.shape[:1]
            forms = {"mask": ("biu", images.shape[:3]), "sigma": ("f", count)}
            for key, column in damage.items():
                kinds, shape = forms.get(key, ("fiu", (*count, *column.shape[-1:])))
                if column.dtype.kind not in kinds or column.shape != shape:
                    raise ValueError(
                        f"{column.name} is {column.dtype} {column.shape}; a mask is bools {images.shape[:3]}, sigma "
                        f"floats {count}, an embedding numbers ({images.shape[0]}, E)."
                    )
            yield images, labels, damage

    def _members(
        self, archive: zipfile.ZipFile, name: str, size: int
    ) -> tuple[Column, Column | None, dict[str, Column]]:
        members = _arrays(archive, name)
        used = self._used(members)

        def column(key: str) -> Column:
            if key not in members:
                raise ValueError(f"{name} has no array {key!r}; it has {', '.join(map(shown, members)) or 'none'}.")
            member = members[key]
            if member.flag_bits & 1 or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"{shown(key)} in {name} is encrypted or not deflated; save it with numpy.savez.")
            packed = min(member.compress_size, size)
            if member.file_size > MAX_BYTES + INFLATION * packed:
                raise ValueError(
                    f"{shown(key)} in {name} inflates from {packed} to {member.file_size} bytes; it seems to be a "
                    "bomb, so save it without compression, as .npy or with numpy.savez."
                )
            return _column(archive.open(member), f"{shown(key)} in {name}", member.file_size)

        damage = {kind: column(used[kind]) for kind in ("mask", "sigma", "embedding") if used[kind]}
        return column(used["images"]), column(used["labels"]) if used["labels"] else None, damage

    def _used(self, names: Collection[str]) -> dict[str, str]:
        """Which array of an .npz with arrays of these names is what, "" for none."""
        labels = ("labels" if "labels" in names else "") if self.labels is None else self.labels
        own = {"mask": self.mask, "sigma": self.sigma, "embedding": self.embedding}
        first = next((key for key in names if key not in (labels, *own.values())), "images")
        images = ("images" if "images" in names else first) if self.images is None else self.images
        return {"images": images, "labels": labels} | own


@contextmanager
def _unzipping(name: str) -> Iterator[None]:
    """Whatever is wrong with an archive, in a sentence about it."""
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, UnicodeDecodeError, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise  # the disk or the network; a place in the file that cannot be is the archive's fault
        reason = shown(str(error)).rstrip(".")
        raise ValueError(f"{name} is not an .npz file that can be read: {reason}.") from error


def _arrays(archive: zipfile.ZipFile, name: str) -> dict[str, zipfile.ZipInfo]:
    """The .npy members; ValueError where the name of any member leads elsewhere."""
    for member in archive.infolist():
        for said in (member.orig_filename, member.filename):
            if reason := oddity(said):
                raise ValueError(f"{shown(said)!r} in {name} {reason}; save the arrays again with numpy.savez.")
    return {m.filename.removesuffix(".npy"): m for m in archive.infolist() if m.filename.endswith(".npy")}


def _column(stream: IO[bytes], name: str, length: int) -> Column:
    """Reads the header of a .npy stream that is `length` bytes long."""
    try:
        version = np.lib.format.read_magic(stream)
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in readers:
            raise ValueError(f"its format version is {version}")
        shape, fortran, dtype = readers[version](stream)
    except (ValueError, TypeError, SyntaxError, EOFError, RecursionError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ValueError(f"{name} is not an array that can be read: {reason}.") from error
    if dtype.hasobject:
        raise ValueError(f"{name} holds pickled Python objects, which are never loaded; save one plain array.")
    if fortran and len(shape) > 1:
        raise ValueError(f"{name} is stored column by column; save np.ascontiguousarray of it.")
    needs = stream.tell() + math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or needs > length:
        raise ValueError(f"{name} has {length} bytes where its shape {shape} needs {needs}; it seems to be truncated.")
    if math.prod(shape[1:]) * dtype.itemsize > MAX_HELD:
        raise ValueError(f"{name} has shape {shape} of {dtype}: each row takes more than {MAX_HELD >> 20} MiB.")
    return Column(stream, name, shape, dtype, stream.tell())


def _check_images(images: Column) -> None:
    """Raises ValueError unless the array is (N, H, W) or (N, H, W, 1 or 3) of uint8 or floats, with N, H, W > 0."""
    if images.dtype != np.uint8 and images.dtype.kind != "f":
        raise ValueError(f"{images.name} holds {images.dtype}; images are uint8, or floats from 0 to 1.")
    if len(images.shape) not in (3, 4) or images.shape[3:] not in ((), (1,), (3,)):
        raise ValueError(f"{images.name} has shape {images.shape}; images are (N, H, W) or (N, H, W, C) with C 1 or 3.")
    if 0 in images.shape or images.shape[1] * images.shape[2] > MAX_PIXELS:
        raise ValueError(f"{images.name} has shape {images.shape}: no images, or images beyond {MAX_PIXELS} pixels.")


def _bytes(pixels: np.ndarray, name: str) -> np.ndarray:
    """Pixels as uint8; floats in [0, 1] become round(255 v), and are left as they are where some are not finite."""
    if pixels.dtype == np.uint8:
        return pixels
    values, made = pixels.reshape(-1), np.empty(pixels.shape, np.uint8)
    for start in range(0, len(values), AT_ONCE):
        part = values[start : start + AT_ONCE].astype(np.float64)
        if not ((part >= 0) & (part <= 1)).all():
            if not np.isfinite(pixels).all():
                return pixels
            raise ValueError(f"{name} has values outside 0..1; scale the array to [0, 1] or save uint8.")
        made.reshape(-1)[start : start + AT_ONCE] = np.rint(part * 255)
    return made
