"""Fourier lines, as in magnetic resonance imaging: some rows of the k-space of a real image, with A Aᵀ = I.

The lines k and -k of a real image hold the same numbers, conjugated, so they are read together and counted as two. To
stay real, y holds them in Hartley's basis: with F the orthonormal Fourier transform, y(k) = Re F x(k) - Im F x(k), an
orthogonal transform from which F x(k) and F x(-k) follow (Bracewell, "Discrete Hartley transform", J. Opt. Soc. Am. 73,
1983). All singular values are 1, noise stays white, A⁺ = Aᵀ, and P = A⁺A = F* M F is the zero-filled reconstruction.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.keys import Key
from pipeline.physics.corruption import Corruption, Row, column
from pipeline.physics.linear import LinearMap, Shape
from pipeline.physics.views import require_axes


def hartley(x: Tensor) -> Tensor:
    """The orthonormal Hartley transform over the last two axes: real, symmetric and its own inverse."""
    spectrum = torch.fft.fft2(x, norm="ortho")
    return spectrum.real - spectrum.imag


@dataclass(frozen=True)
class FourierLines(LinearMap):
    """The k-space rows `lines` of images (..., H, W), or columns: to (..., L, W) or (..., H, L).

    `lines` holds one tuple for a map that serves every example, or one of the same length for each; a line is a whole
    number of waves over the image, 0 to H - 1 with H - k for -k, increasing, and with k comes H - k.
    """

    shape: Shape
    lines: tuple[tuple[int, ...], ...]
    columns: bool = False
    orthonormal = True

    def __post_init__(self) -> None:
        size = line_axis("FourierLines", self.shape, self.columns)
        if len({len(chosen) for chosen in self.lines}) != 1 or not self.lines[0]:
            raise ValueError("FourierLines needs one line or more, and as many of them for every example.")
        for chosen in self.lines:
            whole = set(chosen)
            increasing = list(chosen) == sorted(whole)
            if not increasing or whole != {-k % size for k in whole}:
                raise ValueError(
                    f"FourierLines needs increasing lines from 0 to {size - 1} with {size} - k beside k, got {chosen}."
                )

    @property
    def in_shape(self) -> Shape:
        return self.shape

    @property
    def out_shape(self) -> Shape:
        H, W = self.shape[-2:]
        count = len(self.lines[0])
        return (*self.shape[:-2], H, count) if self.columns else (*self.shape[:-2], count, W)

    @property
    def rows(self) -> int:
        return len(self.lines)

    def _places(self, like: Tensor) -> Tensor:
        lines = torch.tensor(self.lines, device=like.device)
        line = (1, -1) if self.columns else (-1, 1)
        return lines.reshape(len(lines), *(1,) * (len(self.shape) - 2), *line).expand(len(like), *self.out_shape)

    def __call__(self, x: Tensor) -> Tensor:
        self.check(x, self.in_shape)
        return hartley(x).gather(-1 if self.columns else -2, self._places(x))

    def adjoint(self, y: Tensor) -> Tensor:
        self.check(y, self.out_shape)
        blank = y.new_zeros(len(y), *self.in_shape)
        return hartley(blank.scatter(-1 if self.columns else -2, self._places(y), y))


@dataclass(frozen=True)
class Fourier(Corruption):
    """At most 1/acceleration of the lines: those in the centre always, the others in pairs, all alike, by key.

    The centre is line 0 and the pairs around it that fit into the share `centre` of all lines (fastMRI's convention:
    0.08 at an acceleration of 4, 0.04 at 8). The number of lines is odd, since k comes with -k; the middle line of an
    even number, its own mate, is read only where all are. A row holds the lines as packed bits, in the order of k.
    """

    acceleration: float
    centre: float = 0.08
    columns: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (math.isfinite(self.acceleration) and self.acceleration >= 1 and 0 <= self.centre <= 1):
            raise ValueError(
                f"Fourier needs acceleration >= 1 and 0 <= centre <= 1, got {self.acceleration} and {self.centre}."
            )

    def pairs(self, shape: Shape) -> tuple[int, int]:
        """How many pairs of lines are read, and how many of them around line 0. Raises ValueError if none is left."""
        size = line_axis("Fourier", shape, self.columns)
        count, around = int(size / self.acceleration), max(int(size * self.centre) - 1, 0) // 2
        if around > (count - 1) // 2:
            raise ValueError(
                f"Fourier needs the centre, line 0 and {around} pairs, to fit into the {count} of {size} lines that an "
                f"acceleration of {self.acceleration} leaves: lower one of them."
            )
        return (count - 1) // 2, around

    def out_shape(self, shape: Shape) -> Shape:
        size = line_axis("Fourier", shape, self.columns)
        pairs, _ = self.pairs(shape)
        count = size if self.acceleration == 1 else 2 * pairs + 1
        return (*shape[:-1], count) if self.columns else (*shape[:-2], count, shape[-1])

    def draw(self, shape: Shape, key: Key) -> Row:
        size = line_axis("Fourier", shape, self.columns)
        pairs, around = self.pairs(shape)
        seen = np.zeros(size, bool)
        apart = np.arange(around + 1, (size + 1) // 2)
        chosen = [*range(around + 1), *key.numpy().permutation(apart)[: pairs - around]]
        seen[chosen] = seen[np.negative(chosen)] = True
        return {"lines": np.packbits(seen | (self.acceleration == 1))}

    def at(self, rows: Mapping[str, np.ndarray], shape: Shape) -> LinearMap:
        size = line_axis("Fourier", shape, self.columns)
        packed = column(rows, "lines", width=-(-size // 8)).astype(np.uint8, copy=False)
        seen = np.unpackbits(packed, axis=1, count=size)
        A = FourierLines(shape, tuple(tuple(np.flatnonzero(bits).tolist()) for bits in seen), self.columns)
        if A.out_shape != self.out_shape(shape):
            raise ValueError(f"The rows' 'lines' should be those of {self} and lead to {self.out_shape(shape)}.")
        return A


def line_axis(owner: str, shape: Shape, columns: bool) -> int:
    """The number of lines of images of this shape."""
    require_axes(owner, shape, 2, "(..., H, W)")
    return shape[-1] if columns else shape[-2]
