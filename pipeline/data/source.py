"""A source: what a stranger's collection of images looks like from inside, whatever it is stored in.

A source cuts itself into *pieces*, small descriptions of bounded work that can be sent to any worker, and reads one
piece as a stream of raw examples: id, encoded bytes or a uint8 array, label. Nothing is decoded here, so one bad image
spoils only itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from pipeline.data.images import BadImage, Stored, read_image
from pipeline.data.listing import CONTROL

PIECE = 1024  # examples in a piece, at most


@dataclass(frozen=True)
class Piece:
    """Up to PIECE examples: some files with their labels (-1 = none), or rows start .. stop − 1 of one file.

    `at` is where in that file row `start` begins, for sources that can go there: a byte of an archive, a time stamp of
    a video; -1 where it has to be read from its beginning. Made of JSON's own types:
    `Piece(**json.loads(json.dumps(dataclasses.asdict(piece)))) == piece`.
    """

    files: tuple[str, ...] = ()
    labels: tuple[int, ...] = ()
    start: int = 0
    stop: int = 0
    at: int = -1

    def __post_init__(self) -> None:
        object.__setattr__(self, "files", tuple(self.files))
        object.__setattr__(self, "labels", tuple(self.labels))


@dataclass(frozen=True, eq=False)
class Raw:
    """One example as stored: `image` is encoded bytes (empty where there are none) or uint8 (H, W), (H, W, 1 or 3).

    An array of floats is one that has values which are not finite, and is refused for it where it is decoded.
    A tuple of these is a clip, frame by frame. None is an image that may not be read, which spoils only itself, as does
    one in whose place there is a BadImage that says why. `name` is what an error calls it. `damage` is what is known of
    a row that was damaged before it arrived: "mask", an encoded image or an array (H, W), of a clip one for all frames
    or a tuple of them, and "sigma", a number; not checked yet. `embedding` is a list or an array of numbers that stand
    for what is told of the image, None where nothing is; not checked either.
    """

    id: str
    image: Stored
    label: int | None
    name: str
    caption: str | None = None
    damage: dict[str, Any] = field(default_factory=dict)
    embedding: Any = None


class Source(ABC):
    """A collection of images; a frozen dataclass, hence also its own configuration."""

    @abstractmethod
    def cut(self) -> Iterator[Piece]:
        """The pieces, found one by one; ValueError where there are none or the collection is malformed."""

    @abstractmethod
    def read(self, piece: Piece) -> Iterator[Raw]:
        """The examples of one piece, in its order, holding about one image at a time."""

    def urls(self) -> tuple[str, ...]:
        """The files and folders that it reads, none for built-in data."""
        url = getattr(self, "url", None)
        return () if url is None else (url,)

    def count(self) -> int | None:
        """How many examples there are, None where that is known only by reading."""
        return None

    def unread(self) -> dict[str, int]:
        """How many of the files beside those that it reads are of each kind; the kind is the suffix, "" for none."""
        return {}

    def pieces(self) -> list[Piece]:
        """All pieces; the same list whenever and wherever the same collection is cut."""
        return list(self.cut())

    def peek(self) -> tuple[str, tuple[int, int]]:
        """Mode "L" or "RGB" and size (H, W) of the first example that can be read.

        Raises ValueError when none of the first 1024 can.
        """
        bad: list[BadImage] = []
        for raw in islice((raw for piece in self.cut() for raw in self.read(piece)), PIECE):
            try:
                _, head = read_image(raw.image, raw.name)
            except BadImage as error:
                bad.append(error)
            else:
                return head.mode, head.size
        raise ValueError(f"None of the first {len(bad)} images can be read; of the first it is said: {bad[0]}")


def checked_id(text: str, name: str) -> str:
    """`text` if it may be an id (1 to 1024 characters, none of them for control), else a ValueError about `name`."""
    if not 0 < len(text) <= 1024 or CONTROL.search(text):
        raise ValueError(
            f"{name} has an id that is empty, too long or has control characters; set id='' to number rows."
        )
    return text


def checked_label(value: int, name: str) -> int | None:
    """The label, None for -1 (as Hugging Face marks unlabelled rows), else a ValueError about `name`."""
    if not -1 <= value < 2**63:
        raise ValueError(f"{name} has the label {value}; labels count from 0, and -1 means none.")
    return None if value == -1 else value


def spans(groups: list[int], most: int = PIECE) -> Iterator[tuple[int, int]]:
    """Cuts rows that lie in groups of these sizes into ranges of at most `most`, between groups where that is possible.

    A group larger than `most` is cut through, and each of its ranges is read from the group's beginning.
    """
    start = at = 0
    for rows in groups:
        if start < at and at + rows - start > most:
            yield start, at
            start = at
        at += rows
        while at - start > most:
            yield start, start + most
            start += most
    if start < at:
        yield start, at
