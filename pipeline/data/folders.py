"""Folders: a tree of image files, where the first level of folders names the classes.

The id of an example is its path relative to the root, its label the rank of its first-level folder among those that
hold images; files beside those folders have none. Hidden files are passed over, files of other kinds too but counted;
links out of the tree are refused.
Beside an image cat.png may lie cat.txt, its caption, and of what is damaged cat.mask.png (white = seen) and cat.sigma,
a text with one number. What is named like these but is not read is refused: a mask must not become an image.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

import fsspec

from pipeline.data.images import MAX_BYTES
from pipeline.data.listing import inside, listing, locate, reading, shown, unread
from pipeline.data.source import PIECE, Piece, Raw, Source
from pipeline.data.splits import chosen

SUFFIXES = (".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
MASK, SIGMA = ".mask.png", ".sigma"
OTHER_MASKS = tuple(f".mask{suffix}" for suffix in SUFFIXES)  # but MASK
MAX_TEXT = 1 << 20


@dataclass(frozen=True)
class Folder(Source):
    """Every image file under `url` whose relative path matches the shell `pattern` (whose * also crosses folders).

    It must match `glob` as well where there is one (only whose ** crosses folders).

    `captions` takes captions ("" where there is none); `damage` names what every image must have of "mask" and "sigma".
    """

    url: str
    pattern: str = "*"
    captions: bool = False
    damage: tuple[str, ...] = ()
    glob: str = ""

    def _wanted(self, relative: str) -> bool:
        return fnmatchcase(relative, self.pattern) and is_image(relative)

    def unread(self) -> dict[str, int]:
        """Files that match the pattern and are neither images nor taken from beside them; a glob leaves none."""
        if self.glob:
            return {}
        fs, root = locate(self.url)
        stems = {name.rpartition(".")[0] for name in listing(fs, root, self._wanted)}
        beside = (".txt",) * self.captions + (MASK,) * ("mask" in self.damage) + (SIGMA,) * ("sigma" in self.damage)

        def read(name: str) -> bool:
            ours = any(name.endswith(end) and name[: -len(end)] in stems for end in beside)
            return ours or self._wanted(name) or not fnmatchcase(name, self.pattern)

        return unread(fs, root, read)

    def cut(self) -> Iterator[Piece]:
        """Runs of the sorted listing."""
        fs, root = locate(self.url)
        if not fs.isdir(root):
            raise ValueError(f"{shown(self.url)} is not a folder; name the folder that the images are in.")
        files = listing(fs, root, self._wanted)
        files = chosen(files, self.url, self.glob) if self.glob else files
        if not files:
            raise ValueError(
                f"{shown(self.url)} has no images that match {self.pattern!r}; looked for {', '.join(SUFFIXES)}."
            )
        tops = [PurePosixPath(name).parts[0] if "/" in name else "" for name in files]
        classes = {top: label for label, top in enumerate(sorted(set(tops) - {""}))}
        labels = [classes.get(top, -1) for top in tops]
        for at in range(0, len(files), PIECE):
            yield Piece(tuple(files[at : at + PIECE]), tuple(labels[at : at + PIECE]))

    def read(self, piece: Piece) -> Iterator[Raw]:
        """One file after the other; of a file too large to be an image only the beginning, which `decode` refuses."""
        fs, root = locate(self.url)
        for relative, label in zip(piece.files, piece.labels, strict=True):
            try:
                with reading(fs, inside(fs, root, relative)) as file:
                    image = file.read(MAX_BYTES + 1)
            except PermissionError:
                image = None
            name = shown(f"{self.url.rstrip('/')}/{relative}")
            stem = str(PurePosixPath(relative).with_suffix(""))
            caption = _text(read_beside(fs, root, stem, ".txt") or b"", name) if self.captions else None
            damage: dict[str, bytes | float | str | None] = {}
            if "mask" in self.damage:
                damage["mask"] = read_beside(fs, root, stem, MASK)
            if "sigma" in self.damage:
                damage["sigma"] = number(read_beside(fs, root, stem, SIGMA))
            yield Raw(relative, image, None if label < 0 else label, name, caption, damage)


def is_image(name: str) -> bool:
    """Whether a file of this name is an image, and no mask. Raises ValueError: it is a mask or sigma not read so."""
    lower = name.lower()
    if (lower.endswith(OTHER_MASKS) and not lower.endswith(MASK)) or (
        lower.endswith((MASK, SIGMA)) and not name.endswith((MASK, SIGMA))
    ):
        raise ValueError(
            f"{shown(name)} is named as a mask or sigma is, which are read from {MASK} and {SIGMA} only: save it so, "
            "or rename what is none."
        )
    return lower.endswith(SUFFIXES) and not lower.endswith(MASK)


def read_beside(fs: fsspec.AbstractFileSystem, root: str, stem: str, suffix: str) -> bytes | None:
    """The file of this stem, relative to the root, with this suffix; None where there is none."""
    path = inside(fs, root, stem + suffix)
    if not fs.isfile(path):
        return None
    with reading(fs, path) as file:
        return file.read(MAX_BYTES + 1)


def _text(data: bytes, name: str) -> str:
    try:
        return data[:MAX_TEXT].decode().strip()
    except UnicodeDecodeError as error:
        raise ValueError(f"The caption beside {name} is not UTF-8, or longer than 1 MiB; save it as such.") from error


def number(data: bytes | None) -> float | str | None:
    """The number in a text, or the text where there is none, which is refused with the image."""
    if data is None:
        return None
    try:
        return float(data[:100])
    except ValueError:
        return data[:100].decode(errors="replace").strip()
