"""The posterior mean on laws whose posterior is known: Gaussians exactly, samples with its regression and spread."""

# T6 of the corrupted-data methods: moment matching is the exact posterior mean of a Gaussian, whatever the rows went
# through.

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from pipeline.diffusion.conditioning import MomentMatching
from pipeline.diffusion.exact import Gaussian
from pipeline.diffusion.posterior import Posterior
from pipeline.diffusion.sample import Heun
from pipeline.keys import Key
from pipeline.physics.blur import GaussianBlur
from pipeline.physics.linear import Identity, LinearMap
from pipeline.physics.masks import PixelMask
from pipeline.physics.views import Crop, Pool

SHAPE = (1, 4, 4)
AXIS = torch.arange(16)
ROW, COLUMN = AXIS // 4, AXIS % 4
APART = ((ROW[:, None] - ROW) ** 2 + (COLUMN[:, None] - COLUMN) ** 2).double().sqrt()
COV = 0.25 * torch.exp(-APART / 3)
MEAN = torch.linspace(-0.3, 0.4, 16).double()
VIEWS = [Crop(SHAPE, 0, 1, 4, 2), Pool(SHAPE, 2)]


def masks(n: int = 6) -> LinearMap:
    """A mask of its own for each of n rows."""
    rows = [PixelMask(0.5).draw(SHAPE, Key(7).fold("row", i)) for i in range(n)]
    return PixelMask(0.5).at({"mask": np.stack([row["mask"] for row in rows])}, SHAPE)


def gaussian(x, sigma, cond=None):
    """The exact denoiser of N(MEAN, COV) on images."""
    return Gaussian(MEAN, COV)(x.flatten(1), sigma).view_as(x)


def exact(A: LinearMap, x: torch.Tensor, sigma: torch.Tensor, y: torch.Tensor, noise) -> torch.Tensor:
    """E[x₀ | x, y] of N(MEAN, COV) by conditioning on both at once; noise as `Posterior` takes it."""
    matrices = A.dense().expand(len(x), -1, -1) if A.rows == 1 else A.dense()
    level_of = torch.as_tensor(noise, dtype=torch.float64)
    level_of = level_of.reshape(-1, 1) if level_of.ndim == 1 else level_of.flatten(1) if level_of.ndim else level_of
    level_of = level_of.expand(len(x), y[0].numel())
    out = []
    for one, level, seen, own, dense in zip(x.flatten(1), sigma, y.flatten(1), level_of, matrices, strict=True):
        H = torch.cat([torch.eye(16, dtype=torch.float64), dense])
        R = torch.diag(torch.cat([level.expand(16) ** 2, own**2]))
        gain = COV @ H.T @ torch.linalg.pinv(H @ COV @ H.T + R, hermitian=True)
        out.append(MEAN + gain @ (torch.cat([one, seen]) - H @ MEAN))
    return torch.stack(out).view_as(x)


def drawn(A: LinearMap, noise, n: int = 6):
    g = torch.Generator().manual_seed(3)
    x0 = (MEAN + torch.randn(n, 16, generator=g).double() @ torch.linalg.cholesky(COV).T).view(n, *SHAPE)
    sigma = torch.logspace(-1.5, 1, n).double()
    x = x0 + sigma[:, None, None, None] * torch.randn(n, *SHAPE, generator=g).double()
    y = A(x0)
    level = torch.as_tensor(noise, dtype=torch.float64)
    level = level.reshape(-1, 1, 1, 1) if level.ndim == 1 else level
    return x, sigma, y + level * torch.randn(y.shape, generator=g).double()


@pytest.mark.parametrize("A", VIEWS)
@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_it_is_exact_for_a_gaussian(A, noise):
    x, sigma, y = drawn(A, noise)
    D = Posterior(gaussian, A, y, noise, iterations=16, ridge=0.0, bound=None)
    torch.testing.assert_close(D(x, sigma), exact(A, x, sigma, y, noise), rtol=1e-6, atol=1e-6)


LEVELS = torch.tensor([0.1, 0.3, 0.05, 0.5, 1.0, 0.2], dtype=torch.float64)


@pytest.mark.parametrize(
    "noise",
    [0.0, 0.3, LEVELS, torch.linspace(0.1, 0.6, 96, dtype=torch.float64).view(6, *SHAPE)],
    ids=["none", "one", "a row", "a number"],
)
def test_it_is_exact_for_rows_behind_masks_of_their_own(noise):
    """What noise falls on hidden pixels says nothing, and must not cost the solver a step."""
    A = masks()
    x, sigma, y = drawn(A, noise)
    hidden = A(torch.ones(6, *SHAPE, dtype=torch.float64)) == 0
    y = torch.where(hidden, 50.0, y) if torch.as_tensor(noise).ndim else y
    D = Posterior(gaussian, A, y, noise, iterations=16, ridge=0.0, bound=None)
    torch.testing.assert_close(D(x, sigma), exact(A, x, sigma, A(y), noise), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("how", [partial(Posterior, bound=None), MomentMatching(bound=None)], ids=["class", "option"])
def test_the_default_ridge_stops_a_step_at_ten_elevenths_of_the_way_to_rows_without_noise(how):
    """x₀ ~ N(0, 1): D = x/(1 + σ²), V/σ² = 1/(1 + σ²) = v; where σ_y² < 0.1 v σ² a step is v/(v + 0.1 v) of y − D."""
    x, y = torch.tensor(0.3).double().view(1, 1, 1, 1), torch.tensor(0.8).double().view(1, 1, 1, 1)

    def normal(x, sigma, cond=None):
        return x / (1 + sigma.view(-1, 1, 1, 1) ** 2)

    for sigma, noise, want in ((1.0, 0.1, 0.15 + 0.65 / 1.1), (1.0, 0.5, 0.15 + 0.65 * 0.5 / 0.75)):
        found = how(normal, Identity((1, 1, 1)), y, noise)(x, torch.tensor([sigma]).double())
        assert float(found) == pytest.approx(want, rel=1e-6)


def test_it_is_exact_behind_a_blur_with_noise():
    A = GaussianBlur(SHAPE, 0.8)
    x, sigma, y = drawn(A, 0.2)
    D = Posterior(gaussian, A, y, 0.2, iterations=16, ridge=0.0, bound=None)
    torch.testing.assert_close(D(x, sigma), exact(A, x, sigma, y, 0.2), rtol=1e-6, atol=1e-6)


def test_of_rows_with_and_without_noise_only_the_latter_are_shown_as_they_are():
    A, level = masks(), torch.where(torch.arange(6) < 3, 0.0, 0.4).double()
    x, sigma, y = drawn(A, level)
    seen = A(Posterior(gaussian, A, y, level, iterations=1)(x, sigma))
    torch.testing.assert_close(seen[:3], A(y)[:3])
    assert (seen[3:] - A(y)[3:]).abs().max() > 0.1


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
    for wrong in ({"iterations": 0}, {"ridge": -0.1}):
        with pytest.raises(ValueError, match="give them from 0"):
            Posterior(gaussian, VIEWS[0], torch.zeros(1, 1, 4, 2), **wrong)
    for noise, says in ((-1.0, "negative"), (float("nan"), "NaN"), (torch.ones(3), "give one number, or one a row")):
        with pytest.raises(ValueError, match=says):
            Posterior(gaussian, VIEWS[0], torch.zeros(2, 1, 4, 2), noise)
