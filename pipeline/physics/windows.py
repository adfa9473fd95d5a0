"""Windows that differ from example to example: random crops of images, short clips and low frame rates of video.

A window is a run of places along an axis; the start is drawn and recorded, so that A Aᵀ = I with another A per example.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.keys import Key
from pipeline.physics.corruption import Corruption, Row, column
from pipeline.physics.linear import LinearMap, Shape
from pipeline.physics.masks import Masked
from pipeline.physics.views import Frames, require_axes


@dataclass(frozen=True, eq=False)
class Runs(LinearMap):
    """`length` places along one axis of the image from `starts` (B or 1,) on, another start in each example."""

    shape: Shape
    axis: int
    starts: Tensor
    length: int
    orthonormal = True

    def __post_init__(self) -> None:
        if not 0 <= self.axis < len(self.shape) or self.starts.ndim != 1 or len(self.starts) == 0:
            raise ValueError(f"Runs needs an axis of {self.shape} and starts (B,), got {self.axis} and {self.starts}.")
        size = self.shape[self.axis]
        if self.length < 1 or self.starts.min() < 0 or self.starts.max() + self.length > size:
            first, last = int(self.starts.min()), int(self.starts.max()) + self.length
            raise ValueError(f"Runs needs places from 0 to {size - 1} of axis {self.axis}, got {first} to {last - 1}.")

    @property
    def in_shape(self) -> Shape:
        return self.shape

    @property
    def out_shape(self) -> Shape:
        return (*self.shape[: self.axis], self.length, *self.shape[self.axis + 1 :])

    @property
    def rows(self) -> int:
        return len(self.starts)

    def _places(self, like: Tensor) -> Tensor:
        places = self.starts.to(like.device)[:, None] + torch.arange(self.length, device=like.device)
        lengths = [self.length if axis == self.axis else 1 for axis in range(len(self.shape))]
        return places.reshape(-1, *lengths).expand(len(like), *self.out_shape)

    def __call__(self, x: Tensor) -> Tensor:
        self.check(x, self.in_shape)
        return x.gather(self.axis + 1, self._places(x))

    def adjoint(self, y: Tensor) -> Tensor:
        self.check(y, self.out_shape)
        return y.new_zeros(len(y), *self.in_shape).scatter(self.axis + 1, self._places(y), y)


@dataclass(frozen=True)
class RandomCrop(Corruption):
    """A window of height × width pixels is cut out at a uniform place: (..., H, W) to (..., height, width).

    A row holds its first pixel as (top, left).
    """

    height: int
    width: int

    def out_shape(self, shape: Shape) -> Shape:
        require_axes("RandomCrop", shape, 2, "(..., H, W)")
        if not (1 <= self.height <= shape[-2] and 1 <= self.width <= shape[-1]):
            wanted, given = f"{self.height} x {self.width}", f"{shape[-2]} x {shape[-1]}"
            raise ValueError(f"RandomCrop needs a window that fits the {given} image, got {wanted}.")
        return (*shape[:-2], self.height, self.width)

    def draw(self, shape: Shape, key: Key) -> Row:
        self.out_shape(shape)
        free = np.array((shape[-2] - self.height, shape[-1] - self.width))
        return {"corner": key.numpy().integers(0, free, endpoint=True).astype(np.int32)}

    def at(self, rows: Mapping[str, np.ndarray], shape: Shape) -> LinearMap:
        self.out_shape(shape)
        top, left = torch.from_numpy(column(rows, "corner", width=2).astype(np.int64)).T
        down = Runs(shape, len(shape) - 2, top, self.height)
        return Runs(down.out_shape, len(shape) - 1, left, self.width) @ down


@dataclass(frozen=True)
class ShortClip(Corruption):
    """`frames` frames in a row of a clip (C, T, H, W), from `start` or, where that is None, from a uniform one."""

    frames: int
    start: int | None = None

    def out_shape(self, shape: Shape) -> Shape:
        last = self.frames + (self.start or 0)
        if len(shape) != 4 or self.frames < 1 or (self.start or 0) < 0 or last > shape[1]:
            raise ValueError(f"ShortClip needs clips (C, T, H, W) of at least {max(last, 1)} frames, got {shape}.")
        return (shape[0], self.frames, *shape[2:])

    def draw(self, shape: Shape, key: Key) -> Row:
        self.out_shape(shape)
        start = key.numpy().integers(0, shape[1] - self.frames, endpoint=True) if self.start is None else self.start
        return {"start": np.array([start], np.int32)}

    def at(self, rows: Mapping[str, np.ndarray], shape: Shape) -> LinearMap:
        self.out_shape(shape)
        return Runs(shape, 1, torch.from_numpy(column(rows, "start", width=1)[:, 0].astype(np.int64)), self.frames)


@dataclass(frozen=True)
class FrameRate(Corruption):
    """A low frame rate: frames 0, every, 2 · every, ... of a clip (C, T, H, W)."""

    every: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.every < 1:
            raise ValueError(f"FrameRate.every must be at least 1, got {self.every}.")

    def out_shape(self, shape: Shape) -> Shape:
        return self.at({}, shape).out_shape

    def draw(self, shape: Shape, key: Key) -> Row:
        return {}

    def at(self, rows: Mapping[str, np.ndarray], shape: Shape) -> LinearMap:
        if len(shape) != 4:
            raise ValueError(f"FrameRate needs clips of shape (C, T, H, W), got {shape}.")
        return Frames(shape, tuple(range(0, shape[1], self.every)))


@dataclass(frozen=True)
class DroppedFrames(Corruption):
    """`count` frames of a clip (C, T, H, W) are hidden, every set of so many alike; the clip keeps its length."""

    count: int

    def _require_clip(self, shape: Shape) -> None:
        if len(shape) != 4 or not 0 <= self.count < shape[1]:
            raise ValueError(
                f"DroppedFrames needs 0 <= count < T of clips (C, T, H, W) so that one frame stays, "
                f"got {self.count} and {shape}."
            )

    def draw(self, shape: Shape, key: Key) -> Row:
        self._require_clip(shape)
        return {"frames": key.numpy().permutation(shape[1]) >= self.count}

    def at(self, rows: Mapping[str, np.ndarray], shape: Shape) -> LinearMap:
        self._require_clip(shape)
        seen = column(rows, "frames", width=shape[1]).astype(bool)
        return Masked(shape, torch.from_numpy(seen).reshape(-1, 1, shape[1], 1, 1))
