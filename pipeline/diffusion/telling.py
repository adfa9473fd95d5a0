"""Telling: how a network is told of every row which mask, or which window of the image, it was seen through.

A row comes with its own A. What the network gets beside it is A applied to a fixed image p: p = 1 for masks, so that
A p is the mask, and p = the coordinates of every pixel for windows, so that A p says where the window lies. A small
code stands for A where rows are kept and batched. `told.py` has the network.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.keys import Key
from pipeline.physics.linear import LinearMap, Shape
from pipeline.physics.visible import hidden_by


class Telling(ABC):
    """How a network is told of a row's A: by a small code; subclasses are frozen dataclasses.

    `shape` is that of the whole image (C, *), `rows` that of a row as the network takes it, `planes` how many channels
    tell the code.
    """

    shape: Shape

    @property
    @abstractmethod
    def rows(self) -> Shape: ...

    @property
    @abstractmethod
    def planes(self) -> int: ...

    @abstractmethod
    def code(self, A: LinearMap) -> Tensor:
        """The codes (B or 1, *) of maps. Raises ValueError: they are not of this kind."""

    @abstractmethod
    def told(self, code: Tensor) -> Tensor:
        """A p (B, planes, *) in float32."""

    @abstractmethod
    def cut(self, image: Tensor, code: Tensor) -> Tensor:
        """Of one image (C, *) what each row shows of it: (B, *rows), 0 where it shows nothing."""

    @abstractmethod
    def seen(self, u: Tensor, code: Tensor) -> Tensor:
        """Rows u (B, *rows), whatever they hold where nothing is seen: with 0 there."""

    @abstractmethod
    def counts(self, code: Tensor) -> Tensor:
        """How many numbers each row shows (B,), at least 1."""

    @abstractmethod
    def added(self, u: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
        """Rows in their place in the whole image, added up, and how many there are at each entry: (C, *) both."""

    @abstractmethod
    def laid(self, v: Tensor, A: LinearMap) -> Tensor:
        """Rows (B, *rows) that hold what A shows, v (B, *out)."""

    @abstractmethod
    def taken(self, u: Tensor, A: LinearMap) -> Tensor:
        """The numbers (B, *out) that A shows, from rows."""


@dataclass(frozen=True)
class Masks(Telling):
    """Rows keep the image's shape and have 0 where A hides; the code is the mask (B, 1 or C, *), True where seen.

    All channels are hidden `together`, or each by itself.
    """

    shape: Shape
    together: bool = True

    @property
    def rows(self) -> Shape:
        return tuple(self.shape)

    @property
    def planes(self) -> int:
        return 1 if self.together else self.shape[0]

    def code(self, A: LinearMap) -> Tensor:
        """The mask of a map that hides, or of a selection such as a window."""
        seen, name = mask_of(A), type(A).__name__
        if seen is None or tuple(seen.shape[1:]) != self.rows:
            raise ValueError(
                f"{name} neither masks nor selects entries of {self.rows}, so that no mask says what it does"
            )
        if not self.together:
            return seen
        if not torch.equal(seen, seen[:, :1].expand_as(seen)):
            raise ValueError(f"{name} hides channels one by one, and the network is told of masks of all together")
        return seen[:, :1]

    def told(self, code: Tensor) -> Tensor:
        return code.float()

    def cut(self, image: Tensor, code: Tensor) -> Tensor:
        return torch.where(code, image, 0)

    def seen(self, u: Tensor, code: Tensor) -> Tensor:
        return torch.where(code, u, 0)

    def counts(self, code: Tensor) -> Tensor:
        return (code.flatten(1).sum(1) * (self.shape[0] // self.planes)).clamp_min(1)

    def added(self, u: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
        return self.seen(u, code).sum(0), code.sum(0).expand(self.rows)

    def laid(self, v: Tensor, A: LinearMap) -> Tensor:
        return A.adjoint(v)

    def taken(self, u: Tensor, A: LinearMap) -> Tensor:
        return A(u)


def mask_of(A: LinearMap) -> Tensor | None:
    """Which entries a map that masks or selects shows: bools (B or 1, *in); None of any other."""
    if (seen := hidden_by(A)) is not None:
        return seen
    z = torch.from_numpy(Key(0).fold("selects").numpy().standard_normal((1, *A.in_shape)))
    shown = A.adjoint(A(z)) if A.orthonormal and A.rows == 1 else torch.full_like(z, math.nan)
    seen = shown != 0
    return seen if torch.allclose(shown, seen * z) else None


@dataclass(frozen=True)
class Windows(Telling):
    """Rows are windows of `sides` (one an axis behind the channels); the code is their first pixel (B, axes)."""

    shape: Shape
    sides: Shape

    def __post_init__(self) -> None:
        fits = len(self.sides) == len(self.shape) - 1
        if not fits or any(not 1 <= n <= N for n, N in zip(self.sides, self.shape[1:])):
            raise ValueError(f"windows of {tuple(self.sides)} do not fit into images of {tuple(self.shape)}")

    @property
    def rows(self) -> Shape:
        return (self.shape[0], *self.sides)

    @property
    def planes(self) -> int:
        return len(self.sides)

    def code(self, A: LinearMap) -> Tensor:
        """The first pixel of a map that shows all channels of a window of these sides."""
        number = torch.arange(math.prod(self.shape), dtype=torch.float64).reshape(1, *self.shape)
        if tuple(A.in_shape) == tuple(self.shape) and tuple(A.out_shape) == self.rows:
            shown = A(number.expand(A.rows, *self.shape)).round().long()
            first = shown.flatten(1)[:, 0]
            corner = torch.stack(torch.unravel_index(first, tuple(self.shape))[1:], 1)
            size = math.prod(self.shape[1:])
            channels = size * torch.arange(self.shape[0])[None, :, None]
            fits = all(int(c) + n <= N for c, n, N in zip(corner.amax(0), self.sides, self.shape[1:]))
            if fits and torch.equal(shown.flatten(2), channels + self._places(corner)[:, None]):
                return corner
        raise ValueError(f"{type(A).__name__} shows no window of {self.sides} of images of {tuple(self.shape)}")

    def told(self, code: Tensor) -> Tensor:
        """Coordinates from −1 to 1 over the whole image."""
        axes = [
            torch.linspace(-1, 1, N, device=code.device) if N > 1 else torch.zeros(1, device=code.device)
            for N in self.shape[1:]
        ]
        return self.cut(torch.stack(torch.meshgrid(*axes, indexing="ij")), code)

    def cut(self, image: Tensor, code: Tensor) -> Tensor:
        places = self._places(code)
        return image.flatten(1)[:, places].transpose(0, 1).reshape(code.shape[0], -1, *self.sides)

    def seen(self, u: Tensor, code: Tensor) -> Tensor:
        return u

    def counts(self, code: Tensor) -> Tensor:
        return torch.full(code.shape[:1], math.prod(self.rows), device=code.device)

    def added(self, u: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
        places = self._places(code).flatten()
        into = u.new_zeros(self.shape[0], math.prod(self.shape[1:]))
        total = into.index_add(1, places, u.flatten(2).transpose(0, 1).flatten(1))
        count = into[0].index_add(0, places, torch.ones_like(places).to(u))
        return total.reshape(self.shape), count.reshape(1, *self.shape[1:]).expand(self.shape)

    def laid(self, v: Tensor, A: LinearMap) -> Tensor:
        return v

    def taken(self, u: Tensor, A: LinearMap) -> Tensor:
        return u

    def _places(self, corner: Tensor) -> Tensor:
        """The numbers (B, pixels of a window) of its pixels in the whole image, channels aside."""
        places, stride = corner.new_zeros(corner.shape[0], *(1,) * len(self.sides)), 1
        for axis in reversed(range(len(self.sides))):
            at = corner[:, axis, None] + torch.arange(self.sides[axis], device=corner.device)
            view = [1] * len(self.sides)
            view[axis] = self.sides[axis]
            places = places + stride * at.reshape(-1, *view)
            stride *= self.shape[axis + 1]
        return places.flatten(1)
