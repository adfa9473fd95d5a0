"""Compressed sensing by a fast transform: a few random rows of a Walsh-Hadamard matrix behind random signs.

Each channel and frame of N = H W pixels, N a power of two, is measured as y = S H D x / √N: D flips signs, H is the
Hadamard matrix in N log N additions, S keeps `count` rows. The rows are orthonormal, so noise stays white and A⁺ = Aᵀ.
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


def transform(x: Tensor) -> Tensor:
    """H x along the last axis, whose length is a power of two; H is symmetric, of ±1, and H H = N I."""
    n = x.shape[-1]
    h = x.reshape(*x.shape[:-1], 1, n)
    while h.shape[-1] > 1:
        left, right = h.chunk(2, -1)
        h = torch.cat([left + right, left - right], -2)
    return h.reshape(x.shape)


@dataclass(frozen=True, eq=False)
class HadamardRows(LinearMap):
    """`signs` (B or 1, N) of ±1 and the `picks` (B or 1, count) of the rows that are kept, each once."""

    shape: Shape
    signs: Tensor
    picks: Tensor
    orthonormal = True

    def __post_init__(self) -> None:
        pixels = _pixels("HadamardRows", self.shape)
        if self.signs.shape != (len(self.picks), pixels) or self.picks.ndim != 2 or not self.picks.numel():
            raise ValueError(f"HadamardRows needs signs (B, {pixels}) and picks (B, count) of one B of at least 1.")

    @property
    def in_shape(self) -> Shape:
        return self.shape

    @property
    def out_shape(self) -> Shape:
        return (*self.shape[:-2], self.picks.shape[1])

    @property
    def rows(self) -> int:
        return len(self.picks)

    def _per_channel(self, rows: Tensor, like: Tensor) -> Tensor:
        spread = rows.to(like.device).reshape(len(rows), *(1,) * (len(self.shape) - 2), -1)
        return spread.expand(len(like), *self.shape[:-2], -1)

    def __call__(self, x: Tensor) -> Tensor:
        self.check(x, self.in_shape)
        flat = x.flatten(-2) * self._per_channel(self.signs, x).to(x)
        return transform(flat).gather(-1, self._per_channel(self.picks, x)) / math.sqrt(flat.shape[-1])

    def adjoint(self, y: Tensor) -> Tensor:
        self.check(y, self.out_shape)
        n = self.signs.shape[1]
        full = y.new_zeros(len(y), *self.shape[:-2], n).scatter(-1, self._per_channel(self.picks, y), y)
        back = transform(full) * self._per_channel(self.signs, y).to(y) / math.sqrt(n)
        return back.reshape(len(y), *self.shape)


@dataclass(frozen=True)
class Hadamard(Corruption):
    """`count` random measurements of every channel, other ones for each example; a row holds the key of its draw."""

    count: int

    def out_shape(self, shape: Shape) -> Shape:
        pixels = _pixels("Hadamard", shape)
        if not 1 <= self.count <= pixels:
            raise ValueError(f"Hadamard.count must be from 1 to the {pixels} pixels of a channel, got {self.count}.")
        return (*shape[:-2], self.count)

    def draw(self, shape: Shape, key: Key) -> Row:
        self.out_shape(shape)
        return {"patterns": np.array([key.integer()], np.int64)}

    def at(self, rows: Mapping[str, np.ndarray], shape: Shape) -> LinearMap:
        self.out_shape(shape)
        pixels = _pixels("Hadamard", shape)
        signs, picks = [], []
        for number in column(rows, "patterns", width=1)[:, 0]:
            words = Key(int(number)).fold("hadamard").numpy().bit_generator.random_raw(2 * pixels)
            signs.append(np.where(words[:pixels] >> 63, 1, -1))
            picks.append(np.argsort(words[pixels:], kind="stable")[: self.count])
        return HadamardRows(shape, torch.from_numpy(np.stack(signs)), torch.from_numpy(np.stack(picks)))


def _pixels(owner: str, shape: Shape) -> int:
    require_axes(owner, shape, 2, "(..., H, W)")
    pixels = shape[-2] * shape[-1]
    if pixels & (pixels - 1):
        raise ValueError(
            f"{owner} needs images whose number of pixels is a power of two, got {shape[-2:]}: resize them."
        )
    return pixels
