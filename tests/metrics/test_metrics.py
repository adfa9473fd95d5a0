"""Metrics against closed forms."""

from __future__ import annotations

import pytest
import torch

from pipeline.diffusion.exact import Gaussian
from pipeline.keys import Key
from pipeline.metrics.denoising import DenoisingError
from pipeline.metrics.features import Pixels


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


def test_pixels_average_and_name_themselves():
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert torch.equal(Pixels(side=2)(x), torch.tensor([[2.5, 4.5, 10.5, 12.5]], dtype=torch.float64))
    assert Pixels()(torch.zeros(2, 3, 5, 20)).shape == (2, 3 * 5 * 8)
    assert "2x2" in Pixels(side=2).card["resize"]
