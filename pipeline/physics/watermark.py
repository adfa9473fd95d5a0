"""Watermark: a known logo L drawn over every image with opacity a, v = (1 - a) x0 + a L.

L and a are known, so a L is subtracted: y = v - a L = (1 - a) x0 is linear, A = diag(1 - a). Where a >= 0.9 little is
left of x0 and x0 = y / (1 - a) would divide by almost nothing: there, and `dilation` pixels around, A hides the pixel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.keys import Key
from pipeline.physics.corruption import Corruption, Row
from pipeline.physics.linear import LinearMap, Shape

OPAQUE = 0.9
LARGEST = 128
Grid = tuple[tuple[float, ...], ...]


@dataclass(frozen=True, eq=False)
class Diagonal(LinearMap):
    """A x = w ⊙ x: `weights` (B or 1, *) broadcast to (B, *shape); a pixel of weight 0 is hidden."""

    shape: Shape
    weights: Tensor

    def __post_init__(self) -> None:
        lengths = tuple(self.weights.shape[1:])
        fits = len(lengths) == len(self.shape) and all(m in (1, n) for m, n in zip(lengths, self.shape))
        if not fits or len(self.weights) == 0 or not self.weights.isfinite().all():
            raise ValueError(f"Diagonal needs finite weights that broadcast to (B, {self.shape}), got {lengths}.")

    @property
    def in_shape(self) -> Shape:
        return self.shape

    @property
    def out_shape(self) -> Shape:
        return self.shape

    @property
    def rows(self) -> int:
        return len(self.weights)

    def __call__(self, x: Tensor) -> Tensor:
        self.check(x, self.shape)
        weights = self.weights.to(x)
        return torch.where(weights == 0, 0, weights * x)

    def adjoint(self, y: Tensor) -> Tensor:
        return self(y)

    def pinv(self, y: Tensor) -> Tensor:
        """A⁺ y = y / w where w is not 0, else 0."""
        self.check(y, self.shape)
        weights = self.weights.to(y)
        return torch.where(weights == 0, 0, y / torch.where(weights == 0, 1, weights))


@dataclass(frozen=True)
class Watermark(Corruption):
    """The logo's opacity `alpha` (h, w) in [0, 1] and its `colour` (C, h, w) in [-1, 1], first pixel at (top, left).

    `corrupt` gives y = A x0, from which the known a L is already taken; `over` draws v as a viewer sees it and `linear`
    takes such v back to y. The numbers themselves are the configuration, so another logo has another fingerprint.
    """

    alpha: Grid
    colour: tuple[Grid, ...]
    top: int = 0
    left: int = 0
    dilation: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        h, w = len(self.alpha), len(self.alpha[0]) if self.alpha else 0
        even = all(len(line) == w for grid in (self.alpha, *self.colour) for line in grid)
        if not (h and w and self.colour and even and all(len(grid) == h for grid in self.colour)):
            raise ValueError("Watermark needs alpha (h, w) and colour (C, h, w) with one and the same h and w.")
        alpha, colour = np.array(self.alpha), np.array(self.colour)
        if not (((alpha >= 0) & (alpha <= 1)).all() and (np.abs(colour) <= 1).all()):
            raise ValueError("Watermark needs alpha in [0, 1] and colour in [-1, 1]: divide bytes u as u / 127.5 - 1.")
        if min(self.top, self.left, self.dilation) < 0:
            raise ValueError(
                f"Watermark needs top, left and dilation >= 0, got {self.top}, {self.left} and {self.dilation}."
            )

    @classmethod
    def read(cls, path: str | Path, top: int = 0, left: int = 0, dilation: int = 1, noise: float = 0.0) -> Watermark:
        """The RGB logo of an image file with an alpha channel. Raises ValueError without one or above 128 pixels."""
        from PIL import Image

        with Image.open(path) as image:
            if max(image.size) > LARGEST or image.mode not in ("RGBA", "LA", "PA"):
                raise ValueError(f"{path} should be a logo with alpha of at most {LARGEST} x {LARGEST} pixels.")
            rgba = np.asarray(image.convert("RGBA"), dtype=np.float64)
        alpha = tuple(map(tuple, (rgba[..., 3] / 255).tolist()))
        colour = tuple(tuple(map(tuple, (rgba[..., c] / 127.5 - 1).tolist())) for c in range(3))
        return cls(alpha, colour, top, left, dilation, noise=noise)

    def draw(self, shape: Shape, key: Key) -> Row:
        return {}

    def at(self, rows: Mapping[str, np.ndarray], shape: Shape) -> Diagonal:
        alpha, _ = self._placed(shape)
        size = 2 * self.dilation + 1
        opaque = (alpha >= OPAQUE).to(alpha)
        hidden = torch.nn.functional.max_pool2d(opaque[None], size, stride=1, padding=self.dilation)[0] > 0
        weights = torch.where(hidden, 0, 1 - alpha)
        return Diagonal(shape, weights.reshape(1, *(1,) * (len(shape) - 2), *shape[-2:]))

    def over(self, x0: Tensor) -> Tensor:
        """What a viewer sees of images x0 (B, C, *, H, W): v = (1 - a) x0 + a L."""
        alpha, colour = (t.to(x0) for t in self._placed(tuple(x0.shape[1:])))
        return (1 - alpha) * x0 + alpha * colour

    def linear(self, v: Tensor) -> Tensor:
        """The measurement y = A x0 in v = (1 - a) x0 + a L: a L is subtracted and what A hides is 0."""
        shape = tuple(v.shape[1:])
        alpha, colour = (t.to(v) for t in self._placed(shape))
        return torch.where(self.at({}, shape).weights.to(v) == 0, 0, v - alpha * colour)

    def _placed(self, shape: Shape) -> tuple[Tensor, Tensor]:
        """The opacity a as (1, H, W) and L as (C, 1..., H, W) on a whole image of `shape`, 0 outside of the logo."""
        C, h, w = len(self.colour), len(self.alpha), len(self.alpha[0])
        if len(shape) < 3 or shape[0] != C or self.top + h > shape[-2] or self.left + w > shape[-1]:
            raise ValueError(
                f"Watermark has {C} channels and reaches to ({self.top + h}, {self.left + w}): "
                f"images of shape {shape} do not hold it."
            )
        alpha, colour = torch.zeros(1, *shape[-2:]).double(), torch.zeros(C, *shape[-2:]).double()
        window = (..., slice(self.top, self.top + h), slice(self.left, self.left + w))
        alpha[window], colour[window] = (
            torch.tensor(numbers, dtype=torch.float64) for numbers in (self.alpha, self.colour)
        )
        return alpha, colour.reshape(C, *(1,) * (len(shape) - 3), *shape[-2:])
