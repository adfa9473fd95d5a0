"""An average of any width, made after training, is the one that would have been tracked."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
from tiny_backbone import batches, build, same
from torch import nn

from pipeline.diffusion.levels import LogNormal
from pipeline.keys import Key
from pipeline.learning.ema import Pair
from pipeline.learning.loop import Clock, Every, fit
from pipeline.learning.posthoc import WIDEST, PostHoc, Power, inner, shares
from pipeline.learning.state import State
from pipeline.objectives.denoising import Denoising


def profile(tau, t, gamma):
    return np.where(tau <= t, (gamma + 1) * tau**gamma / t ** (gamma + 1), 0.0)


@pytest.mark.parametrize("width", [0.01, 0.05, 0.1, 0.2, 0.28])
def test_a_profile_has_its_width(width):
    tau = (np.arange(200_000) + 0.5) / 200_000
    p = profile(tau, 1.0, Power(width).gamma)
    mean = (p * tau).mean()
    assert p.mean() == pytest.approx(1, rel=1e-4)
    assert np.sqrt((p * (tau - mean) ** 2).mean()) == pytest.approx(width, rel=1e-3)


def test_inner_products_are_integrals():
    tau = (np.arange(400_000) + 0.5) / 100_000
    for t, gamma, other, eta in ((1.0, 6.94, 2.0, 16.97), (4.0, 6.94, 3.0, 16.97), (2.0, 3.0, 2.0, 3.0)):
        want = (profile(tau, t, gamma) * profile(tau, other, eta)).sum() / 100_000
        assert inner(np.array(t), np.array(gamma), np.array(other), np.array(eta)) == pytest.approx(want, rel=1e-4)


def test_the_tracked_average_is_the_sum_of_all_weights_by_the_profile():
    """Step k has the share ∫ p over its own images, (kᵞ⁺¹ − (k−1)ᵞ⁺¹)/nᵞ⁺¹; the first weights have none."""
    torch.manual_seed(0)
    model, rule = nn.Linear(3, 2).double(), Power(0.1)
    average, want, n = copy.deepcopy(model), torch.zeros(2, 3, dtype=torch.float64), 30
    for k in range(1, n + 1):
        nn.init.normal_(model.weight)
        rule.update(Pair(average, model), 8 * (k - 1), 8)
        want += (k ** (rule.gamma + 1) - (k - 1) ** (rule.gamma + 1)) / n ** (rule.gamma + 1) * model.weight.detach()
    torch.testing.assert_close(average.weight.data, want)


def test_what_was_kept_is_its_own_reconstruction():
    kept = [(at, width) for at in (250, 500, 1000) for width in (0.05, 0.1)]
    for width, images, want in ((0.1, 1000, [0, 0, 0, 0, 0, 1]), (0.05, 500, [0, 0, 1, 0, 0, 0])):
        found, off = shares(kept, Power(width), images)
        assert found == pytest.approx(want, abs=1e-6)
        assert off < 1e-5


@pytest.mark.parametrize("tracked", [(0.05,), (0.05, 0.1)])
@pytest.mark.parametrize("wanted", [0.005, 0.03, 0.2, 0.28])
def test_whatever_is_asked_for_weights_that_stood_still_are_given_back_whole(tracked, wanted):
    """The shares of an average add up to 1; how far its profile is off is told, against quadrature."""
    kept = [(at, width) for at in range(25, 801, 25) for width in tracked]
    found, off = shares(kept, Power(wanted), 800)
    assert found.sum() == pytest.approx(1, abs=1e-9)
    tau = (np.arange(200_000) + 0.5) / 200_000

    def profile(t, width):
        gamma = Power(width).gamma
        return np.where(tau <= t, (gamma + 1) * (np.minimum(tau, t) / t) ** gamma / t, 0)

    made = sum(share * profile(at / 800, width) for share, (at, width) in zip(found, kept))
    want = profile(1.0, wanted)
    assert off == pytest.approx(np.linalg.norm(made - want) / np.linalg.norm(want), rel=0.02, abs=2e-3)


@pytest.mark.parametrize("width", [0.07, 0.15, 0.2])
def test_the_reconstruction_nears_the_tracked_average_as_snapshots_grow(width):
    """Weights that wander: a random walk in 50 dimensions, averaged by two tracked profiles and by the one wanted."""
    steps, rng = 4096, np.random.default_rng(0)
    rules = [Power(0.05), Power(0.1), Power(width)]
    theta, averages, written = np.zeros(50), np.zeros((3, 50)), {}
    for k in range(steps):
        theta = theta + rng.standard_normal(50) / np.sqrt(steps)
        for average, rule in zip(averages, rules):
            average += (1 - rule.beta(16 * k, 16)) * (theta - average)
        written[16 * (k + 1)] = averages.copy()
    errors = []
    for count in (4, 8, 16, 32):
        kept = [(16 * steps * i // count, rule.sigma_rel) for i in range(1, count + 1) for rule in rules[:2]]
        found, _ = shares(kept, rules[2], 16 * steps)
        rows = np.stack([written[at][int(w == 0.1)] for at, w in kept])
        errors.append(np.linalg.norm(found @ rows - averages[2]) / np.linalg.norm(theta - averages[2]))
    assert all(b < a / 1.5 for a, b in itertools.pairwise(errors)), errors
    assert errors[-1] < 0.02


def test_a_run_tracks_its_profiles_and_they_say_what_a_third_would_have():
    state = State.create(build(), posthoc=PostHoc((0.05, 0.1, 0.15)))
    seen = {}

    def keep(state, metrics):
        seen[state.images] = [copy.deepcopy(module.state_dict()) for _, module in state.profiles]

    fit(state, batches(16), Denoising(), LogNormal(), Clock(1600, 16), Key(1), hooks=[Every(40, keep)])
    kept = [(at, width) for at in seen for width in (0.05, 0.1)]
    found, _ = shares(kept, Power(0.15), 1600)
    name = "net.layers.0.weight"
    made = sum(float(c) * seen[at][w == 0.1][name] for c, (at, w) in zip(found, kept))
    tracked, last = seen[1600][2][name], state.model.state_dict()[name]
    assert float((made - tracked).norm()) < 0.01 * float((last - tracked).norm())
    assert not same(seen[1600][0], seen[1600][1])


def test_what_cannot_be_averaged_is_refused():
    for width in (0.0, -1.0, WIDEST, float("nan")):
        with pytest.raises(ValueError, match="give a width"):
            Power(width)
    for wrong in ({"sigma_rel": ()}, {"sigma_rel": (0.1, 0.1)}, {"snapshots": 0}, {"sigma_rel": (0.5,)}):
        with pytest.raises(ValueError, match=r"give (a width|at least one)"):
            PostHoc(**wrong)
    with pytest.raises(ValueError, match="no averages of up to 100 images"):
        shares([(200, 0.1)], Power(0.1), 100)
