"""Intervals hold what they should as often as they say, for laws that are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.keys import Key
from pipeline.metrics import frechet, kernel, neighbours, sliced
from pipeline.metrics.interval import estimate, left_out, mean, of_share, share, variance
from pipeline.metrics.moments import Moments

RUNS, GROUPS = 300, 12


def test_of_a_mean_the_jackknife_is_the_known_variance():
    """Groups of one give s²/n to the bit; of several rows, an estimate with the same mean."""
    x = np.random.default_rng(0).normal(size=40)
    without = [(x.sum() - one) / 39 for one in x]
    assert variance(x.mean(), without, [1] * 40) == pytest.approx(x.var(ddof=1) / 40)
    found = estimate(x.mean(), [(without, [1] * 40)])
    assert (found.low, found.high) == pytest.approx((mean(x).low, mean(x).high))


def test_groups_of_unequal_sizes_estimate_the_same_variance():
    rng, rows = np.random.default_rng(1), [1, 2, 3, 4, 10]
    group = np.repeat(np.arange(5), rows)
    found = []
    for _ in range(4000):
        x = rng.normal(size=20)
        found.append(variance(x.mean(), [x[group != g].mean() for g in range(5)], rows))
    assert np.mean(found) == pytest.approx(1 / 20, rel=0.06)


def test_one_group_tells_nothing_and_empty_ones_are_passed_over():
    assert estimate(1.0, [([1.0], [5]), ([2.0, 2.5], [3, 3])]).low is None
    assert left_out(lambda g: float(g), [0, 2, 3]) == ([1.0, 2.0], [2, 3])
    assert left_out(lambda g: float(g), [0, 5]) == ([], [])
    assert estimate(0.0, [([0.0, 0.0], [1, 1])]).high == 0


def test_shares_have_an_interval_even_where_nothing_was_found():
    assert share(0, 100).low == 0
    alone = of_share(estimate(1.0, [([1.0, 1.0], [25, 25])], 0.0, 1.0), 50)
    assert (alone.low, alone.high) == (share(50, 50).low, 1)
    assert 0.03 < share(0, 100).high < 0.04
    assert (share(50, 50).low > 0.9, share(50, 50).high) == (True, 1)
    rng = np.random.default_rng(0)
    held = [share(int(rng.binomial(60, 0.1)), 60) for _ in range(2000)]
    assert 0.93 < np.mean([one.low <= 0.1 <= one.high for one in held]) < 0.98


@pytest.fixture(scope="module")
def drawn():
    """Estimates of all kinds for 300 pairs of sets of two known laws: N(0, I) and N(0.6, 1.2² I) in two dimensions."""
    found = {}
    theta = sliced.directions(2, 16, Key(0))
    for s in range(RUNS):
        generator = torch.Generator().manual_seed(s)
        real = torch.randn(96, 2, generator=generator, dtype=torch.float64)
        made = torch.randn(72, 2, generator=generator, dtype=torch.float64) * 1.2 + 0.6
        groups = torch.arange(72) % GROUPS, torch.arange(96) % GROUPS
        pairs = made, real, *groups, GROUPS
        parts = [[Moments.of(x[g == i]) for i in range(GROUPS)] for x, g in zip((made, real), groups)]
        one = {"frechet": frechet.judged(*parts)}
        more = [torch.randn(n, 2, generator=generator, dtype=torch.float64) for n in (288, 384)]
        more[0] = more[0] * 1.2 + 0.6
        one["kernel"] = kernel.judged(*more, *(torch.arange(len(x)) % GROUPS for x in more), GROUPS)
        one["sliced"] = sliced.judged(*pairs, theta)
        one |= neighbours.judged(*pairs, 5)
        for name, value in one.items():
            found.setdefault(name, []).append(value)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", ["frechet", "kernel", "sliced"])
def test_intervals_of_distances_hold_the_mean_as_often_as_they_say(drawn, name):
    """95% of 300 is 285 ± 4; a jackknife of a dozen groups is right to a few percent."""
    held, wide = of(drawn[name])
    assert 0.92 <= held <= 0.985
    assert 0.85 < wide < 1.2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["precision", "recall", "density", "coverage"])
def test_intervals_of_neighbours_hold_the_mean_at_least_as_often_as_they_say(drawn, name):
    """They are no smooth functions, of which the jackknife is wide; recall is 1 here in every second pair."""
    held, wide = of(drawn[name])
    assert held >= 0.92
    assert 0.85 < wide < 2


def of(estimates) -> tuple[float, float]:
    """How often the mean of all is held, and how wide intervals are beside the spread of the numbers."""
    values = [one.value for one in estimates]
    held = np.mean([one.low <= np.mean(values) <= one.high for one in estimates])
    return held, np.mean([one.high - one.low for one in estimates]) / 2 / 1.96 / np.std(values)


@pytest.mark.slow
def test_the_interval_of_the_unbiased_distance_holds_the_truth(drawn):
    """Of k = (x·y/2 + 1)³, by the laws' moments in a large exact grid: here by quadrature in each dimension."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(12)
    weights = weights / weights.sum()
    points = np.stack(np.meshgrid(nodes, nodes), -1).reshape(-1, 2)
    p = np.outer(weights, weights).ravel()
    a, b = points * 1.2 + 0.6, points

    def k(x, y):
        return p @ (x @ y.T / 2 + 1) ** 3 @ p

    truth = k(a, a) + k(b, b) - 2 * k(a, b)
    held = np.mean([one.low <= truth <= one.high for one in drawn["kernel"]])
    assert 0.90 <= held <= 0.99, held
