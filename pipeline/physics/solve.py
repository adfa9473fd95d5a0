"""Conjugate gradients on callables: A x = b without ever writing A down.

For a symmetric positive semi-definite A and b in its range, the iterates started at x = 0 stay in the span of
b, A b, A² b ..., inside range(A); so where A is singular the limit is the solution of smallest norm, x = A⁺ b. The
error in the A-norm falls at least as 2 ((√κ - 1)/(√κ + 1))^k, κ the ratio of the extreme non-zero eigenvalues (Hestenes
and Stiefel, "Methods of conjugate gradients for solving linear systems", J. Res. NBS 49, 1952).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def conjugate_gradients(
    A: Callable[[Tensor], Tensor], b: Tensor, tol: float = 1e-6, steps: int = 100, strict: bool = True
) -> Tensor:
    """The x of smallest norm with A x = b, one independent system per example.

    `A` maps (B, *) to (B, *), linear, symmetric and positive semi-definite within each example; `b` is (B, *), in the
    range of A. Each example stops once its residual is below `tol`·‖b‖, all stop after `steps` products with A (then x
    is the best of its Krylov space, not the solution). Homogeneous: scaling b scales x, whatever the magnitude.

    Raises ValueError when b is not (B, *) and finite, or A returns another shape, a NaN, or negative curvature. Unless
    `strict`, an example stops where it meets negative curvature, as a learned A may have.
    """
    if b.ndim < 2:
        raise ValueError(f"conjugate gradients need b of shape (B, *), got {tuple(b.shape)}.")
    # An exported graph has no branches: it takes all steps, in which what has stopped stays as it is.
    eager = not (torch.jit.is_tracing() or torch.compiler.is_compiling())  # pyright: ignore[reportPrivateImportUsage]
    if eager and not torch.isfinite(b).all():
        raise ValueError("conjugate gradients need a finite b, but it holds NaN or infinity.")
    axes = tuple(range(1, b.ndim))

    def dot(u: Tensor, v: Tensor) -> Tensor:
        return (u * v).sum(axes, keepdim=True)

    # Without this, the squared norms of a faint or huge float32 image underflow to 0 or overflow.
    scale = b.abs().amax(axes, keepdim=True)
    r = p = b / torch.where(scale > 0, scale, 1)
    x = torch.zeros_like(b)
    rr = dot(r, r)
    goal = tol**2 * rr
    running = rr > goal
    for _ in range(steps):
        if eager and not running.any():
            break
        Ap = A(p)
        if Ap.shape != p.shape:
            raise ValueError(f"conjugate gradients need A to keep the shape {tuple(p.shape)}, got {tuple(Ap.shape)}.")
        curvature = dot(p, Ap)
        if eager and not torch.isfinite(curvature).all():
            raise ValueError("conjugate gradients met NaN or infinity in A x: check that A returns finite numbers.")
        rounding = 100 * torch.finfo(b.dtype).eps * (dot(p, p) * dot(Ap, Ap)).sqrt()
        if eager and strict and (curvature < -rounding).any():
            raise ValueError("conjugate gradients need a positive semi-definite A, but ⟨x, A x⟩ < 0 for some x.")
        running = running & (curvature > 0)
        alpha = torch.where(running, rr / torch.where(running, curvature, 1), 0)
        x = x + alpha * p
        r = r - alpha * Ap
        rr_new = dot(r, r)
        beta = torch.where(running, rr_new / torch.where(running, rr, 1), 0)
        p = torch.where(running, r + beta * p, p)
        rr = torch.where(running, rr_new, rr)
        running = running & (rr > goal)
    return x * scale
