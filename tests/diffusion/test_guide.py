"""Guidance is a denoiser: of p_Dʷ p_G¹⁻ʷ at each σ where it is heard, of p_D where it is not."""

from __future__ import annotations

import math

import pytest
import torch
from torch.autograd import grad

from pipeline.diffusion.denoiser import expand, score
from pipeline.diffusion.exact import Gaussian, Mixture
from pipeline.diffusion.guide import Autoguided, ClassifierFree
from pipeline.diffusion.sample import Heun, samples
from pipeline.keys import Key

CLASSES = [
    Gaussian(torch.tensor([-1.0, 0.2]), torch.diag(torch.tensor([0.1, 0.2]))),
    Gaussian(torch.tensor([0.8, -0.5]), torch.diag(torch.tensor([0.3, 0.1]))),
]
BOTH = Mixture([0.4, 0.6], [law.mean for law in CLASSES], [law.cov for law in CLASSES])
SIGMA = torch.tensor([0.05, 0.4, 0.4, 3.0, 50.0], dtype=torch.float64)
X = expand(1 + SIGMA, torch.empty(5, 2)) * torch.randn(5, 2, generator=Key(0).torch(), dtype=torch.float64)
LABELS = torch.tensor([0, 1, 0, 1, 0])


def conditional(x, sigma, cond=None):
    """E[x₀ | x, class]; class −1 and no class at all are both classes together."""
    if cond is None:
        return BOTH(x, sigma)
    each = torch.stack([law(x, sigma) for law in (*CLASSES, BOTH)])
    return each[cond, torch.arange(len(x))]


def never(x, sigma, cond=None):
    raise AssertionError("the guide was called")


@pytest.mark.parametrize("weight", [0.0, 0.5, 2.0, 5.0])
@pytest.mark.parametrize("empty", [None, torch.tensor(-1)], ids=["none", "label"])
def test_the_guided_score_is_the_gradient_of_the_weighted_log_densities(weight, empty):
    x = X.clone().requires_grad_()
    named = torch.stack([law.log_density(x, SIGMA) for law in CLASSES])[LABELS, torch.arange(5)]
    (slope,) = grad((weight * named + (1 - weight) * BOTH.log_density(x, SIGMA)).sum(), x)
    guided = ClassifierFree(conditional, weight, empty)
    torch.testing.assert_close(score(guided, X, SIGMA, LABELS), slope)
    if weight == 0:
        torch.testing.assert_close(guided(X, SIGMA, LABELS), BOTH(X, SIGMA))


def test_autoguidance_leans_away_from_the_worse_model():
    """At w = 2 by as much as that one lags behind."""
    worse = Gaussian(CLASSES[0].mean, CLASSES[0].cov + 0.2 * torch.eye(2))
    D, G = CLASSES[0](X, SIGMA), worse(X, SIGMA)
    torch.testing.assert_close(Autoguided(CLASSES[0], worse, 2.0)(X, SIGMA), D + (D - G))
    seen = []

    def guide(x, sigma, cond=None):
        seen.append(cond)
        return worse(x, sigma)

    Autoguided(conditional, guide, 2.0)(X, SIGMA, LABELS)
    assert seen[0] is LABELS, "both models have the same condition"


def test_an_interval_is_open_below_and_closed_above_and_spares_the_guide_elsewhere():
    all_over = ClassifierFree(conditional, 3.0)(X, SIGMA, LABELS)
    alone = conditional(X, SIGMA, LABELS)
    made = ClassifierFree(conditional, 3.0, low=0.05, high=3.0)(X, SIGMA, LABELS)
    heard = torch.tensor([False, True, True, True, False])
    assert torch.equal(made[heard], all_over[heard])
    assert torch.equal(made[~heard], alone[~heard])
    assert torch.equal(Autoguided(conditional, never, 3.0, low=60.0)(X, SIGMA, LABELS), alone)
    assert torch.equal(Autoguided(conditional, never, 3.0, high=0.01)(X, SIGMA, LABELS), alone)
    assert torch.equal(Autoguided(conditional, never, 1.0)(X, SIGMA, LABELS), alone)


def test_samplers_take_what_is_guided_and_it_sharpens_a_class():
    """Guidance by the mixture pushes samples of a class away from the other class, the more the larger w."""
    labels = torch.arange(2).repeat(300)
    between, gaps = CLASSES[1].mean - CLASSES[0].mean, []
    for weight in (1.0, 2.0, 4.0):
        D = ClassifierFree(conditional, weight)
        made = samples(D, Heun(12), (2,), range(600), seed=0, batch=600, cond=labels)
        along = (made.double() @ between) / between.norm()
        gaps.append(float(along[1::2].mean() - along[::2].mean()))
    assert gaps[0] == pytest.approx(float(between.norm()), abs=0.1)
    assert gaps[0] < gaps[1] < gaps[2]


@pytest.mark.parametrize("wrong", [{"weight": math.nan}, {"weight": 2.0, "low": -1.0}, {"weight": 2.0, "high": 0.0}])
def test_what_is_no_guidance_is_refused(wrong):
    with pytest.raises(ValueError, match="0 <= low < high"):
        ClassifierFree(conditional, **wrong)
    with pytest.raises(ValueError, match="0 <= low < high"):
        Autoguided(conditional, never, **wrong)
