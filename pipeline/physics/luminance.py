"""Luminance: colour seen as brightness, y = wᵀ x with the weights of ITU-R BT.601; A Aᵀ = |w|² I, A⁺ = w / |w|²."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.physics.linear import LinearMap, Shape

WEIGHTS = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Luminance(LinearMap):
    """RGB images (3, *) to their brightness (1, *); noise of std σ becomes noise of std |w| σ, |w|² = 0.447."""

    shape: Shape

    def __post_init__(self) -> None:
        if len(self.shape) < 2 or self.shape[0] != 3 or min(self.shape) < 1:
            raise ValueError(f"Luminance needs the shape (3, ...) of colour images, got {tuple(self.shape)}.")

    @property
    def in_shape(self) -> Shape:
        return self.shape

    @property
    def out_shape(self) -> Shape:
        return (1, *self.shape[1:])

    @property
    def isotropy(self) -> float:
        return sum(w * w for w in WEIGHTS)

    def _weights(self, like: Tensor) -> Tensor:
        return torch.tensor(WEIGHTS, dtype=torch.float64).to(like).reshape(3, *(1,) * (len(self.shape) - 1))

    def __call__(self, x: Tensor) -> Tensor:
        self.check(x, self.in_shape)
        return (self._weights(x) * x).sum(1, keepdim=True)

    def adjoint(self, y: Tensor) -> Tensor:
        self.check(y, self.out_shape)
        return self._weights(y) * y

    def pinv(self, y: Tensor) -> Tensor:
        """W y / |w|²."""
        return self.adjoint(y) / self.isotropy
