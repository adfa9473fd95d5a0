"""A denoiser that has also seen y = A x₀ + σ_y n: the mean of p(x₀ | x, y) from that of p(x₀ | x).

Given x = x₀ + σz, x₀ is taken for a Gaussian of mean D(x, σ) and covariance V = σ² ∂D/∂x, which it truly has (Tweedie's
second identity). Then E[x₀ | x, y] = D + V Aᵀ (σ_y² I + A V Aᵀ)⁻¹ (y − A D): moment matching (Rozet et al. 2024, DiEM,
arXiv 2405.13712), exact for every Gaussian law where `ridge` is 0 and the solver has come to its end. ∂D/∂x, symmetric
for a true D, is applied as its transpose, which is one pass backwards through the denoiser.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.diffusion.denoiser import Denoiser, expand
from pipeline.physics.linear import LinearMap
from pipeline.physics.solve import conjugate_gradients


class Posterior:
    """E[x₀ | x, y] for rows y (B, *out) of the images x (B, *in) it is called with, in the same order.

    Args:
        D: the denoiser that has not seen y; torch can differentiate it.
        A: what y shows.
        y: (B, *out).
        noise: σ_y in the units of y: one number, one a row (B,), or one for each number of y (B, *out). Rows without
            any show in the part that A sees y itself, exactly, whatever the solver left.
        iterations: conjugate-gradient steps; one backward pass each, and two more.
        ridge: least σ_y²/σ² that is solved with, as a share of the variance that D states along y − A D. A learned
            ∂D/∂x has eigenvalues next to 0 or below, where no true one has any; without a ridge a step goes astray.
            Where rows have less noise than that, a step ends at 1/(1 + ridge) of the way to them.
        bound: the largest absolute value of an image: its mean has no larger one either (None: there is none).
    """

    def __init__(
        self,
        D: Denoiser,
        A: LinearMap,
        y: Tensor,
        noise: float | Tensor = 0.0,
        iterations: int = 3,
        ridge: float = 0.1,
        bound: float | None = 1.0,
    ) -> None:
        if iterations < 1 or ridge < 0:
            raise ValueError(f"iterations is {iterations} and ridge {ridge}: give them from 0, iterations from 1")
        self.D, self.A = D, A
        self.y, self.noise = observed(A, y, noise)
        self.iterations, self.ridge, self.bound = iterations, ridge, bound

    def __call__(self, x: Tensor, sigma: Tensor, cond: Tensor | None = None) -> Tensor:
        """E[x₀ | x, y] (B, *in)."""
        A = self.A
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            guess = self.D(x, sigma, cond)
        mean, y = guess.detach(), self.y.to(guess.dtype)

        def spread(v: Tensor) -> Tensor:  # V v / σ²
            return torch.autograd.grad(guess, x, v, retain_graph=True)[0]

        def seen(u: Tensor) -> Tensor:  # A V Aᵀ u / σ²
            return A(spread(A.adjoint(u)))

        wrong = y - A(mean)
        square = wrong.square().flatten(1).sum(1)
        typical = (wrong * seen(wrong)).flatten(1).sum(1) / torch.where(square > 0, square, 1)
        noise = self.noise.to(mean)
        ratio = torch.maximum(noise**2 / expand(sigma, y) ** 2, expand(self.ridge * typical, y))
        u = conjugate_gradients(lambda u: ratio * u + seen(u), wrong, steps=self.iterations, strict=False)
        mean = mean + spread(A.adjoint(u))
        if self.bound is not None:
            mean = mean.clamp(-self.bound, self.bound)
        return matched(mean, A, y, noise)


def observed(A: LinearMap, y: Tensor, noise: float | Tensor) -> tuple[Tensor, Tensor]:
    """(the part of y (B, *out) that x₀ can have caused, σ_y shaped (B or 1, *out or ones)).

    What a mask hides is noise alone: outside the range of A a white y says nothing of x₀, and only misleads a solver.

    Raises ValueError where the noise is negative, not finite, or fits neither the rows nor their numbers.
    """
    level = torch.as_tensor(noise, dtype=torch.float64, device=y.device)
    if level.ndim == 0:
        level = level.reshape(1)
    if level.ndim == 1 and len(level) in (1, len(y)):
        level = level.reshape(-1, *(1,) * (y.ndim - 1))
    if not (level.shape == y.shape or (level[:1].numel() == 1 and len(level) in (1, len(y)))):
        raise ValueError(f"noise has shape {tuple(level.shape)} and y {tuple(y.shape)}: give one number, or one a row")
    if not bool((level.isfinite() & (level >= 0)).all()):
        raise ValueError("noise is negative, infinite or NaN in some rows: give the std of y's noise, from 0")
    return (y if A.orthonormal else A(A.pinv(y))), level


def matched(mean: Tensor, A: LinearMap, y: Tensor, noise: Tensor) -> Tensor:
    """`mean` (B, *in), of rows without any noise brought to A x = y where A sees it."""
    exact = (noise == 0).flatten(1).all(1)
    if not bool(exact.any()):
        return mean
    return torch.where(expand(exact.expand(len(mean)), mean), mean + A.pinv(y - A(mean)), mean)
