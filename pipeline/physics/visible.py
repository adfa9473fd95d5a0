"""Visible: the pixels that a mask, a hole or a watermark leaves, taken out of the image: a view with A Aᵀ = I.

`Masked` keeps the image's shape and has zeros where nothing is seen, so that A Aᵀ = diag(m). Without those zeros what
is left is a selection, whose noise is white: at such a map a model of masked rows is asked (diffusion/told.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from pipeline.keys import Key
from pipeline.physics.corruption import Corruption
from pipeline.physics.linear import LinearMap, Shape, shows


@dataclass(frozen=True)
class Visible(LinearMap):
    """What draw number `draw` of a corruption lets through: (*shape) to the seen entries (n,), in the image's order.

    Args:
        shape: of the image.
        corruption: one that hides entries and keeps the others, such as a mask or a known watermark.
        seed: of its draws.
        draw: which of them; they are all the same where it draws nothing.

    Raises: ValueError: the corruption is none of these, or nothing is seen.
    """

    shape: Shape
    corruption: Corruption
    seed: int = 0
    draw: int = 0
    orthonormal = True

    def __post_init__(self) -> None:
        if not self.mask.any():
            raise ValueError(f"draw {self.draw} of {type(self.corruption).__name__} hides everything: take another")

    @cached_property
    def mask(self) -> Tensor:
        """Which entries are seen: bools (*shape)."""
        row = self.corruption.draw(self.shape, Key(self.seed).fold("visible", self.draw))
        A = self.corruption.at({name: np.asarray(value)[None] for name, value in row.items()}, self.shape)
        if (seen := hidden_by(A)) is None:
            raise ValueError(f"{type(self.corruption).__name__} does more than to hide some entries of an image")
        return seen[0]

    @property
    def in_shape(self) -> Shape:
        return self.shape

    @cached_property
    def out_shape(self) -> Shape:  # pyright: ignore[reportIncompatibleVariableOverride]
        return (int(self.mask.sum()),)

    @cached_property
    def _places(self) -> Tensor:
        return self.mask.flatten().nonzero()[:, 0]

    def __call__(self, x: Tensor) -> Tensor:
        self.check(x, self.in_shape)
        return x.flatten(1).index_select(1, self._places.to(x.device))

    def adjoint(self, y: Tensor) -> Tensor:
        self.check(y, self.out_shape)
        blank = y.new_zeros(y.shape[0], self.mask.numel())
        return blank.index_copy(1, self._places.to(y.device), y).reshape(-1, *self.in_shape)


def hidden_by(A: LinearMap) -> Tensor | None:
    """Of a map that multiplies each entry by a weight, those that have one: bools (rows, *in); None of any other."""
    if A.in_shape != A.out_shape:
        return None
    z = torch.from_numpy(Key(0).fold("hidden by").numpy().standard_normal((1, *A.in_shape))).expand(A.rows, *A.in_shape)
    return shows(A) if torch.allclose(A(z), A(torch.ones_like(z)) * z, atol=1e-6) else None
