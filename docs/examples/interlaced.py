"""Interlaced: of every image one field is seen, the even lines or the odd ones, A = diag(m)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.keys import Key
from pipeline.physics.corruption import Corruption, Row, column
from pipeline.physics.linear import LinearMap, Shape
from pipeline.physics.masks import Masked


@dataclass(frozen=True)
class Interlaced(Corruption):
    """Every other line is hidden; which ones is drawn with equal chances, or with probability `even` the odd ones.

    Images are (..., H, W). A row holds the first line that is seen, 0 or 1.
    """

    even: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.even <= 1:
            raise ValueError(
                f"Interlaced.even is the probability to see the even lines, within [0, 1], got {self.even}."
            )

    def draw(self, shape: Shape, key: Key) -> Row:
        return {"field": np.array([key.numpy().random() >= self.even], dtype=np.uint8)}

    def at(self, rows: Mapping[str, np.ndarray], shape: Shape) -> LinearMap:
        first = torch.from_numpy(column(rows, "field", width=1).astype(np.int64))
        seen = torch.arange(shape[-2]) % 2 == first
        return Masked(shape, seen.reshape(len(first), *(1,) * (len(shape) - 2), shape[-2], 1))
