"""Masks: pixels and boxes that were not seen, A x = m ⊙ x with m in {0, 1}.

A mask keeps the image's shape and puts 0 where nothing was seen; A = Aᵀ = A² = A⁺ is the orthogonal projection on the
visible pixels. A Aᵀ = diag(m) is not I, so measurement noise also falls on the hidden zeros, where it says nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.keys import Key
from pipeline.physics.corruption import Corruption, Row, column
from pipeline.physics.linear import LinearMap, Shape


@dataclass(frozen=True, eq=False)
class Masked(LinearMap):
    """A x = m ⊙ x: `mask` is a boolean tensor (B or 1, *) that broadcasts to (B, *shape), True where a pixel is seen.

    A hidden pixel becomes 0 whatever it holds, NaN included.
    """

    shape: Shape
    mask: Tensor

    def __post_init__(self) -> None:
        if self.mask.dtype != torch.bool:
            raise ValueError(f"Masked needs a boolean mask, True where seen, got {self.mask.dtype}.")
        lengths = tuple(self.mask.shape[1:])
        fits = len(lengths) == len(self.shape) and all(m in (1, n) for m, n in zip(lengths, self.shape))
        if not fits or len(self.mask) == 0:
            expected = ", ".join(map(str, ("B", *self.shape)))
            raise ValueError(f"Masked needs a mask that broadcasts to ({expected}), got {tuple(self.mask.shape)}.")

    @property
    def in_shape(self) -> Shape:
        return self.shape

    @property
    def out_shape(self) -> Shape:
        return self.shape

    @property
    def rows(self) -> int:
        return len(self.mask)

    def __call__(self, x: Tensor) -> Tensor:
        self.check(x, self.shape)
        return torch.where(self.mask.to(x.device), x, 0)

    def adjoint(self, y: Tensor) -> Tensor:
        return self(y)

    def pinv(self, y: Tensor) -> Tensor:
        """A⁺ = A, an orthogonal projection."""
        return self(y)


def inside(boxes: np.ndarray, shape: Shape) -> Tensor:
    """Which pixels lie in any of the boxes (B, n, 4) of (top, left, height, width): bools (B, 1..., H, W)."""
    H, W = shape[-2:]
    top, left, height, width = torch.from_numpy(boxes.astype(np.int64)).permute(2, 0, 1)[..., None]
    i, j = torch.arange(H), torch.arange(W)
    down, across = (top <= i) & (i < top + height), (left <= j) & (j < left + width)
    union = (down[..., :, None] & across[..., None, :]).any(1)
    return union.reshape(-1, *(1,) * (len(shape) - 2), H, W)


@dataclass(frozen=True)
class PixelMask(Corruption):
    """Each pixel is hidden with probability p in [0, 1), all its channels together or each by itself.

    Images are (C, ...), one or more axes after the channels. A row holds the mask as packed bits.
    """

    p: float
    per_channel: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.p < 1:
            raise ValueError(f"PixelMask.p is the probability to hide a pixel, 0 <= p < 1, got {self.p}.")

    def _mask_shape(self, shape: Shape) -> Shape:
        if len(shape) < 2:
            raise ValueError(f"PixelMask needs an image shape (C, ...) of two or more axes, got {shape}.")
        return shape if self.per_channel else (1, *shape[1:])

    def draw(self, shape: Shape, key: Key) -> Row:
        seen = key.numpy().random(self._mask_shape(shape)) >= self.p
        return {"mask": np.packbits(seen)}

    def at(self, rows: Mapping[str, np.ndarray], shape: Shape) -> LinearMap:
        mask_shape = self._mask_shape(shape)
        pixels = math.prod(mask_shape)
        packed = column(rows, "mask", width=-(-pixels // 8))
        bits = np.unpackbits(packed.astype(np.uint8, copy=False), axis=1, count=pixels)
        return Masked(shape, torch.from_numpy(bits.astype(bool)).reshape(-1, *mask_shape))


@dataclass(frozen=True)
class FixedMask(Corruption):
    """Of every image the same pixels are hidden: `lines` are H texts of W characters, 1 where seen and 0 where not.

    Images are (..., H, W); every channel and frame is hidden alike. The mask itself is the configuration, so that
    another one has another fingerprint.
    """

    lines: tuple[str, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.lines or len({len(line) for line in self.lines}) > 1 or set().union(*self.lines) - {"0", "1"}:
            raise ValueError('FixedMask needs lines of one length, each of "0" and "1", such as ("0110", "1111").')
        if not any("1" in line for line in self.lines):
            raise ValueError("FixedMask hides every pixel; seen ones are 1.")

    @classmethod
    def read(cls, path: str | Path, noise: float = 0.0) -> FixedMask:
        """The mask in a picture: bright pixels are seen."""
        from PIL import Image

        with Image.open(path) as image:
            seen = np.asarray(image.convert("L")) >= 128
        return cls(tuple("".join("01"[int(bit)] for bit in line) for line in seen), noise=noise)

    def draw(self, shape: Shape, key: Key) -> Row:
        return {}

    def at(self, rows: Mapping[str, np.ndarray], shape: Shape) -> LinearMap:
        size = (len(self.lines), len(self.lines[0]))
        if len(shape) < 2 or tuple(shape[-2:]) != size:
            raise ValueError(f"FixedMask is {size[0]} x {size[1]} and cannot hide pixels of images of shape {shape}.")
        seen = torch.tensor([[bit == "1" for bit in line] for line in self.lines])
        return Masked(shape, seen.reshape(1, *(1,) * (len(shape) - 2), *size))


@dataclass(frozen=True)
class BoxMask(Corruption):
    """A box is hidden: its sides are uniform in [low, high] of the image's, its place uniform among those that fit.

    Images are (..., H, W); every channel and frame is hidden alike. A row holds top, left, height and width in pixels.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.low <= self.high <= 1:
            raise ValueError(f"BoxMask needs sides with 0 <= low <= high <= 1, got low {self.low}, high {self.high}.")

    def draw(self, shape: Shape, key: Key) -> Row:
        self._require_image(shape)
        generator = key.numpy()
        sides = np.rint(generator.uniform(self.low, self.high, size=2) * shape[-2:]).astype(np.int64)
        corner = generator.integers(0, np.array(shape[-2:]) - sides, endpoint=True)
        return {"box": np.concatenate([corner, sides]).astype(np.int32)}

    def at(self, rows: Mapping[str, np.ndarray], shape: Shape) -> LinearMap:
        self._require_image(shape)
        return Masked(shape, ~inside(column(rows, "box", width=4)[:, None], shape))

    def _require_image(self, shape: Shape) -> None:
        if len(shape) < 2:
            raise ValueError(f"BoxMask needs an image shape (..., H, W), got {shape}.")


@dataclass(frozen=True)
class LineMask(Corruption):
    """Each row of pixels, or each column, is hidden with probability p in [0, 1), in all channels and frames alike.

    Images are (..., H, W). A row holds the lines seen as packed bits.
    """

    p: float
    columns: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.p < 1:
            raise ValueError(f"LineMask.p is the probability to hide a line, 0 <= p < 1, got {self.p}.")

    def _lines(self, shape: Shape) -> int:
        if len(shape) < 2:
            raise ValueError(f"LineMask needs an image shape (..., H, W), got {shape}.")
        return shape[-1] if self.columns else shape[-2]

    def draw(self, shape: Shape, key: Key) -> Row:
        return {"lines": np.packbits(key.numpy().random(self._lines(shape)) >= self.p)}

    def at(self, rows: Mapping[str, np.ndarray], shape: Shape) -> LinearMap:
        lines = self._lines(shape)
        packed = column(rows, "lines", width=-(-lines // 8)).astype(np.uint8, copy=False)
        seen = torch.from_numpy(np.unpackbits(packed, axis=1, count=lines).astype(bool))
        last = (1, lines) if self.columns else (lines, 1)
        return Masked(shape, seen.reshape(-1, *(1,) * (len(shape) - 2), *last))
