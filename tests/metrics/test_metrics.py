"""Metrics against closed forms."""

from __future__ import annotations

import pytest
import torch

from pipeline.diffusion.exact import Gaussian
from pipeline.keys import Key
from pipeline.metrics.denoising import DenoisingError
from pipeline.metrics.frechet import Pixels, frechet, moments


def test_denoising_error_of_the_exact_denoiser_is_its_posterior_variance():
    cov = torch.tensor([[0.3, 0.2], [0.2, 0.3]], dtype=torch.float64)
    law = Gaussian(torch.zeros(2).double(), cov)
    x0 = law.sample(4000, Key(0)).float().reshape(-1, 1, 1, 2)
    measure = DenoisingError(draws=2)
    total, errors = measure(law, x0, [str(i) for i in range(len(x0))])
    exact = law.mse(measure.sigmas().double())
    torch.testing.assert_close(errors, exact, rtol=0.06, atol=0)
    assert total == pytest.approx(float(measure.integral(exact)), rel=0.05)


def test_the_integral_of_errors_that_are_one_over_the_weight_is_one():
    measure = DenoisingError()
    s = measure.sigmas().double()
    assert float(measure.integral((s * 0.5) ** 2 / (s**2 + 0.25))) == pytest.approx(1.0)


def test_noise_belongs_to_the_image_and_not_to_the_batch():
    x0 = torch.randn(7, 1, 2, 2)
    ids = [f"a{i}" for i in range(7)]

    def shrink(x, sigma, cond=None):
        return 0.5 * x

    whole = DenoisingError(levels=3, batch=7)(shrink, x0, ids)[1]
    torch.testing.assert_close(DenoisingError(levels=3, batch=2)(shrink, x0, ids)[1], whole)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(0))
    permuted = DenoisingError(levels=3)(shrink, x0[order], [ids[i] for i in order])[1]
    torch.testing.assert_close(permuted, whole)


def test_frechet_of_gaussians_with_commuting_covariances():
    """|Δμ|² + Σ (√λ₁ − √λ₂)²: affine images of one sample have exactly these moments."""
    z = torch.randn(500, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z = (z - z.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(z.T))).T
    a, b = z * torch.tensor([1.0, 2.0, 3.0]) + 1, z * torch.tensor([2.0, 2.0, 1.0])
    assert frechet(a, b) == pytest.approx(3 + 1 + 0 + 4)


def test_frechet_is_zero_on_itself_symmetric_and_invariant_under_rotation():
    generator = torch.Generator().manual_seed(1)
    a = torch.randn(200, 6, generator=generator, dtype=torch.float64)
    b = a[:100] * 1.5 + 0.3
    q = torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.float64)).Q
    assert frechet(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet(a, b) == pytest.approx(frechet(b, a))
    assert frechet(a @ q, b @ q) == pytest.approx(frechet(a, b))


def test_pixels_average_and_name_themselves():
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert torch.equal(Pixels(side=2)(x), torch.tensor([[2.5, 4.5, 10.5, 12.5]], dtype=torch.float64))
    assert Pixels()(torch.zeros(2, 3, 5, 20)).shape == (2, 3 * 5 * 8)
    assert "2x2" in Pixels(side=2).name


def test_one_image_has_no_covariance():
    with pytest.raises(ValueError, match="at least 2"):
        moments(torch.zeros(1, 3))
