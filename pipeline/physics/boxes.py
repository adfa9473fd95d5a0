"""Boxes: several hidden at random, one hidden at a fixed place, one alone seen, or a subtitle at the bottom.

Images are (..., H, W); every channel and frame is hidden alike. A row holds each box as (top, left, height, width) in
pixels, so A = diag(m) is rebuilt from a few integers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pipeline.keys import Key
from pipeline.physics.corruption import Corruption, Row, column
from pipeline.physics.linear import LinearMap, Shape
from pipeline.physics.masks import Masked, inside
from pipeline.physics.views import require_axes


@dataclass(frozen=True)
class Boxes(Corruption):
    """`count` boxes are hidden, which may overlap: sides uniform in [low, high] of the image's, places uniform."""

    count: int
    low: float
    high: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.count < 1 or not 0 <= self.low <= self.high <= 1:
            raise ValueError(
                f"Boxes needs count >= 1 and 0 <= low <= high <= 1, got {self.count}, {self.low} and {self.high}."
            )

    def draw(self, shape: Shape, key: Key) -> Row:
        require_axes("Boxes", shape, 2, "(..., H, W)")
        generator, size = key.numpy(), np.array(shape[-2:])
        sides = np.rint(generator.uniform(self.low, self.high, (self.count, 2)) * size).astype(np.int64)
        corners = generator.integers(0, size - sides, endpoint=True)
        return {"boxes": np.concatenate([corners, sides], axis=1).astype(np.int32).ravel()}

    def at(self, rows: Mapping[str, np.ndarray], shape: Shape) -> LinearMap:
        require_axes("Boxes", shape, 2, "(..., H, W)")
        boxes = column(rows, "boxes", width=4 * self.count)
        return Masked(shape, ~inside(boxes.reshape(-1, self.count, 4), shape))


@dataclass(frozen=True)
class FixedBox(Corruption):
    """The same box of every image is hidden, in pixels; it must lie inside the image and leave some of it."""

    top: int
    left: int
    height: int
    width: int

    def draw(self, shape: Shape, key: Key) -> Row:
        return {}

    def at(self, rows: Mapping[str, np.ndarray], shape: Shape) -> LinearMap:
        require_axes("FixedBox", shape, 2, "(..., H, W)")
        H, W = shape[-2:]
        fits = 0 <= self.top < self.top + self.height <= H and 0 <= self.left < self.left + self.width <= W
        if not fits or (self.height, self.width) == (H, W):
            box = f"rows {self.top} to {self.top + self.height}, columns {self.left} to {self.left + self.width}"
            raise ValueError(f"FixedBox needs a box inside the {H} x {W} image that leaves some of it, got {box}.")
        return Masked(shape, ~inside(np.array([[[self.top, self.left, self.height, self.width]]]), shape))


@dataclass(frozen=True)
class KeepPatch(Corruption):
    """Only one window is seen: its sides are uniform in [low, high] of the image's (a pixel at least), its place too.

    The image keeps its shape, with 0 around the window; `RandomCrop` cuts the window out.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.low <= self.high <= 1:
            raise ValueError(f"KeepPatch needs sides with 0 < low <= high <= 1, got low {self.low}, high {self.high}.")

    def draw(self, shape: Shape, key: Key) -> Row:
        require_axes("KeepPatch", shape, 2, "(..., H, W)")
        generator, size = key.numpy(), np.array(shape[-2:])
        sides = np.maximum(np.rint(generator.uniform(self.low, self.high, 2) * size), 1).astype(np.int64)
        corner = generator.integers(0, size - sides, endpoint=True)
        return {"box": np.concatenate([corner, sides]).astype(np.int32)}

    def at(self, rows: Mapping[str, np.ndarray], shape: Shape) -> LinearMap:
        require_axes("KeepPatch", shape, 2, "(..., H, W)")
        return Masked(shape, inside(column(rows, "box", width=4)[:, None], shape))


@dataclass(frozen=True)
class Subtitle(Corruption):
    """A centred region at the bottom is hidden: height uniform in [low, high] of H, width in [narrow, wide] of W.

    What the text was is not known, so nothing under it is seen; of a clip every frame is hidden alike.
    """

    low: float = 0.1
    high: float = 0.3
    narrow: float = 0.4
    wide: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 <= self.low <= self.high < 1 and 0 <= self.narrow <= self.wide <= 1):
            raise ValueError(
                "Subtitle needs 0 <= low <= high < 1 and 0 <= narrow <= wide <= 1, "
                f"got {self.low}, {self.high}, {self.narrow} and {self.wide}."
            )

    def draw(self, shape: Shape, key: Key) -> Row:
        require_axes("Subtitle", shape, 2, "(..., H, W)")
        H, W = shape[-2:]
        shares = key.numpy().uniform((self.low, self.narrow), (self.high, self.wide))
        height, width = np.rint(shares * (H, W)).astype(np.int64)
        return {"box": np.array([H - height, (W - width) // 2, height, width], np.int32)}

    def at(self, rows: Mapping[str, np.ndarray], shape: Shape) -> LinearMap:
        require_axes("Subtitle", shape, 2, "(..., H, W)")
        return Masked(shape, ~inside(column(rows, "box", width=4)[:, None], shape))
