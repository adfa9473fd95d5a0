"""Views that keep noise white: crops, channels, frames and pooling, all with A Aᵀ = I.

A view sees part of an image at full weight. Its rows are orthonormal, so A⁺ = Aᵀ and a view of x0 + σ z is
A x0 + σ z' with z' ~ N(0, I): a model of the view is an ordinary diffusion model at the same σ. Pooling therefore
multiplies the mean of a block of s × s pixels by s (the plain mean would shrink the noise to σ / s).
"""

from __future__ import annotations

import functools
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from pipeline.physics.linear import LinearMap, Shape


def require_axes(owner: str, shape: Shape, axes: int, wanted: str) -> None:
    """Raise ValueError unless `shape` has at least `axes` axes, all of positive length."""
    if len(shape) < axes or any(length < 1 for length in shape):
        raise ValueError(f"{owner} needs an image shape {wanted} with positive lengths, got {tuple(shape)}.")


@dataclass(frozen=True)
class Crop(LinearMap):
    """The window of height × width pixels whose first pixel is (top, left): (..., H, W) to (..., height, width)."""

    shape: Shape
    top: int
    left: int
    height: int
    width: int
    orthonormal = True

    def __post_init__(self) -> None:
        require_axes("Crop", self.shape, 2, "(..., H, W)")
        H, W = self.shape[-2:]
        rows = 0 <= self.top < self.top + self.height <= H
        columns = 0 <= self.left < self.left + self.width <= W
        if not (rows and columns):
            window = f"rows {self.top} to {self.top + self.height}, columns {self.left} to {self.left + self.width}"
            raise ValueError(f"Crop needs a non-empty window inside the {H} x {W} image, got {window}.")

    @property
    def in_shape(self) -> Shape:
        return self.shape

    @property
    def out_shape(self) -> Shape:
        return (*self.shape[:-2], self.height, self.width)

    def __call__(self, x: Tensor) -> Tensor:
        self.check(x, self.in_shape)
        return x[..., self.top : self.top + self.height, self.left : self.left + self.width]

    def adjoint(self, y: Tensor) -> Tensor:
        self.check(y, self.out_shape)
        H, W = self.shape[-2:]
        right, bottom = W - self.left - self.width, H - self.top - self.height
        return pad(y, (self.left, right, self.top, bottom))


class Selection(LinearMap):
    """Some places along one axis of the image, in the given order; the adjoint puts zeros in all the others."""

    shape: Shape
    axis: ClassVar[int]
    wanted: ClassVar[str]
    orthonormal = True

    @property
    @abstractmethod
    def places(self) -> tuple[int, ...]:
        """The places that are seen, each once."""

    def __post_init__(self) -> None:
        owner = type(self).__name__
        require_axes(owner, self.shape, self.axis + 1, self.wanted)
        size = self.shape[self.axis]
        distinct = len(set(self.places)) == len(self.places) > 0
        if not distinct or any(not 0 <= place < size for place in self.places):
            raise ValueError(f"{owner} needs one or more distinct places from 0 to {size - 1}, got {self.places}.")

    @property
    def in_shape(self) -> Shape:
        return self.shape

    @property
    def out_shape(self) -> Shape:
        return (*self.shape[: self.axis], len(self.places), *self.shape[self.axis + 1 :])

    def __call__(self, x: Tensor) -> Tensor:
        self.check(x, self.in_shape)
        return x.index_select(self.axis + 1, torch.tensor(self.places, device=x.device))

    def adjoint(self, y: Tensor) -> Tensor:
        self.check(y, self.out_shape)
        blank = y.new_zeros(y.shape[0], *self.in_shape)
        return blank.index_copy(self.axis + 1, torch.tensor(self.places, device=y.device), y)


@dataclass(frozen=True)
class Channel(Selection):
    """Some channels: (C, ...) to (len(channels), ...)."""

    shape: Shape
    channels: tuple[int, ...] = (0,)
    axis = 0
    wanted = "(C, ...)"

    @property
    def places(self) -> tuple[int, ...]:
        return self.channels


@dataclass(frozen=True)
class Frames(Selection):
    """Some frames of a clip: (C, T, H, W) to (C, len(frames), H, W)."""

    shape: Shape
    frames: tuple[int, ...] = (0,)
    axis = 1
    wanted = "(C, T, H, W)"

    @property
    def places(self) -> tuple[int, ...]:
        return self.frames

    def __post_init__(self) -> None:
        if len(self.shape) != 4:
            raise ValueError(f"Frames needs the shape (C, T, H, W) of a clip, got {tuple(self.shape)}.")
        super().__post_init__()


@dataclass(frozen=True)
class Pool(LinearMap):
    """Block sums over size × size pixels divided by size: (..., H, W) to (..., H/size, W/size)."""

    shape: Shape
    size: int
    orthonormal = True

    def __post_init__(self) -> None:
        require_axes("Pool", self.shape, 2, "(..., H, W)")
        H, W = self.shape[-2:]
        if self.size < 1 or H % self.size or W % self.size:
            raise ValueError(f"Pool needs a size that divides the {H} x {W} image, got {self.size}.")

    @property
    def in_shape(self) -> Shape:
        return self.shape

    @property
    def out_shape(self) -> Shape:
        return (*self.shape[:-2], self.shape[-2] // self.size, self.shape[-1] // self.size)

    def __call__(self, x: Tensor) -> Tensor:
        self.check(x, self.in_shape)
        # Added slice by slice: a fused sum may change its order, and so its last bit, with the batch or the threads.
        rows = functools.reduce(torch.add, (x[..., i :: self.size, :] for i in range(self.size)))
        return functools.reduce(torch.add, (rows[..., j :: self.size] for j in range(self.size))) / self.size

    def adjoint(self, y: Tensor) -> Tensor:
        self.check(y, self.out_shape)
        return (y / self.size).repeat_interleave(self.size, -2).repeat_interleave(self.size, -1)
