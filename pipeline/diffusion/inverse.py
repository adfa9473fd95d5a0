"""Cheaper or older ways for a denoiser to hear y = A x₀ + σ_y n than `posterior.py`: DPS, ΠGDM and DDNM.

With x = x₀ + σz, r = y − A D, J = ∂D/∂x and V = σ² J, Tweedie turns ∇ₓ log p(y | x) into a move of the mean,
D_y = D + σ² ∇ₓ log p(y | x). The three differ in what they take p(y | x) for:

    DPS    N(A D, σ_y² I)                   D_y = D + V Aᵀ r / σ_y², or with a step ζ, D + 2 ζ V Aᵀ r / |r|
    ΠGDM   N(A D, r² A Aᵀ + σ_y² I)         D_y = D + V Aᵀ (r² A Aᵀ + σ_y² I)⁻¹ r,  r² = s² σ²/(s² + σ²)
    DDNM   no likelihood                    D_y = D + A⁺ r, so that A D_y = y

ΠGDM is exact for x₀ ~ N(μ, s² I), DPS for none (it takes D for x₀), DDNM in the part that A sees of noiseless rows.
`Posterior` is exact for every Gaussian.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from pipeline.diffusion.denoiser import Denoiser, expand
from pipeline.diffusion.posterior import matched, observed
from pipeline.physics.linear import LinearMap
from pipeline.physics.solve import conjugate_gradients


class _Guided(ABC):
    """What the three share: rows y (B, *out) of the images x (B, *in), in the same order, and a bound."""

    def __init__(self, D: Denoiser, A: LinearMap, y: Tensor, noise: float | Tensor, bound: float | None) -> None:
        self.D, self.A, self.bound = D, A, bound
        self.y, self.noise = observed(A, y, noise)

    def __call__(self, x: Tensor, sigma: Tensor, cond: Tensor | None = None) -> Tensor:
        """E[x₀ | x, y] (B, *in), as far as the method knows it."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            guess = self.D(x, sigma, cond)
        mean, y = guess.detach(), self.y.to(guess.dtype)
        noise, s = self.noise.to(mean), expand(sigma, mean)
        pull = self.pull(y - self.A(mean), s, noise)
        mean = mean + s**2 * torch.autograd.grad(guess, x, self.A.adjoint(pull))[0]
        if self.bound is not None:
            mean = mean.clamp(-self.bound, self.bound)
        return matched(mean, self.A, y, noise) if self.exact else mean

    exact = True

    @abstractmethod
    def pull(self, wrong: Tensor, sigma: Tensor, noise: Tensor) -> Tensor:
        """−∂ log p(y | x)/∂(A D) (B, *out) of what is wrong, y − A D; σ is shaped (B, 1, ...)."""


class DPS(_Guided):
    """Diffusion posterior sampling (Chung et al. 2023, arXiv 2209.14687, eq. 15 and Algorithm 1).

    Args:
        D: the denoiser that has not seen y; torch can differentiate it.
        A: what y shows.
        y: (B, *out).
        noise: σ_y: one number, one a row (B,), or one for each number of y.
        step: ζ, in the place of the likelihood's 1/σ_y², which a step length that depends on |y − A D| is steadier
            than; None: the likelihood's own.
        bound: the largest absolute value of an image (None: there is none).

    Raises ValueError: rows without noise and no step.
    """

    exact = False

    def __init__(
        self,
        D: Denoiser,
        A: LinearMap,
        y: Tensor,
        noise: float | Tensor = 0.0,
        step: float | None = 8.0,
        bound: float | None = 1.0,
    ) -> None:
        super().__init__(D, A, y, noise, bound)
        if step is None and not bool((self.noise > 0).all()):
            raise ValueError("rows without noise have no likelihood to follow: give DPS a step, or MomentMatching")
        if step is not None and not step > 0:
            raise ValueError(f"step is {step}: give a number above 0, or None for the likelihood's own")
        self.step = step

    def pull(self, wrong: Tensor, sigma: Tensor, noise: Tensor) -> Tensor:
        """r/σ_y², or 2 ζ r/|r|."""
        if self.step is None:
            return wrong / noise**2
        size = wrong.flatten(1).norm(dim=1)
        return 2 * self.step * wrong / expand(torch.where(size > 0, size, 1), wrong)


class PiGDM(_Guided):
    """Pseudoinverse-guided diffusion (Song et al., ICLR 2023, eq. 7 and 8), for data of std `spread` about their mean.

    Args:
        D: the denoiser that has not seen y; torch can differentiate it.
        A: what y shows.
        y: (B, *out).
        noise: σ_y: one number, one a row (B,), or one for each number of y.
        spread: s; the paper has 1, images in [-1, 1] have about 0.5.
        bound: the largest absolute value of an image (None: there is none).
    """

    def __init__(
        self,
        D: Denoiser,
        A: LinearMap,
        y: Tensor,
        noise: float | Tensor = 0.0,
        spread: float = 0.5,
        bound: float | None = 1.0,
    ) -> None:
        super().__init__(D, A, y, noise, bound)
        if not spread > 0:
            raise ValueError(f"spread is {spread}: give the standard deviation of the data, above 0")
        self.spread = spread

    def pull(self, wrong: Tensor, sigma: Tensor, noise: Tensor) -> Tensor:
        """(r² A Aᵀ + σ_y² I)⁻¹ r, solved within the range of A."""
        A, width = self.A, self.spread**2 * sigma**2 / (self.spread**2 + sigma**2)
        width = width.reshape(-1, *(1,) * (wrong.ndim - 1))
        if A.orthonormal:
            return wrong / (width + noise**2)
        return conjugate_gradients(lambda u: width * A(A.adjoint(u)) + noise**2 * u, wrong, tol=1e-6, steps=200)


class DDNM:
    """The null-space model (Wang, Yu and Zhang, ICLR 2023, arXiv 2212.00490, eq. 9), for rows without noise.

    No derivative is taken: as cheap as D itself. What it draws of what A does not see hears y too little: of two
    Gaussian numbers of correlation 0.5 the unseen one follows the seen one by 0.26 (benchmarks/RESULTS.md).

    Args:
        D: the denoiser that has not seen y.
        A: what y shows.
        y: (B, *out).
        noise: must be 0.
        bound: the largest absolute value of an image (None: there is none).

    Raises ValueError: the rows have noise, which would be taken for image.
    """

    def __init__(
        self, D: Denoiser, A: LinearMap, y: Tensor, noise: float | Tensor = 0.0, bound: float | None = 1.0
    ) -> None:
        self.D, self.A, self.bound = D, A, bound
        self.y, level = observed(A, y, noise)
        if bool((level > 0).any()):
            raise ValueError("DDNM would take the noise of these rows for image: choose MomentMatching or PiGDM")

    def __call__(self, x: Tensor, sigma: Tensor, cond: Tensor | None = None) -> Tensor:
        """A⁺y + (I − A⁺A) D (B, *in)."""
        mean = self.D(x, sigma, cond)
        if self.bound is not None:
            mean = mean.clamp(-self.bound, self.bound)
        return mean + self.A.pinv(self.y.to(mean) - self.A(mean))
