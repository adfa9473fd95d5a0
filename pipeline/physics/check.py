"""The laws of a linear map, checked on its dense matrix: a test kit for operators of your own.

With M the matrix of A found by applying it to a basis, everything else a `LinearMap` claims must follow from M:
`adjoint` is Mᵀ; `pinv` is M⁺, with its four Moore-Penrose equations A A⁺ A = A, A⁺ A A⁺ = A⁺, (A A⁺)ᵀ = A A⁺ and
(A⁺ A)ᵀ = A⁺ A; `project` is A⁺ A, so P² = P = Pᵀ; `orthonormal` means M Mᵀ = I, `isotropy` c that M Mᵀ = c I.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pipeline.keys import Key
from pipeline.physics.linear import LinearMap

LARGEST = 1024


def check_operator(A: LinearMap, seed: int = 0, tol: float = 1e-8) -> None:
    """Check every law of A in float64 on a small shape (at most 1024 numbers in and out).

    `tol` bounds the largest deviation, relative to the largest number compared (never below 1).

    Raises ValueError that names the first law that is broken.
    """
    n, m = math.prod(A.in_shape), math.prod(A.out_shape)
    if not 0 < n <= LARGEST or not 0 < m <= LARGEST:
        raise ValueError(f"check_operator needs 1 to {LARGEST} numbers in and out, got {n} and {m}: use a small shape.")
    name = type(A).__name__

    def law(what: str, left: Tensor, right: Tensor) -> None:
        gap = (left - right).abs().max().item()
        if not gap <= tol * max(1.0, right.abs().max().item()):
            raise ValueError(f"{name} breaks '{what}': the two sides differ by {gap:.3g}.")

    def shaped(what: str, value: Tensor, like: Tensor) -> None:
        if value.shape != like.shape:
            raise ValueError(f"{name} breaks '{what} has shape {tuple(like.shape)}': got {tuple(value.shape)}.")

    def dot(u: Tensor, v: Tensor) -> Tensor:
        return (u * v).flatten(1).sum(1)

    def times(matrix: Tensor, v: Tensor) -> Tensor:
        return (matrix @ v.flatten(1)[..., None])[..., 0]

    # Several examples, so that a map which mixes its examples is caught.
    batch = A.rows if A.rows > 1 else 3
    generator = Key(seed).fold("check").torch()
    x, x2 = (torch.randn(batch, *A.in_shape, dtype=torch.float64, generator=generator) for _ in range(2))
    y, y2 = (torch.randn(batch, *A.out_shape, dtype=torch.float64, generator=generator) for _ in range(2))
    Ax, Aty = A(x), A.adjoint(y)
    shaped("A x", Ax, y)
    shaped("Aᵀ y", Aty, x)
    if Ax.dtype != torch.float64 or any(z.dtype != torch.float32 for z in (A(x.float()), A.adjoint(y.float()))):
        raise ValueError(f"{name} breaks 'A keeps the dtype': float32 in must give float32 out.")
    law("A (a x + x') = a A x + A x'", A(2.5 * x + x2), 2.5 * Ax + A(x2))
    M = A.dense().expand(batch, m, n)
    law("A acts on each example alone", Ax.flatten(1), times(M, x))
    law("⟨A x, y⟩ = ⟨x, Aᵀ y⟩", dot(Ax, y), dot(x, Aty))
    law("Aᵀ is the transposed matrix", Aty.flatten(1), times(M.mT, y))

    Apy, Px = A.pinv(y), A.project(x)
    shaped("A⁺ y", Apy, x)
    shaped("P x", Px, x)
    law("P = A⁺ A", Px, A.pinv(Ax))
    law("A A⁺ A = A", A(Px), Ax)
    law("A⁺ A A⁺ = A⁺", A.project(Apy), Apy)
    law("P² = P", A.project(Px), Px)
    law("P = Pᵀ", dot(x2, Px), dot(A.project(x2), x))
    law("A A⁺ = (A A⁺)ᵀ", dot(y2, A(Apy)), dot(A(A.pinv(y2)), y))
    law("A⁺ is the pseudo-inverse of the matrix", Apy.flatten(1), times(torch.linalg.pinv(M), y))
    one = torch.eye(m, dtype=torch.float64).expand(batch, m, m)
    if A.orthonormal:
        law("A Aᵀ = I when orthonormal", M @ M.mT, one)
    if A.isotropy is not None:
        law("A Aᵀ = c I when isotropic with c", M @ M.mT, A.isotropy * one)
