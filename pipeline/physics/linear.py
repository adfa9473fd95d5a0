"""LinearMap: A, Aᵀ, A⁺ and P = A⁺A, with composition and stacking.

A linear map takes a batch x (B, *in) to A x (B, *out), example by example. Aᵀ is its adjoint, ⟨A x, y⟩ = ⟨x, Aᵀ y⟩;
A⁺ its Moore-Penrose inverse, so that P = A⁺A is the orthogonal projection on what A can see. Where A Aᵀ = I the map is
called orthonormal: then A⁺ = Aᵀ, and A (x0 + σ z) = A x0 + σ z' with z' white again. Where A Aᵀ = c I it is isotropic,
and A / √c is orthonormal (`unit`).

A map of your own is a subclass with in_shape, out_shape, `__call__` and `adjoint`, and `pinv` where you know a closed
form; `pipeline.physics.check.check_operator` proves it on its dense matrix.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.keys import Key
from pipeline.physics.solve import conjugate_gradients

Shape = tuple[int, ...]


class LinearMap(ABC):
    """An immutable linear map from (B, *in_shape) to (B, *out_shape); shapes are without the batch.

    `rows` is 1 for one map that serves a batch of any size, or B for B maps, the i-th for the i-th example.
    """

    in_shape: Shape
    out_shape: Shape
    rows: int = 1
    orthonormal: bool = False

    @property
    def isotropy(self) -> float | None:
        """The c > 0 of A Aᵀ = c I, which makes of white noise of std σ white noise of std √c σ; None: there is none."""
        return 1.0 if self.orthonormal else None

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """A x: (B, *in) to (B, *out). Raises ValueError on another shape."""

    @abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        """Aᵀ y: (B, *out) to (B, *in). Raises ValueError on another shape."""

    def pinv(self, y: Tensor) -> Tensor:
        """A⁺ y: (B, *out) to (B, *in), the smallest x of those nearest to y; A⁺ = Aᵀ (A Aᵀ)⁺ = (Aᵀ A)⁺ Aᵀ.

        Aᵀ when orthonormal, else conjugate gradients on Aᵀ A x = Aᵀ y from 0. Raises ValueError on another shape.
        """
        if self.orthonormal:
            return self.adjoint(y)
        steps = 4 * min(math.prod(self.in_shape), math.prod(self.out_shape))
        tol = torch.finfo(y.dtype).eps
        return conjugate_gradients(lambda x: self.adjoint(self(x)), self.adjoint(y), tol, steps)

    def project(self, x: Tensor) -> Tensor:
        """P x = A⁺A x, the part of x (B, *in) that A can see; x - P x is what it cannot."""
        return self.pinv(self(x))

    def __matmul__(self, inner: LinearMap) -> LinearMap:
        """The product A @ B, x ↦ A(B(x))."""
        return Product(self, inner) if isinstance(inner, LinearMap) else NotImplemented

    def __rmul__(self, factor: float) -> LinearMap:
        """The multiple c A, x ↦ c A(x)."""
        return Scaled(self, float(factor)) if isinstance(factor, int | float) else NotImplemented

    def dense(self) -> Tensor:
        """The matrix of A in float64, (out, in) with both sides flattened, or (rows, out, in) for a map per row."""
        basis = torch.eye(math.prod(self.in_shape), dtype=torch.float64).reshape(-1, *self.in_shape)
        if self.rows == 1:
            return self(basis).flatten(1).T
        return torch.stack([self(e.expand(self.rows, *self.in_shape)).flatten(1) for e in basis], dim=-1)

    def check(self, x: Tensor, shape: Shape) -> None:
        """Raise ValueError unless x is (B, *shape), with B = rows where there is a map per row."""
        batch = "B" if self.rows == 1 else self.rows
        if tuple(x.shape[1:]) != shape or x.ndim == 0 or (self.rows > 1 and len(x) != self.rows):
            expected = ", ".join(map(str, (batch, *shape)))
            raise ValueError(f"{type(self).__name__} expects a tensor of shape ({expected}), got {tuple(x.shape)}.")


def shows(A: LinearMap) -> Tensor:
    """Which numbers of A x depend on x, almost surely: bools (rows, *out), where A z is not 0 for white z."""
    z = torch.from_numpy(Key(0).fold("shows").numpy().standard_normal((1, *A.in_shape)))
    y = A(z.expand(A.rows, *A.in_shape)).abs()
    return y > (1e-12 if y.dtype == torch.float64 else 1e-6) * y.max()


def unit(A: LinearMap) -> LinearMap:
    """A / √c where A Aᵀ = c I, which is orthonormal; A itself where c is 1. Raises ValueError: A is not isotropic."""
    if isinstance(A, Scaled) and A.factor > 0:
        return unit(A.map)
    if A.orthonormal:
        return A
    if A.isotropy is None:
        raise ValueError(f"{type(A).__name__} colours noise: A Aᵀ must be I, or a multiple of it")
    return Scaled(A, 1 / math.sqrt(A.isotropy))


def shared_rows(owner: str, maps: tuple[LinearMap, ...]) -> int:
    """The `rows` of several maps used together: 1, or the one B > 1 among them. Raises ValueError if they differ."""
    rows = {A.rows for A in maps} - {1}
    if len(rows) > 1:
        raise ValueError(f"{owner} needs maps drawn for one and the same batch, got batches of {sorted(rows)}.")
    return rows.pop() if rows else 1


@dataclass(frozen=True)
class Identity(LinearMap):
    """A = I on tensors (B, *shape)."""

    shape: Shape
    orthonormal = True

    @property
    def in_shape(self) -> Shape:
        return self.shape

    @property
    def out_shape(self) -> Shape:
        return self.shape

    def __call__(self, x: Tensor) -> Tensor:
        self.check(x, self.shape)
        return x

    def adjoint(self, y: Tensor) -> Tensor:
        self.check(y, self.shape)
        return y


@dataclass(frozen=True)
class Product(LinearMap):
    """The product x ↦ outer(inner(x)); orthonormal when both factors are."""

    outer: LinearMap
    inner: LinearMap

    def __post_init__(self) -> None:
        if self.inner.out_shape != self.outer.in_shape:
            outer, inner = type(self.outer).__name__, type(self.inner).__name__
            gives, expects = self.inner.out_shape, self.outer.in_shape
            raise ValueError(f"{outer} @ {inner} does not fit: {inner} gives {gives}, {outer} expects {expects}.")
        shared_rows("A product", (self.outer, self.inner))

    @property
    def in_shape(self) -> Shape:
        return self.inner.in_shape

    @property
    def out_shape(self) -> Shape:
        return self.outer.out_shape

    @property
    def rows(self) -> int:
        return shared_rows("A product", (self.outer, self.inner))

    @property
    def orthonormal(self) -> bool:
        return self.outer.orthonormal and self.inner.orthonormal

    @property
    def isotropy(self) -> float | None:
        """A B Bᵀ Aᵀ = c_B A Aᵀ."""
        outer, inner = self.outer.isotropy, self.inner.isotropy
        return None if outer is None or inner is None else outer * inner

    def __call__(self, x: Tensor) -> Tensor:
        self.check(x, self.in_shape)
        return self.outer(self.inner(x))

    def adjoint(self, y: Tensor) -> Tensor:
        self.check(y, self.out_shape)
        return self.inner.adjoint(self.outer.adjoint(y))

    def pinv(self, y: Tensor) -> Tensor:
        """(A B)⁺ = Bᵀ A⁺ when B Bᵀ = I (it is false in general); else conjugate gradients."""
        return self.inner.adjoint(self.outer.pinv(y)) if self.inner.orthonormal else super().pinv(y)


@dataclass(frozen=True)
class Stacked(LinearMap):
    """Several maps of one input, x ↦ (A₁ x, A₂ x, ...) flattened and concatenated: (B, *in) to (B, m₁ + m₂ + ...)."""

    maps: tuple[LinearMap, ...]

    def __post_init__(self) -> None:
        inputs = {A.in_shape for A in self.maps}
        if len(inputs) != 1:
            raise ValueError(f"Stacked needs at least one map and one common input shape, got {sorted(inputs)}.")
        shared_rows("Stacked", self.maps)

    @property
    def in_shape(self) -> Shape:
        return self.maps[0].in_shape

    @property
    def out_shape(self) -> Shape:
        return (sum(math.prod(A.out_shape) for A in self.maps),)

    @property
    def rows(self) -> int:
        return shared_rows("Stacked", self.maps)

    def split(self, y: Tensor) -> tuple[Tensor, ...]:
        """The parts of y (B, m₁ + m₂ + ...), each in its own map's out_shape (B, *outₖ)."""
        self.check(y, self.out_shape)
        parts = y.split([math.prod(A.out_shape) for A in self.maps], dim=1)
        return tuple(part.reshape(-1, *A.out_shape) for part, A in zip(parts, self.maps, strict=True))

    def __call__(self, x: Tensor) -> Tensor:
        self.check(x, self.in_shape)
        return torch.cat([A(x).flatten(1) for A in self.maps], dim=1)

    def adjoint(self, y: Tensor) -> Tensor:
        first, *rest = (A.adjoint(part) for A, part in zip(self.maps, self.split(y), strict=True))
        return sum(rest, start=first)


@dataclass(frozen=True)
class Scaled(LinearMap):
    """The multiple x ↦ factor · A x, with a finite factor other than 0."""

    map: LinearMap
    factor: float

    def __post_init__(self) -> None:
        if not math.isfinite(self.factor) or self.factor == 0:
            raise ValueError(f"Scaled needs a finite factor other than 0, got {self.factor}.")

    @property
    def in_shape(self) -> Shape:
        return self.map.in_shape

    @property
    def out_shape(self) -> Shape:
        return self.map.out_shape

    @property
    def rows(self) -> int:
        return self.map.rows

    @property
    def isotropy(self) -> float | None:
        return None if self.map.isotropy is None else self.factor**2 * self.map.isotropy

    @property
    def orthonormal(self) -> bool:
        return self.isotropy is not None and math.isclose(self.isotropy, 1, rel_tol=1e-12)

    def __call__(self, x: Tensor) -> Tensor:
        return self.factor * self.map(x)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.factor * self.map.adjoint(y)

    def pinv(self, y: Tensor) -> Tensor:
        """(c A)⁺ = A⁺ / c."""
        return self.map.pinv(y) / self.factor
