"""Levels: densities integrate to 1, draws follow them, and a slice of a batch is a slice of the whole draw."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.diffusion.levels import LogNormal, Stratified
from pipeline.keys import Key

CASES = [LogNormal(), LogNormal(0.5, 0.3), Stratified(), Stratified(LogNormal(-3.0, 2.0))]
each = pytest.mark.parametrize("levels", CASES, ids=str)


@each
def test_density_integrates_to_one_and_is_the_slope_of_the_quantile(levels):
    t = torch.linspace(-30, 30, 200_001, dtype=torch.float64)
    assert float(torch.trapezoid(levels.density(t), t)) == pytest.approx(1, abs=1e-9)
    u = torch.linspace(0.01, 0.99, 99, dtype=torch.float64, requires_grad=True)
    q = levels.quantile(u)
    (slope,) = torch.autograd.grad(q.sum(), u)
    torch.testing.assert_close(levels.density(q) * slope, torch.ones_like(u))


@each
def test_draws_follow_the_density(levels):
    """Kolmogorov-Smirnov: the distance of the empirical from the true distribution is below 1.63/√n (1 %)."""
    n = 20_000
    drawn = levels.draw(n, Key(0)).double().log().sort().values
    t = torch.linspace(-20, 20, 400_001, dtype=torch.float64)
    cdf = torch.cumulative_trapezoid(levels.density(t), t)
    true = np.interp(drawn.numpy(), t[1:].numpy(), cdf.numpy())
    assert np.abs(true - (np.arange(n) + 0.5) / n).max() < 1.63 / n**0.5


@each
@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
def test_ranks_together_draw_what_one_draws(levels, ranks):
    total = 64
    whole = levels.draw(total, Key(5))
    each = total // ranks
    parts = [levels.draw(each, Key(5), offset=r * each, total=total) for r in range(ranks)]
    assert torch.equal(torch.cat(parts), whole)
    assert whole.dtype == torch.float32
    assert not torch.equal(whole, levels.draw(total, Key(6)))


def test_a_stratified_batch_has_one_level_in_every_stratum():
    levels = Stratified(LogNormal(-1.0, 0.7))
    z = (levels.draw(128, Key(1)).double().log() + 1.0) / 0.7
    u = torch.special.ndtr(z).sort().values
    torch.testing.assert_close(u.diff(), torch.full((127,), 1 / 128, dtype=torch.float64), atol=1e-5, rtol=0)


@pytest.mark.slow
def test_each_stratified_level_alone_is_still_lognormal():
    first = torch.stack([Stratified().draw(8, Key(3).fold(step))[3] for step in range(4000)]).double().log()
    assert float(first.mean()) == pytest.approx(-1.2, abs=4 * 1.2 / 4000**0.5)
    assert float(first.std()) == pytest.approx(1.2, rel=0.05)


def test_stratification_lowers_the_variance_of_a_batch_mean():
    def spread(levels):
        return torch.stack([levels.draw(32, Key(0).fold(i)).log().mean() for i in range(200)]).std()

    assert spread(Stratified()) < spread(LogNormal()) / 3


def test_a_slice_outside_the_batch_is_refused():
    with pytest.raises(ValueError, match="global batch of 8"):
        LogNormal().draw(8, Key(0), offset=4, total=8)
    with pytest.raises(ValueError, match="above 0"):
        LogNormal(std=0.0)
