"""What stands in for the world in tests of the command line: a silent tracker, pictures good and bad."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image


class Silent:
    """A tracker that keeps nothing but tells the progress."""

    def __init__(self, store: Any, experiment: str, listen: Any = None):
        self.listen = listen

    def __enter__(self) -> Silent:
        return self

    def __exit__(self, *raised: object) -> None:
        return None

    @contextlib.contextmanager
    def run(self, step: Any) -> Iterator[Any]:
        self.step = step
        yield self

    def metrics(self, values: Any, at: int) -> None:
        self.listen(self.step, values, at)

    def card(self, name: str, content: Any) -> None:
        return None

    picture = card

    def warn(self, text: str) -> None:
        return None


class Quiet:
    """A tracker that keeps nothing and tells nothing."""

    def metrics(self, values: Any, at: int) -> None:
        return None

    def picture(self, name: str, png: bytes) -> None:
        return None

    card = picture

    def warn(self, text: str) -> None:
        return None


class Tracked(Quiet):
    """A tracker for all steps."""

    def __init__(self, *ignored):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *raised):
        return None

    def run(self, step):
        return contextlib.nullcontext(self)


def png(pixels: np.ndarray) -> bytes:
    """A picture's file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def pixels(i: int, shape: tuple[int, ...] = (8, 8)) -> np.ndarray:
    """Random pixels, the i-th."""
    return np.random.default_rng(i).integers(0, 256, shape, dtype=np.uint8)


BAD = {  # file name -> bytes, and what is said of it
    "empty.png": (b"", "is empty"),
    "text.png": (b"this is no picture", "is not an image"),
    "torn.png": (png(pixels(99, (64, 64)))[:2000], "is truncated or damaged"),
}
