"""Measurements: maps from the pixels of each channel to a few numbers, inverted through the small matrix A Aᵀ.

With count numbers of N pixels, A⁺ = Aᵀ (A Aᵀ)⁺ takes the pseudo-inverse of a matrix of count x count, and the
singular values of A are the roots of its eigenvalues.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from pipeline.physics.linear import LinearMap, Shape


class Measurements(LinearMap):
    """Images (B, ..., H, W) to numbers (B, ..., count), alike for every channel and frame."""

    shape: Shape

    @property
    @abstractmethod
    def count(self) -> int:
        """Numbers taken of each channel."""

    @property
    @abstractmethod
    def gram(self) -> Tensor:
        """A Aᵀ of one channel: (B or 1, count, count) in float64."""

    @property
    def in_shape(self) -> Shape:
        return self.shape

    @property
    def out_shape(self) -> Shape:
        return (*self.shape[:-2], self.count)

    @property
    def singular_values(self) -> Tensor:
        """Those of A on one channel, the largest first: (B or 1, count) in float64."""
        return torch.linalg.eigvalsh(self.gram).clamp(min=0).sqrt().flip(-1)

    def pinv(self, y: Tensor) -> Tensor:
        """Aᵀ (A Aᵀ)⁺ y; singular values below a millionth of the largest count as 0."""
        if self.orthonormal:
            return self.adjoint(y)
        self.check(y, self.out_shape)
        inverse = torch.linalg.pinv(self.gram, rtol=1e-12, hermitian=True).to(y)
        return self.adjoint((y.reshape(len(y), -1, y.shape[-1]) @ inverse).reshape(y.shape))
