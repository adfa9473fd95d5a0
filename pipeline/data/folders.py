"""Folders: a tree of image files, where the first level of folders names the classes.

The id of an example is its path relative to the root, its label the rank of its first-level folder among those that
hold images; files beside those folders have none. Hidden files are passed over; links out of the tree are refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from pipeline.data.images import MAX_BYTES
from pipeline.data.listing import inside, listing, locate, reading, shown
from pipeline.data.source import PIECE, Piece, Raw, Source

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class Folder(Source):
    """Every image file under `url` whose relative path matches the shell `pattern` (whose * also crosses folders)."""

    url: str
    pattern: str = "*"

    def _wanted(self, relative: str) -> bool:
        return relative.lower().endswith(SUFFIXES) and fnmatchcase(relative, self.pattern)

    def cut(self) -> Iterator[Piece]:
        """Runs of the sorted listing."""
        fs, root = locate(self.url)
        if not fs.isdir(root):
            raise ValueError(f"{shown(self.url)} is not a folder; name the folder that the images are in.")
        files = listing(fs, root, self._wanted)
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
            yield Raw(relative, image, None if label < 0 else label, shown(f"{self.url.rstrip('/')}/{relative}"))
