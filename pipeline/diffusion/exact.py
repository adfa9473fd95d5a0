"""Gaussians and Gaussian mixtures, whose every denoiser is known: the oracle of the tests.

For x₀ ~ N(μ, Σ), Σ = U Λ Uᵀ:  p_σ = N(μ, Σ + σ²I)  and  D(x, σ) = μ + U Λ(Λ + σ²)⁻¹ Uᵀ (x − μ).
For x₀ ~ Σₖ wₖ N(μₖ, Σₖ):  D = Σₖ rₖ(x) Dₖ(x)  with responsibilities rₖ ∝ wₖ pₖ,σ(x).
A linear view A x₀ is a Gaussian or mixture again, so views have exact denoisers too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.diffusion import denoiser
from pipeline.diffusion.denoiser import expand
from pipeline.keys import Key


class Gaussian:
    """x₀ ~ N(mean, cov): mean of any shape, cov (n, n) over its n flattened entries; computes in float64."""

    def __init__(self, mean: Tensor, cov: Tensor) -> None:
        mean, cov = mean.detach().double(), cov.detach().double()
        if cov.shape != (mean.numel(), mean.numel()):
            raise ValueError(
                f"cov has shape {tuple(cov.shape)}: a mean of {mean.numel()} entries needs a square of it."
            )
        self.mean, self.cov = mean, cov
        values, self.axes = torch.linalg.eigh(cov)
        self.values = values.clamp_min(0)  # a singular Σ is allowed; its zeros may come out at −1e-17

    def __call__(self, x: Tensor, sigma: Tensor, cond: Tensor | None = None) -> Tensor:
        """E[x₀ | x] (B, *) in the dtype of x, from x (B, *) with n entries an example and σ (B,)."""
        s = sigma.double()[:, None]
        shrunk = self._coordinates(x) * self.values / (self.values + s**2)
        return (self.mean.flatten() + shrunk @ self.axes.T).reshape(x.shape).to(x.dtype)

    def score(self, x: Tensor, sigma: Tensor) -> Tensor:
        """∇ log p_σ(x) (B, *)."""
        return denoiser.score(self, x, sigma)

    def log_density(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The log-density log p_σ(x) (B,) in float64, nats."""
        variances = self.values + sigma.double()[:, None] ** 2
        return -0.5 * (self._coordinates(x) ** 2 / variances + variances.log() + math.log(2 * math.pi)).sum(1)

    def flow(self, x: Tensor, start: Tensor) -> Tensor:
        """Where the probability-flow ODE takes x (B, *) from σ = start (B,) to σ = 0: μ + Σ^½(Σ + σ²I)^−½(x − μ)."""
        scale = (self.values / (self.values + start.double()[:, None] ** 2)).sqrt()
        return (self.mean.flatten() + (self._coordinates(x) * scale) @ self.axes.T).reshape(x.shape).to(x.dtype)

    def sample(self, n: int, key: Key) -> Tensor:
        """x₀ (n, *mean.shape) in float64."""
        z = torch.from_numpy(key.numpy().standard_normal((n, self.mean.numel())))
        return (self.mean.flatten() + (z * self.values.sqrt()) @ self.axes.T).reshape(n, *self.mean.shape)

    def mse(self, sigma: Tensor) -> Tensor:
        """The least E|D − x₀|² per entry at each σ, tr(posterior covariance)/n, shaped as σ."""
        s2 = sigma.double()[..., None] ** 2
        return (self.values * s2 / (self.values + s2)).mean(-1)

    def through(self, A: Tensor) -> Gaussian:
        """The law of A x₀ for a matrix A (m, n)."""
        A = A.double()
        return Gaussian(A @ self.mean.flatten(), A @ self.cov @ A.T)

    def _coordinates(self, x: Tensor) -> Tensor:
        return (x.double().flatten(1) - self.mean.flatten()) @ self.axes


class Mixture:
    """x₀ ~ Σₖ weights[k] N(means[k], covs[k]); weights are positive and are normalised here."""

    def __init__(self, weights: Sequence[float] | Tensor, means: Sequence[Tensor], covs: Sequence[Tensor]) -> None:
        w = torch.as_tensor(weights, dtype=torch.float64)
        if not len(w) == len(means) == len(covs) > 0 or not bool((w > 0).all()):
            raise ValueError(
                "a mixture needs equally many weights (all above 0), means and covs, at least one of each."
            )
        self.weights = w / w.sum()
        self.parts = [Gaussian(mean, cov) for mean, cov in zip(means, covs)]

    @property
    def mean(self) -> Tensor:
        """E[x₀], shaped as the means."""
        return torch.stack([w * part.mean for w, part in zip(self.weights, self.parts)]).sum(0)

    @property
    def cov(self) -> Tensor:
        """Cov[x₀] (n, n): the mean of the covariances plus the covariance of the means."""
        around = [(part.mean - self.mean).flatten() for part in self.parts]
        each = [w * (part.cov + torch.outer(d, d)) for w, part, d in zip(self.weights, self.parts, around)]
        return torch.stack(each).sum(0)

    def __call__(self, x: Tensor, sigma: Tensor, cond: Tensor | None = None) -> Tensor:
        """E[x₀ | x] (B, *) in the dtype of x, from x (B, *) and σ (B,)."""
        share = self._joint(x, sigma).softmax(1)
        each = [expand(share[:, k], x) * part(x.double(), sigma) for k, part in enumerate(self.parts)]
        return torch.stack(each).sum(0).to(x.dtype)

    def score(self, x: Tensor, sigma: Tensor) -> Tensor:
        """∇ log p_σ(x) (B, *)."""
        return denoiser.score(self, x, sigma)

    def log_density(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The log-density log p_σ(x) (B,) in float64, nats."""
        return self._joint(x, sigma).logsumexp(1)

    def sample(self, n: int, key: Key) -> Tensor:
        """x₀ (n, *mean.shape) in float64."""
        which = torch.from_numpy(key.fold("part").numpy().choice(len(self.parts), n, p=self.weights.numpy()))
        draws = torch.stack([part.sample(n, key.fold("draw", k)) for k, part in enumerate(self.parts)])
        return draws[which, torch.arange(n)]

    def through(self, A: Tensor) -> Mixture:
        """The law of A x₀ for a matrix A (m, n)."""
        views = [part.through(A) for part in self.parts]
        return Mixture(self.weights, [view.mean for view in views], [view.cov for view in views])

    def _joint(self, x: Tensor, sigma: Tensor) -> Tensor:
        return torch.stack([part.log_density(x, sigma) for part in self.parts], 1) + self.weights.log()
