"""Rows that hold noise teach the denoiser of clean ones: the identities behind the loss, and where it is least."""

from __future__ import annotations

import pytest
import torch
from test_denoising import bump
from tiny_backbone import LAW

from pipeline.diffusion.denoiser import expand
from pipeline.diffusion.levels import LogNormal
from pipeline.diffusion.precond import EDM
from pipeline.keys import Key
from pipeline.objectives.ambient import Ambient, Weighting
from pipeline.objectives.denoising import Denoising
from pipeline.objectives.objective import Batch

N, S = 40_000, 0.4
X0 = LAW.sample(N, Key(1)).double()
Z = torch.randn(N, 2, generator=Key(4).torch(), dtype=torch.float64)
FLOOR = torch.full((N,), S, dtype=torch.float64)
SIGMA = LogNormal().draw(N, Key(2)).double().clamp(min=Ambient().least(S))
NOISY = Batch(X0 + S * Z, floor=FLOOR)
WEIGHTINGS = list(Weighting)


def slope(objective, D, direction, batch=NOISY, eps=1e-4):
    def loss(a):
        return objective(lambda x, s, c=None: D(x, s) + a * direction(x, s), batch, SIGMA, Key(3)).each

    each = (loss(eps) - loss(-eps)) / (2 * eps)
    return float(each.mean()), float(each.std() / N**0.5)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("direction", [bump, LAW, lambda x, s: expand(s, x) * x.sin()], ids=["bump", "D", "sin"])
def test_stationary_at_the_posterior_mean_though_no_clean_row_is_seen(weighting, direction):
    value, error = slope(Ambient(EDM(0.5), weighting), LAW, direction)
    assert abs(value) < 4 * error


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_not_stationary_ten_percent_away(weighting, factor):
    value, error = slope(Ambient(EDM(0.5), weighting), lambda x, s: factor * LAW(x, s), LAW)
    assert value * (factor - 1) > 0
    assert abs(value) > 8 * error


def test_taken_for_clean_noisy_rows_teach_something_else():
    value, error = slope(Denoising(EDM(0.5)), LAW, LAW)
    assert abs(value) > 8 * error


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_of_clean_rows_it_is_denoising_to_the_bit(weighting):
    sigma = LogNormal().draw(64, Key(5))
    clean = Batch(X0[:64].float())
    want = Denoising()(LAW, clean, sigma, Key(3))
    for batch in (clean, Batch(clean.x, floor=torch.zeros(64))):
        found = Ambient(weighting=weighting)(LAW, batch, sigma, Key(3))
        assert torch.equal(found.each, want.each)


def test_double_tweedie():
    """E[x_n | x_t] = (1 − k) D + k x (T1), and the pseudo-target (y − k x)/(1 − k) is D on average (T2)."""
    sigma = torch.tensor(0.9, dtype=torch.float64)
    y = NOISY.x
    x = y + (sigma**2 - S**2).sqrt() * torch.randn(N, 2, generator=Key(6).torch(), dtype=torch.float64)
    k, D = S**2 / sigma**2, LAW(x, sigma.expand(N))
    for off in (y - (1 - k) * D - k * x, (y - k * x) / (1 - k) - D):
        for against in (torch.ones_like(x), x, x.sin()):
            product = off * against
            assert (product.mean(0).abs() < 4 * product.std(0) / N**0.5).all()


def test_the_two_weightings_differ_by_the_factor_of_the_pseudo_target():
    full, fading = (Ambient(weighting=w)(LAW, NOISY, SIGMA, Key(3)).each for w in (Weighting.FULL, Weighting.FADING))
    factor = (1 / (1 - FLOOR**2 / SIGMA**2)) ** 2
    torch.testing.assert_close(full, fading * factor)
    assert factor.max() <= 16 + 1e-6


def test_full_weight_ends_where_the_cap_is_reached():
    least = Ambient(cap=4.0).least(S)
    assert 1 / (1 - S**2 / least**2) == pytest.approx(4.0)
    assert Ambient(weighting=Weighting.FADING).least(S) == S


def test_a_row_just_above_its_noise_weighs_as_much_as_the_cap_allows_and_no_more():
    sigma, known = torch.ones(2), torch.tensor([1 - 1 / 3, 0.999])
    objective = Ambient(cap=4.0)
    torch.testing.assert_close(
        objective.weigh(sigma, known) / objective.precond.weight(sigma), torch.tensor([9.0, 16.0])
    )


def test_below_a_cap_of_one_nothing_is_left():
    with pytest.raises(ValueError, match="above 1"):
        Ambient(cap=1.0)
