"""Windows: how a film of n frames is cut into clips of the same length.

Clip k has the frames hop·k + stride·t, t = 0 .. frames − 1, for every k where the last of them is below n. A film too
short for one clip is handed on as what it has, so that it is counted among the bad, not lost. Of a film only the
frames that clips show are held, and no more of them than `MAX_HELD` bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from pipeline.data.images import MAX_HELD, BadImage
from pipeline.data.source import PIECE, Source

T = TypeVar("T")


@dataclass(frozen=True)
class Windows(Source):
    """What films are cut into: clips of `frames` frames, `stride` apart, a new one every `hop` frames.

    hop = 0 means that clips follow each other without a frame in common, `frames · stride`.
    """

    frames: int = field(default=16, kw_only=True)
    stride: int = field(default=1, kw_only=True)
    hop: int = field(default=0, kw_only=True)

    def __post_init__(self) -> None:
        if self.frames < 1 or self.stride < 1 or self.hop < 0 or self.span > PIECE:
            raise ValueError(
                f"frames={self.frames}, stride={self.stride} and hop={self.hop} cannot cut clips; give frames and "
                f"stride of at least 1 that span at most {PIECE} frames, and hop of at least 0."
            )

    @property
    def span(self) -> int:
        """How many frames of the film one clip reaches over."""
        return (self.frames - 1) * self.stride + 1

    @property
    def step(self) -> int:
        """How many frames lie between the beginnings of two clips."""
        return self.hop or self.frames * self.stride

    @property
    def most(self) -> int:
        """How many clips a piece may have: as many frames as one of single images has images."""
        return max(1, PIECE // self.frames)

    def windows(self, length: int) -> int:
        """How many clips a film of `length` frames gives; 1 where it is too short, and that one is bad."""
        return max(0, length - self.span) // self.step + 1

    def clips(self, film: Iterable[T], start: int, stop: int, name: str = "a film") -> Iterator[tuple[T, ...]]:
        """The clips start .. stop − 1 of a film, never holding more frames than one of them spans.

        Raises BadImage about `name` where those that are shown take more than `MAX_HELD` bytes.
        """
        held: dict[int, T] = {}
        total, at = 0, -1
        for at, frame in enumerate(film):
            if any(t % self.stride == 0 for t in range(at % self.step, min(at + 1, self.span), self.step)):
                held[at] = frame
                total += _bytes(frame)
            if total > MAX_HELD:
                raise BadImage(
                    f"{name} has frames of which a clip takes more than {MAX_HELD >> 20} MiB; ask for fewer frames, or "
                    "make them smaller."
                )
            first = at + 1 - self.span
            number, behind = divmod(first, self.step)
            if first >= 0 and not behind and start <= number:
                yield tuple(held[i] for i in range(first, at + 1, self.stride))
                if number + 1 >= stop:
                    return
            if first in held:
                total -= _bytes(held.pop(first))
        if at + 1 < self.span and start == 0:
            yield tuple(held[i] for i in range(0, at + 1, self.stride))


def _bytes(frame: object) -> int:
    """How much memory a frame, or a row with one and its mask, takes."""
    damage = getattr(frame, "damage", {})
    return sum(map(_size, (getattr(frame, "image", frame), damage.get("mask"))))


def _size(part: object) -> int:
    if isinstance(part, list):  # of lists, 8 bytes for each of their items
        return 8 * sum(len(row or ()) for row in part)
    return part.nbytes if isinstance(part, np.ndarray) else len(part) if isinstance(part, bytes) else 0
