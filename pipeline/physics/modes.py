"""Modes: A = U S Vᵀ with V an orthonormal basis that maps of one kind share, pixels or waves.

In it everything is a product: AᵀA = V S² Vᵀ, A⁺A = V [S > 0] Vᵀ, and A⁺ stretches white noise to the covariance V S⁻²
Vᵀ on what is seen. For white z, Vᵀ z is white.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import singledispatch

import torch
from torch import Tensor

from pipeline.physics.fourier import FourierLines, hartley
from pipeline.physics.linear import Identity, LinearMap, Scaled
from pipeline.physics.masks import Masked
from pipeline.physics.mixture import Routed
from pipeline.physics.spectral import Spectral


@dataclass(frozen=True)
class Basis(ABC):
    """The columns of V; images (B, *) have as many coordinates in it, of the same shape."""

    @abstractmethod
    def into(self, x: Tensor) -> Tensor:
        """Vᵀ x (B, *)."""

    @abstractmethod
    def back(self, c: Tensor) -> Tensor:
        """V c (B, *)."""


@dataclass(frozen=True)
class Pixels(Basis):
    """V = I."""

    def into(self, x: Tensor) -> Tensor:
        return x

    def back(self, c: Tensor) -> Tensor:
        return c


@dataclass(frozen=True)
class Waves(Basis):
    """Hartley's basis of each channel: real, orthonormal, its own inverse (`fourier.hartley`)."""

    def into(self, x: Tensor) -> Tensor:
        return hartley(x)

    def back(self, c: Tensor) -> Tensor:
        return hartley(c)


@singledispatch
def modes(A: LinearMap) -> tuple[Basis, Tensor]:
    """V, and S (A.rows, *A.in_shape) in float64, 0 where nothing is seen.

    Raises ValueError: the map is none of those that pixels or waves make diagonal.
    """
    raise ValueError(
        f"{type(A).__name__} has no singular values that are known here; masks, noise alone, blur and Fourier lines "
        "have"
    )


@modes.register
def _(A: Identity) -> tuple[Basis, Tensor]:
    return Pixels(), torch.ones(1, *A.shape, dtype=torch.float64)


@modes.register
def _(A: Masked) -> tuple[Basis, Tensor]:
    return Pixels(), A.mask.expand(A.rows, *A.shape).double()


@modes.register
def _(A: Spectral) -> tuple[Basis, Tensor]:
    # An even h multiplies the coefficients of k and −k alike, and Hartley's are sums of the two.
    return Waves(), A.seen.abs().expand(1, *A.shape)


@modes.register
def _(A: FourierLines) -> tuple[Basis, Tensor]:
    chosen = torch.zeros(A.rows, A.shape[-1 if A.columns else -2], dtype=torch.float64)
    chosen.scatter_(1, torch.tensor(A.lines), 1.0)
    line = (1, -1) if A.columns else (-1, 1)
    return Waves(), chosen.view(A.rows, *(1,) * (len(A.shape) - 2), *line).expand(A.rows, *A.shape)


@modes.register
def _(A: Scaled) -> tuple[Basis, Tensor]:
    basis, values = modes(A.map)
    return basis, abs(A.factor) * values


@modes.register
def _(A: Routed) -> tuple[Basis, Tensor]:
    found = [modes(part) for part in A.maps]
    # Noise alone is diagonal in any basis.
    bases = {basis for part, (basis, _) in zip(A.maps, found) if not isinstance(part, Identity)} or {found[0][0]}
    if len(bases) > 1:
        raise ValueError("some of these rows went through masks and others through blur: no basis makes both diagonal")
    values = torch.empty(A.rows, *A.in_shape, dtype=torch.float64)
    for places, (_, own) in zip(A.groups, found):
        values[places] = own
    return bases.pop(), values
