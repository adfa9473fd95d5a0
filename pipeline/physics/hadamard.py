"""Compressed sensing by a fast transform: a few random rows of a Walsh-Hadamard matrix behind random signs.

Each channel and frame of N pixels is measured as y = S H D E x / √M, with M the power of two from N on: E appends M - N
zeros, D flips signs, H is the Hadamard matrix in M log M additions, S keeps `count` rows. If N = M the rows are
orthonormal, noise stays white and A⁺ = Aᵀ. Else two rows i and j of H multiply to the row of i xor j, so that
A Aᵀ = w[i xor j] / M with w = H (1 on N pixels, 0 on the zeros): the singular values are the roots of its eigenvalues,
all in [0, 1] and at least count + N - M of them 1; A⁺ = Aᵀ (A Aᵀ)⁺.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from pipeline.keys import Key
from pipeline.physics.corruption import Corruption, Row, column
from pipeline.physics.linear import LinearMap, Shape
from pipeline.physics.measurements import Measurements
from pipeline.physics.views import require_axes


def transform(x: Tensor) -> Tensor:
    """H x along the last axis, whose length is a power of two; H is symmetric, of ±1, and H H = N I."""
    n = x.shape[-1]
    h = x.reshape(*x.shape[:-1], 1, n)
    while h.shape[-1] > 1:
        left, right = h.chunk(2, -1)
        h = torch.cat([left + right, left - right], -2)
    return h.reshape(x.shape)


def sizes(owner: str, shape: Shape) -> tuple[int, int]:
    """N, the pixels of one channel, and M, the power of two from N on. Raises ValueError for no image."""
    require_axes(owner, shape, 2, "(..., H, W)")
    pixels = shape[-2] * shape[-1]
    return pixels, 1 << (pixels - 1).bit_length()


@dataclass(frozen=True, eq=False)
class HadamardRows(Measurements):
    """`signs` (B or 1, N) of ±1 and the `picks` (B or 1, count) of the rows kept, each once, from 0 to M - 1."""

    shape: Shape
    signs: Tensor
    picks: Tensor

    def __post_init__(self) -> None:
        pixels, length = sizes("HadamardRows", self.shape)
        if self.signs.shape != (len(self.picks), pixels) or self.picks.ndim != 2 or not self.picks.numel():
            raise ValueError(f"HadamardRows needs signs (B, {pixels}) and picks (B, count) of one B of at least 1.")
        ordered = self.picks.sort(-1).values
        if ordered[:, 0].min() < 0 or ordered[:, -1].max() >= length or not ordered.diff().all():
            raise ValueError(f"HadamardRows needs distinct picks from 0 to {length - 1} in each row of picks.")

    @property
    def count(self) -> int:
        return self.picks.shape[1]

    @property
    def rows(self) -> int:
        return len(self.picks)

    @property
    def length(self) -> int:
        """M, the power of two from N on."""
        return sizes("HadamardRows", self.shape)[1]

    @property
    def orthonormal(self) -> bool:
        return self.length == self.signs.shape[1]

    @property
    def gram(self) -> Tensor:
        """A Aᵀ of one channel, (B or 1, count, count) in float64; its entries are whole numbers over M."""
        w = transform((torch.arange(self.length, device=self.picks.device) < self.signs.shape[1]).double())
        return w[self.picks[:, :, None] ^ self.picks[:, None, :]] / self.length

    def _per_channel(self, rows: Tensor, like: Tensor) -> Tensor:
        spread = rows.to(like.device).reshape(len(rows), *(1,) * (len(self.shape) - 2), -1)
        return spread.expand(len(like), *self.shape[:-2], -1)

    def __call__(self, x: Tensor) -> Tensor:
        self.check(x, self.in_shape)
        flat = x.flatten(-2) * self._per_channel(self.signs, x).to(x)
        padded = pad(flat, (0, self.length - flat.shape[-1]))
        return transform(padded).gather(-1, self._per_channel(self.picks, x)) / math.sqrt(self.length)

    def adjoint(self, y: Tensor) -> Tensor:
        self.check(y, self.out_shape)
        full = y.new_zeros(len(y), *self.shape[:-2], self.length).scatter(-1, self._per_channel(self.picks, y), y)
        seen = transform(full)[..., : self.signs.shape[1]]
        back = seen * self._per_channel(self.signs, y).to(y) / math.sqrt(self.length)
        return back.reshape(len(y), *self.shape)


@dataclass(frozen=True)
class Hadamard(Corruption):
    """`count` random measurements of every channel, other ones for each example; a row holds the key of its draw."""

    count: int

    def out_shape(self, shape: Shape) -> Shape:
        pixels, _ = sizes("Hadamard", shape)
        if not 1 <= self.count <= pixels:
            raise ValueError(f"Hadamard.count must be from 1 to the {pixels} pixels of a channel, got {self.count}.")
        return (*shape[:-2], self.count)

    def draw(self, shape: Shape, key: Key) -> Row:
        self.out_shape(shape)
        return {"patterns": np.array([key.integer()], np.int64)}

    def at(self, rows: Mapping[str, np.ndarray], shape: Shape) -> LinearMap:
        self.out_shape(shape)
        pixels, length = sizes("Hadamard", shape)
        signs, picks = [], []
        for number in column(rows, "patterns", width=1)[:, 0]:
            words = Key(int(number)).fold("hadamard").numpy().bit_generator.random_raw(2 * length)
            signs.append(np.where(words[:pixels] >> 63, 1, -1))
            picks.append(np.argsort(words[length:], kind="stable")[: self.count])
        return HadamardRows(shape, torch.from_numpy(np.stack(signs)), torch.from_numpy(np.stack(picks)))
