"""The oracle: its score is the gradient of its log-density, its denoiser the mean of x₀, its views are laws again."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import grad

from pipeline.diffusion.denoiser import Continued, expand, score
from pipeline.diffusion.exact import Gaussian, Mixture
from pipeline.keys import Key


def spd(n, seed, scale=1.0):
    a = torch.randn(n, n, generator=Key(seed).fold("spd").torch(), dtype=torch.float64)
    return scale * (a @ a.T / n + 0.05 * torch.eye(n, dtype=torch.float64))


def vector(n, seed):
    return torch.randn(n, generator=Key(seed).fold("mean").torch(), dtype=torch.float64)


GAUSSIAN = Gaussian(vector(6, 0).reshape(1, 2, 3), spd(6, 0))
MIXTURE = Mixture(
    [1.0, 2.0, 0.5], [2 * vector(6, k).reshape(1, 2, 3) for k in range(3)], [spd(6, k, 0.3) for k in range(3)]
)
laws = pytest.mark.parametrize("law", [GAUSSIAN, MIXTURE], ids=["gaussian", "mixture"])
SIGMA = torch.tensor([0.01, 0.1, 0.4, 1.0, 3.0, 50.0], dtype=torch.float64)


def noised(law, n, seed=1):
    sigma = SIGMA[torch.arange(n) % len(SIGMA)]
    x0 = law.sample(n, Key(seed))
    z = torch.randn(x0.shape, generator=Key(seed).fold("z").torch(), dtype=torch.float64)
    return x0, x0 + expand(sigma, x0) * z, sigma


@laws
def test_tweedie_score_is_the_gradient_of_the_log_density(law):
    _, x, sigma = noised(law, 24)
    x.requires_grad_()
    (slope,) = grad(law.log_density(x, sigma).sum(), x)
    torch.testing.assert_close(law.score(x, sigma), slope)


@laws
def test_the_density_is_normalised(law):
    """In one dimension, by quadrature."""
    line = law.through(vector(6, 9)[None])
    t = torch.linspace(-200, 200, 400_001, dtype=torch.float64)
    p = line.log_density(t[:, None], torch.full_like(t, 0.3)).exp()
    assert float(torch.trapezoid(p, t)) == pytest.approx(1, abs=1e-9)


@laws
def test_the_denoiser_is_the_posterior_mean(law):
    """E[(x₀ − D(x)) h(x)] = 0 for any h, and D has a smaller error than 0.9 D or 1.1 D."""
    x0, x, sigma = noised(law, 60_000)
    D = law(x, sigma)
    for h in (torch.ones_like(x), D, x.tanh(), torch.sin(3 * x)):
        products = ((x0 - D) * h).flatten(1).sum(1)
        assert abs(products.mean()) < 4 * products.std() / len(products) ** 0.5
    risk = ((D - x0) ** 2).mean()
    assert risk < ((0.9 * D - x0) ** 2).mean()
    assert risk < ((1.1 * D - x0) ** 2).mean()


@laws
def test_samples_have_the_stated_moments(law):
    x0 = law.sample(100_000, Key(2))
    assert x0.shape[1:] == (1, 2, 3)
    torch.testing.assert_close(x0.mean(0), law.mean, atol=0.03, rtol=0)
    torch.testing.assert_close(x0.flatten(1).T.cov(), law.cov, atol=0.08, rtol=0)


def test_mse_is_the_trace_of_the_posterior_covariance():
    sigma = SIGMA[:, None, None]
    inverse = torch.linalg.inv(torch.linalg.inv(GAUSSIAN.cov) + torch.eye(6) / sigma**2)
    torch.testing.assert_close(GAUSSIAN.mse(SIGMA), inverse.diagonal(dim1=1, dim2=2).mean(1))
    x0 = GAUSSIAN.sample(50_000, Key(4))
    s = torch.full((50_000,), 0.7, dtype=torch.float64)
    x = x0 + 0.7 * torch.randn(x0.shape, generator=Key(5).torch(), dtype=torch.float64)
    error = ((GAUSSIAN(x, s) - x0) ** 2).flatten(1).mean(1)
    assert abs(error.mean() - GAUSSIAN.mse(s[0])) < 4 * error.std() / 50_000**0.5


@laws
def test_a_view_is_the_law_of_A_x0(law):
    A = torch.randn(3, 6, generator=Key(7).torch(), dtype=torch.float64)
    view = law.through(A)
    torch.testing.assert_close(view.mean, A @ law.mean.flatten())
    torch.testing.assert_close(view.cov, A @ law.cov @ A.T)
    # Its characteristic function at a random frequency is that of the pushed-forward samples.
    w = 0.5 * vector(3, 8)
    pushed, drawn = law.sample(200_000, Key(8)).flatten(1) @ A.T @ w, view.sample(200_000, Key(9)) @ w
    assert abs(torch.exp(1j * pushed).mean() - torch.exp(1j * drawn).mean()) < 4 * (2 / 200_000) ** 0.5


@laws
def test_an_orthonormal_view_and_its_complement(law):
    """With A Aᵀ = I the denoiser of A x₀ is E[A x₀ | A x]: its error is uncorrelated with functions of A x."""
    A = torch.linalg.qr(torch.randn(6, 6, generator=Key(3).torch(), dtype=torch.float64))[0][:2]
    x0, x, sigma = noised(law, 60_000)
    v0, v = x0.flatten(1) @ A.T, x.flatten(1) @ A.T
    error = v0 - law.through(A)(v, sigma)
    for h in (torch.ones_like(v), v.tanh(), torch.cos(2 * v)):
        products = (error * h).sum(1)
        assert abs(products.mean()) < 4 * products.std() / len(products) ** 0.5


def test_a_mixture_of_one_is_its_part():
    one = Mixture([3.0], [GAUSSIAN.mean], [GAUSSIAN.cov])
    _, x, sigma = noised(GAUSSIAN, 12)
    torch.testing.assert_close(one(x, sigma), GAUSSIAN(x, sigma))
    torch.testing.assert_close(one.log_density(x, sigma), GAUSSIAN.log_density(x, sigma))


def test_a_singular_covariance_and_single_precision():
    flat = Gaussian(torch.zeros(2), torch.tensor([[1.0, 1.0], [1.0, 1.0]]))
    x, sigma = torch.tensor([[3.0, 1.0]]), torch.tensor([1e-4])
    assert flat(x, sigma).dtype == torch.float32
    torch.testing.assert_close(flat(x, sigma), torch.tensor([[2.0, 2.0]]))


def test_what_is_no_law_is_refused():
    with pytest.raises(ValueError, match="square"):
        Gaussian(torch.zeros(3), torch.eye(2))
    with pytest.raises(ValueError, match="weights"):
        Mixture([1.0, -1.0], [torch.zeros(1)] * 2, [torch.eye(1)] * 2)


def test_a_denoiser_continued_below_its_least_level_has_one_score_there():
    from pipeline.diffusion.denoiser import Continued, score

    law = Gaussian(torch.tensor([0.2, -0.1]), torch.tensor([[0.3, 0.1], [0.1, 0.2]]))
    x, sigma = torch.randn(5, 2, dtype=torch.float64), torch.tensor([0.05, 0.2, 0.4, 0.5, 2.0], dtype=torch.float64)
    found = score(Continued(law, 0.4), x, sigma)
    torch.testing.assert_close(found, score(law, x, sigma.clamp_min(0.4)))
    torch.testing.assert_close(Continued(law, 0.4)(x, sigma)[3:], law(x, sigma)[3:])


def test_below_what_it_learned_a_denoiser_keeps_its_score_and_ends_at_the_image_itself():
    law = Gaussian(torch.tensor([0.3, -0.2]), torch.tensor([[0.5, 0.2], [0.2, 0.4]]))
    D, x = Continued(law, 0.5), torch.randn(6, 2, generator=Key(1).torch(), dtype=torch.float64)
    least = torch.full((6,), 0.5, dtype=torch.float64)
    for sigma in (0.05, 0.2, 0.5):
        torch.testing.assert_close(score(D, x, torch.full_like(least, sigma)), score(law, x, least))
    assert torch.equal(D(x, torch.zeros_like(least)), x)
    torch.testing.assert_close(D(x, 2 * least), law(x, 2 * least))
