"""The rate at which rounds of restoring come near the truth, on Gaussian data (T3), with the samplers that restore.

In a direction of variance S, seen with noise s, let the model believe r and a = S/(S + s²). The probability flow takes
its error down by 1 − a a round, a draw from the posterior by 1 − a²; with a share c of clean images by (1 − c) times
that.
"""

from __future__ import annotations

import pytest
import torch

from pipeline.diffusion.exact import Gaussian
from pipeline.diffusion.sample import Ancestral, Heun
from pipeline.keys import Key
from stages.rounds import Rounds

ROWS = 500
CASES = [(0.25, 0.5), (0.25, 0.2), (0.01, 0.59), (1.0, 1.38)]
GRID = Rounds().sampler


def belief(r: float) -> Gaussian:
    return Gaussian(torch.zeros(1), torch.full((1, 1), r))


def restored(sampler, r: float, S: float, noise: float, rows: int = ROWS) -> float:
    """The variance of what a model that believes r makes of rows of exactly the variance S + s²."""
    y = torch.randn(rows, 1, generator=Key(1).torch(), dtype=torch.float64)
    y = y * (S + noise**2) ** 0.5 / y.square().mean().sqrt()
    keys = [Key(0).fold(i) for i in range(rows)]
    return float(sampler(belief(r), y, start=noise, keys=keys).square().mean())


def rate(sampler, S: float, noise: float, share: float = 0.0, rows: int = ROWS) -> float:
    """By how much an error at the truth is multiplied in a round: the slope, with the same noise on both sides."""
    eps = 0.01 * S
    above, below = ((1 - share) * restored(sampler, S + sign * eps, S, noise, rows) + share * S for sign in (1, -1))
    return (above - below) / (2 * eps)


@pytest.mark.parametrize(("S", "noise"), CASES)
@pytest.mark.parametrize("factor", [0.1, 0.8, 1.2, 5.0])
def test_the_flow_maps_a_belief_to_the_one_that_is_derived(S, noise, factor):
    r = factor * S
    want = r * (S + noise**2) / (r + noise**2)
    assert restored(Heun(steps=300, sigma_min=1e-4, sigma_max=noise), r, S, noise) == pytest.approx(want, rel=2e-3)


@pytest.mark.parametrize(("S", "noise"), CASES)
@pytest.mark.parametrize("share", [0.0, 0.1, 0.4])
def test_rounds_come_near_the_truth_at_the_rate_that_is_derived(S, noise, share):
    a = S / (S + noise**2)
    assert rate(GRID, S, noise, share) == pytest.approx((1 - share) * (1 - a), rel=0.02)


@pytest.mark.parametrize(("S", "noise"), CASES)
def test_on_the_grid_of_the_recipe_rounds_leave_the_truth_nearly_where_it_is(S, noise):
    assert restored(GRID, S, S, noise) == pytest.approx(S, rel=0.02)


def test_draws_from_the_posterior_are_slower():
    """Factor 1 − a² instead of 1 − a."""
    found = rate(Ancestral(steps=100, sigma_max=0.5), 0.25, 0.5, rows=4000)
    assert found == pytest.approx(0.75, rel=0.04)
