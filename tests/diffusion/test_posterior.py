"""The posterior mean on laws whose posterior is known: Gaussians exactly, samples with its regression and spread."""

from __future__ import annotations

import pytest
import torch

from pipeline.diffusion.exact import Gaussian
from pipeline.diffusion.posterior import Posterior
from pipeline.diffusion.sample import Heun
from pipeline.keys import Key
from pipeline.physics.linear import LinearMap
from pipeline.physics.views import Crop, Pool

SHAPE = (1, 4, 4)
AXIS = torch.arange(16)
ROW, COLUMN = AXIS // 4, AXIS % 4
APART = ((ROW[:, None] - ROW) ** 2 + (COLUMN[:, None] - COLUMN) ** 2).double().sqrt()
COV = 0.25 * torch.exp(-APART / 3)
MEAN = torch.linspace(-0.3, 0.4, 16).double()
VIEWS = [Crop(SHAPE, 0, 1, 4, 2), Pool(SHAPE, 2)]


def gaussian(x, sigma, cond=None):
    """The exact denoiser of N(MEAN, COV) on images."""
    return Gaussian(MEAN, COV)(x.flatten(1), sigma).view_as(x)


def exact(A: LinearMap, x: torch.Tensor, sigma: torch.Tensor, y: torch.Tensor, noise: float) -> torch.Tensor:
    """E[x₀ | x, y] of N(MEAN, COV) by conditioning on both at once."""
    dense = A.dense()
    H = torch.cat([torch.eye(16, dtype=torch.float64), dense])
    out = []
    for one, level, seen in zip(x.flatten(1), sigma, y.flatten(1), strict=True):
        R = torch.diag(torch.cat([level.expand(16) ** 2, torch.full((len(dense),), noise**2).double()]))
        gain = COV @ H.T @ torch.linalg.inv(H @ COV @ H.T + R)
        out.append(MEAN + gain @ (torch.cat([one, seen]) - H @ MEAN))
    return torch.stack(out).view_as(x)


def drawn(A: LinearMap, noise: float, n: int = 6):
    g = torch.Generator().manual_seed(3)
    x0 = (MEAN + torch.randn(n, 16, generator=g).double() @ torch.linalg.cholesky(COV).T).view(n, *SHAPE)
    sigma = torch.logspace(-1.5, 1, n).double()
    x = x0 + sigma[:, None, None, None] * torch.randn(n, *SHAPE, generator=g).double()
    y = A(x0)
    return x, sigma, y + noise * torch.randn(y.shape, generator=g).double()


@pytest.mark.parametrize("A", VIEWS)
@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_it_is_exact_for_a_gaussian(A, noise):
    x, sigma, y = drawn(A, noise)
    D = Posterior(gaussian, A, y, noise, iterations=16, ridge=0.0, bound=None)
    torch.testing.assert_close(D(x, sigma), exact(A, x, sigma, y, noise), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("A", VIEWS)
def test_without_noise_what_is_seen_is_y_however_little_was_solved(A):
    x, sigma, y = drawn(A, 0.0)
    for iterations, bound in ((1, None), (3, 0.2)):
        D = Posterior(gaussian, A, y, iterations=iterations, bound=bound)
        torch.testing.assert_close(A(D(x, sigma)), y)


def test_a_row_is_the_same_alone_and_in_a_batch():
    A = VIEWS[0]
    x, sigma, y = drawn(A, 0.1)
    together = Posterior(gaussian, A, y, 0.1)(x, sigma)
    alone = torch.cat([Posterior(gaussian, A, y[i : i + 1], 0.1)(x[i : i + 1], sigma[i : i + 1]) for i in range(6)])
    torch.testing.assert_close(together, alone)


def test_a_jacobian_of_the_wrong_sign_and_a_bound_leave_a_mean_within_the_bound():
    A = VIEWS[1]
    x, sigma, y = drawn(A, 0.2)
    found = Posterior(lambda x, sigma, cond=None: -3 * x, A, y, 0.2)(x, sigma)
    assert found.isfinite().all()
    assert found.abs().max() <= 1


def test_samples_have_the_conditional_regression_and_spread():
    """Of a pair with correlation ρ, the unseen one given y is N(ρ y, (1 − ρ²) s²)."""
    rho, n, s = 0.8, 3000, 0.5
    pair = Gaussian(torch.zeros(2), s**2 * torch.tensor([[1, rho], [rho, 1]], dtype=torch.float64))
    A = Crop((1, 1, 2), 0, 0, 1, 1)
    g = torch.Generator().manual_seed(0)
    y = s * torch.randn(n, 1, 1, 1, generator=g, dtype=torch.float64)
    start = 20 * torch.randn(n, 1, 1, 2, generator=g, dtype=torch.float64)
    D = Posterior(lambda x, t, c=None: pair(x.flatten(1), t).view_as(x), A, y, ridge=0.0, bound=None)
    x = Heun(steps=40, sigma_min=0.01, sigma_max=20.0)(D, start, keys=[Key(0)] * n)
    seen, unseen = x[..., 0].flatten(), x[..., 1].flatten()
    torch.testing.assert_close(seen, y.flatten())
    slope = (seen * unseen).sum() / (seen * seen).sum()
    assert abs(slope - rho) < 4 * ((1 - rho**2) / n) ** 0.5
    spread = (unseen - slope * seen).var() / s**2
    assert abs(spread / (1 - rho**2) - 1) < 4 * (2 / n) ** 0.5 + 0.02


def test_wrong_settings_are_refused():
    for wrong in ({"noise": -1.0}, {"iterations": 0}, {"ridge": -0.1}):
        with pytest.raises(ValueError, match="give them from 0"):
            Posterior(gaussian, VIEWS[0], torch.zeros(1, 1, 4, 2), **wrong)
