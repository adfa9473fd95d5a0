"""DPS, ΠGDM and DDNM where what they assume is true, and what they are where it is not."""

from __future__ import annotations

import pytest
import torch
from test_posterior import COV, SHAPE, VIEWS, drawn, gaussian, masks

from pipeline.diffusion import conditioning
from pipeline.diffusion.exact import Gaussian
from pipeline.diffusion.inverse import DDNM, DPS, PiGDM
from pipeline.diffusion.posterior import Posterior
from pipeline.diffusion.sample import Heun
from pipeline.keys import Key
from pipeline.physics.blur import GaussianBlur

LEVEL = torch.tensor([0.1, 0.3, 0.0, 0.5, 1.0, 0.2], dtype=torch.float64)
MAPS = [*VIEWS, masks(), GaussianBlur(SHAPE, 0.8)]
NAMES = ["crop", "pool", "masks", "blur"]


def isotropic(x, sigma, cond=None):
    """The exact denoiser of N(0.1, 0.6² I)."""
    return Gaussian(torch.full((16,), 0.1), 0.36 * torch.eye(16))(x.flatten(1), sigma).view_as(x)


@pytest.mark.parametrize("A", MAPS, ids=NAMES)
@pytest.mark.parametrize("noise", [0.0, 0.3, LEVEL], ids=["none", "one", "a row"])
def test_pigdm_is_the_exact_posterior_of_isotropic_data(A, noise):
    x, sigma, y = drawn(A, noise)
    ours = PiGDM(isotropic, A, y, noise, spread=0.6, bound=None)(x, sigma)
    exact = Posterior(isotropic, A, y, noise, iterations=16, ridge=0.0, bound=None)(x, sigma)
    torch.testing.assert_close(ours, exact, rtol=1e-5, atol=1e-5)


def test_pigdm_is_not_exact_for_correlated_data_and_moment_matching_is():
    A = VIEWS[0]
    x, sigma, y = drawn(A, 0.3)
    exact = Posterior(gaussian, A, y, 0.3, iterations=16, ridge=0.0, bound=None)(x, sigma)
    assert (PiGDM(gaussian, A, y, 0.3, bound=None)(x, sigma) - exact).abs().max() > 0.02
    exact = Posterior(isotropic, A, y, 0.3, iterations=16, ridge=0.0, bound=None)(x, sigma)
    assert (PiGDM(isotropic, A, y, 0.3, spread=0.3, bound=None)(x, sigma) - exact).abs().max() > 0.02


@pytest.mark.parametrize("A", MAPS, ids=NAMES)
def test_dps_follows_the_gradient_of_the_likelihood(A):
    """D_y − D = σ² ∇ log N(y; A D(x), σ_y² I), here by differences and with ∂D/∂x = Σ(Σ + σ²)⁻¹ in closed form."""
    x, sigma, y = drawn(A, 0.3)
    y = A(A.pinv(y))

    def likelihood(x):
        return -(y - A(gaussian(x, sigma))).square().flatten(1).sum(1) / (2 * 0.3**2)

    moved = DPS(gaussian, A, y, 0.3, step=None, bound=None)(x, sigma) - gaussian(x, sigma)
    v = torch.randn(x.shape, generator=Key(5).torch(), dtype=torch.float64)
    along = (likelihood(x + 1e-5 * v) - likelihood(x - 1e-5 * v)) / 2e-5
    torch.testing.assert_close((moved * v).flatten(1).sum(1), sigma**2 * along, rtol=1e-6, atol=1e-7)
    back = A.adjoint(y - A(gaussian(x, sigma))).flatten(1)
    for i in range(6):
        V = sigma[i] ** 2 * COV @ torch.linalg.inv(COV + sigma[i] ** 2 * torch.eye(16, dtype=torch.float64))
        torch.testing.assert_close(moved[i].flatten(), V @ back[i] / 0.3**2, rtol=1e-8, atol=1e-9)


def test_dps_steps_as_long_as_it_is_told():
    """With ζ the likelihood's slope is that of −2 ζ |y − A D|, whose gradient in A D has length 2 ζ."""
    A = VIEWS[0]
    x, sigma, y = drawn(A, 0.3)

    def towards(x):
        return -2 * 0.7 * (y - A(gaussian(x, sigma))).flatten(1).norm(dim=1)

    moved = DPS(gaussian, A, y, 0.3, step=0.7, bound=None)(x, sigma) - gaussian(x, sigma)
    v = torch.randn(x.shape, generator=Key(6).torch(), dtype=torch.float64)
    along = (towards(x + 1e-5 * v) - towards(x - 1e-5 * v)) / 2e-5
    torch.testing.assert_close((moved * v).flatten(1).sum(1), sigma**2 * along, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("A", MAPS, ids=NAMES)
def test_ddnm_shows_what_was_seen_and_leaves_the_rest_to_the_denoiser(A):
    x, sigma, y = drawn(A, 0.0)
    found = DDNM(gaussian, A, y, bound=None)(x, sigma)
    torch.testing.assert_close(A(found), y, rtol=1e-6, atol=1e-6)
    rest = found - gaussian(x, sigma)
    torch.testing.assert_close(A.project(rest), rest, rtol=1e-6, atol=1e-6)


def test_ddnm_is_exact_where_what_is_hidden_is_independent_of_what_is_seen():
    A = masks()
    x, sigma, y = drawn(A, 0.0)
    exact = Posterior(isotropic, A, y, 0.0, iterations=16, ridge=0.0, bound=None)(x, sigma)
    torch.testing.assert_close(DDNM(isotropic, A, y, bound=None)(x, sigma), exact, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "by",
    [conditioning.MomentMatching(), conditioning.DPS(), conditioning.PiGDM(), conditioning.DDNM()],
    ids=lambda by: type(by).__name__,
)
def test_what_is_drawn_by_any_of_them_is_near_what_was_seen_and_within_the_bound(by):
    A = masks()
    _, _, y = drawn(A, 0.0)
    D = by(gaussian, A, y, 0.0)
    start = 20 * torch.randn(6, *SHAPE, generator=Key(1).torch(), dtype=torch.float64)
    drawn_ = Heun(steps=20, sigma_min=0.02, sigma_max=20.0)(D, start)
    assert drawn_.isfinite().all()
    off = (A(drawn_) - y).square().mean().sqrt()
    assert off < (0.2 if isinstance(by, conditioning.DPS) else 1e-6)


def test_wrong_settings_are_refused():
    y = torch.zeros(6, *SHAPE)
    with pytest.raises(ValueError, match="no likelihood to follow"):
        DPS(gaussian, masks(), y, 0.0, step=None)
    with pytest.raises(ValueError, match="step is 0"):
        DPS(gaussian, masks(), y, 0.1, step=0.0)
    with pytest.raises(ValueError, match="spread is"):
        PiGDM(gaussian, masks(), y, 0.1, spread=0.0)
    with pytest.raises(ValueError, match="noise of these rows for image"):
        DDNM(gaussian, masks(), y, 0.1)
