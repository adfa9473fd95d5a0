"""GSURE: without the images it knows the error that only the images could tell; the published constants do not."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_backbone import LAW, build

from pipeline.diffusion.denoiser import expand
from pipeline.diffusion.exact import Gaussian
from pipeline.diffusion.levels import LogNormal, Stratified
from pipeline.diffusion.precond import EDM
from pipeline.diffusion.truncated import Above
from pipeline.keys import Key
from pipeline.objectives.gsure import GSURE, Measured, Probe
from pipeline.objectives.objective import Batch
from pipeline.physics.blur import GaussianBlur
from pipeline.physics.linear import Identity
from pipeline.physics.masks import Masked
from pipeline.physics.modes import modes

SHAPE, SIZE, N = (1, 2, 3), 6, 40_000
X0 = torch.linspace(-0.7, 0.8, SIZE).view(SHAPE).double()
M = 0.6 * torch.eye(SIZE) + torch.randn(SIZE, SIZE, generator=Key(1).torch(), dtype=torch.float64) / 4
LEVEL, SIGMA = 0.3, 0.5
ALPHA = 1 / (1 + SIGMA**2)  # ᾱ of the papers' x_t = √ᾱ u


def linear(x, sigma, cond=None):
    return (x.flatten(1) @ M.T + 0.1).view_as(x)


def random_masks(n=N, p=0.4):
    return Masked(SHAPE, torch.rand(n, *SHAPE, generator=Key(2).torch()) >= p)


MAPS = {"masks": random_masks(), "blur": GaussianBlur(SHAPE, 0.25), "noise alone": Identity(SHAPE)}


def measured(A, level=LEVEL, n=N, x0=X0):
    """Rows of one image, and the objective that fits them."""
    basis, S = modes(A)
    S = S.expand(n, *x0.shape)
    y = A(x0.expand(n, *x0.shape))
    y = y + level * torch.randn(y.shape, generator=Key(3).torch(), dtype=torch.float64)
    batch = Measured(A.pinv(y), singular=S, level=torch.full((n,), level, dtype=torch.float64))
    weight = 1 / (S > 0).double().mean(0).clamp_min(1e-9)
    return batch, GSURE(weight, basis, noisy=level > 0)


def parts(batch, objective, D, sigma, key):
    """ū, ȳ, f, P and C as the docstring has them."""
    y = objective.basis.into(batch.x)
    P = (batch.singular > 0).double()
    C = P * (expand(batch.level, P) / torch.where(P > 0, batch.singular, 1)) ** 2
    u = y + (expand(sigma, y) ** 2 - C).sqrt() * objective.draw(batch, key)["noise"]
    return u, y, objective.basis.into(D(objective.basis.back(u), sigma)), P, C


def gap(estimates, batch, objective, key=Key(4)):
    """(mean, standard error) of estimate − truth, the truth being |W P (f − x̄)|² of the very same rows."""
    sigma = torch.full((N,), SIGMA, dtype=torch.float64)
    _, _, f, P, _ = parts(batch, objective, linear, sigma, key)
    truth = (objective.weight * P * (f - objective.basis.into(X0[None])) ** 2).flatten(1).mean(1)
    each = estimates - truth
    return float(each.detach().mean()), float(each.detach().std() / N**0.5)


@pytest.mark.parametrize("probe", list(Probe))
@pytest.mark.parametrize("A", MAPS.values(), ids=MAPS.keys())
def test_the_estimate_is_the_true_risk_of_a_linear_denoiser(A, probe):
    batch, objective = measured(A)
    objective = GSURE(objective.weight, objective.basis, probe=probe)
    sigma = torch.full((N,), SIGMA, dtype=torch.float64)
    loss = objective(linear, batch, sigma, Key(4))
    assert loss.scalars["too_noisy"] == 0
    mean, error = gap(loss.each / objective.precond.weight(sigma), batch, objective)
    assert abs(mean) < 4 * error
    assert error < 0.02


def test_the_published_constants_are_not_unbiased_and_the_correct_ones_are():
    """Targets ȳ or x_t/√ᾱ = u; the trace of a linear f is known, so that only the constants are judged."""
    batch, objective = measured(MAPS["masks"])
    sigma = torch.full((N,), SIGMA, dtype=torch.float64)
    u, y, f, P, C = parts(batch, objective, linear, sigma, Key(4))
    W = objective.weight
    by_xt = (W * P).flatten(1) @ M.diagonal() / math.sqrt(ALPHA)  # div of P W² f in x_t, of each row
    to_y, to_u = ((W * P * (f - target) ** 2).flatten(1).sum(1) for target in (y, u))
    seen, noise = (W * P).flatten(1).sum(1), (W * C).flatten(1).sum(1)

    def off(estimate):
        mean, error = gap(estimate / SIZE, batch, objective)
        return abs(mean) / error

    assert off(to_y + 2 * LEVEL**2 * math.sqrt(ALPHA) * by_xt - noise) < 4
    assert off(to_u + 2 * (1 - ALPHA) / math.sqrt(ALPHA) * by_xt - SIGMA**2 * seen) < 4
    # arXiv 2305.13128 as it is printed, and as its code has it (pixel means, Λ = 1e-4 for every noise).
    assert off(to_u + 2 * (1 - ALPHA) * by_xt - SIGMA**2 * seen) > 8
    assert off(to_y + 2 * (1 - ALPHA) * 1e-4 * by_xt - noise) > 8


def rows_of_law(level, n=N):
    """Images of the law on two numbers, measured with noise alone."""
    x0 = LAW.sample(n, Key(1)).double()
    y = x0 + level * torch.randn(n, 2, generator=Key(3).torch(), dtype=torch.float64)
    ones = torch.ones(n, 2, dtype=torch.float64)
    return Measured(y, singular=ones, level=torch.full((n,), level, dtype=torch.float64))


def slope(objective, D, batch, sigma, direction, eps=1e-4):
    """d/da of the loss of D + a·direction at a = 0 with its standard error, on the same noise both sides."""

    def loss(a):
        def moved(x, s, cond=None):
            return D(x, s) + a * direction(x, s)

        return objective(moved, batch, sigma, Key(3)).each.detach()

    each = (loss(eps) - loss(-eps)) / (2 * eps)
    return float(each.mean()), float(each.std() / len(each) ** 0.5)


def bump(x, sigma):
    w = torch.tensor([[1.3, -0.4], [0.2, 0.9]], dtype=x.dtype)
    return expand(sigma / (1 + sigma), x) * torch.tanh(x @ w + 0.3)


@pytest.mark.parametrize("probe", list(Probe))
def test_with_noise_alone_it_is_stationary_at_the_clean_images_denoiser_and_not_ten_percent_away(probe):
    objective = GSURE(torch.ones(2, dtype=torch.float64), precond=EDM(0.5), probe=probe)
    sigma = Above(LogNormal(), 0.2).draw(N, Key(2)).double()
    batch = rows_of_law(0.2)
    for direction in (bump, LAW, lambda x, s: expand(s, x) * x.sin()):
        value, error = slope(objective, LAW, batch, sigma, direction)
        assert abs(value) < 4 * error
    for factor in (0.9, 1.1):
        value, error = slope(objective, lambda x, s, f=factor: f * LAW(x, s), batch, sigma, LAW)
        assert value * (factor - 1) > 0
        assert abs(value) > 8 * error


def test_behind_masks_it_is_stationary_where_each_pixel_is_what_it_is_where_it_is_seen():
    """Two pixels, each hidden with probability p: f_j(u) = Σ over whether the other is seen, by Bayes."""
    p, law = 0.4, Gaussian(torch.zeros(2), torch.tensor([[0.30, 0.18], [0.18, 0.20]]))

    def seen_mean(u, sigma, cond=None):
        out = []
        for j in range(2):
            whole = law(u, sigma)[:, j]
            own = law.cov[j, j]
            alone = own / (own + sigma**2) * u[:, j]
            k = 1 - j
            other = torch.distributions.Normal(torch.zeros(()).double(), sigma).log_prob(u[:, k])
            first = torch.distributions.Normal(torch.zeros(()).double(), (own + sigma**2).sqrt()).log_prob(u[:, j])
            share = torch.sigmoid(law.log_density(u, sigma) + math.log(1 - p) - (first + other + math.log(p)))
            out.append(share * whole + (1 - share) * alone)
        return torch.stack(out, 1)

    x0 = law.sample(N, Key(1)).double()
    S = (torch.rand(N, 2, generator=Key(5).torch()) >= p).double()
    batch = Measured(S * x0, singular=S, level=torch.zeros(N, dtype=torch.float64))
    objective = GSURE(torch.full((2,), 1 / (1 - p), dtype=torch.float64), noisy=False)
    sigma = LogNormal().draw(N, Key(2)).double()
    value, error = slope(objective, seen_mean, batch, sigma, bump)
    assert abs(value) < 4 * error
    # The whole images' denoiser is not where it leads: a step from there towards it lowers the loss.
    value, error = slope(objective, law, batch, sigma, lambda x, s: seen_mean(x, s) - law(x, s))
    assert value < -8 * error


@pytest.mark.parametrize("probe", list(Probe))
def test_levels_below_the_rows_own_noise_cost_nothing_and_are_never_nan(probe):
    level = torch.tensor([0.2, 0.2, 0.2, 0.0])
    batch = Measured(torch.randn(4, 2), singular=torch.ones(4, 2), level=level)
    D = build()
    sigma = torch.tensor([0.1, 0.2, 0.4, 1e-3])
    loss = GSURE(torch.ones(2), probe=probe)(D, batch, sigma, Key(0))
    assert loss.each.isfinite().all()
    assert (loss.each == 0).tolist() == [True, False, False, False]
    assert float(loss.scalars["too_noisy"]) == 0.25
    loss.each.sum().backward()
    assert all(q.grad.isfinite().all() for q in D.parameters() if q.grad is not None)


def test_both_probes_agree_although_dropout_is_at_work():
    D = build(dropout=0.5).train()
    x = torch.randn(64, 2, generator=Key(0).torch())
    batch = Measured(x, singular=torch.ones(64, 2), level=torch.full((64,), 0.2))
    found = []
    for probe in Probe:
        torch.manual_seed(0)
        found.append(GSURE(torch.ones(2), probe=probe)(D, batch, torch.full((64,), 0.5), Key(1)).each)
    torch.testing.assert_close(*found, rtol=2e-2, atol=2e-2)


def test_weights_make_what_is_seldom_seen_count_as_much():
    """With W² = 1/E[P] the error of an answer that does not listen is that of whole images."""
    S = torch.tensor([[1.0, 1], [1, 0], [1, 0], [1, 0]])
    x0 = torch.tensor([0.3, -0.8])
    batch = Measured(S * x0, singular=S, level=torch.zeros(4))
    objective = GSURE(1 / S.mean(0), noisy=False)
    loss = objective(lambda x, s, c=None: torch.full_like(x, 0.1), batch, torch.ones(4), Key(0))
    assert float(loss.each.mean() / EDM().weight(torch.ones(1))) == pytest.approx(float(((x0 - 0.1) ** 2).mean()))


def test_a_batch_that_does_not_say_what_was_seen_is_refused():
    with pytest.raises(ValueError, match="what their rows went through"):
        GSURE(torch.ones(2))(build(), Batch(torch.zeros(4, 2)), torch.ones(4), Key(0))


@pytest.mark.parametrize("of", [LogNormal(), Stratified(LogNormal(-0.5, 1.0))], ids=str)
def test_levels_above_a_least_one_are_those_of_the_whole_that_lie_there(of):
    cut = Above(of, 0.4)
    drawn = cut.draw(4000, Key(0)).double()
    assert drawn.min() >= 0.4 * (1 - 1e-6)
    t = torch.linspace(math.log(0.4) + 1e-9, 12, 200_001, dtype=torch.float64)
    assert float(torch.trapezoid(cut.density(t), t)) == pytest.approx(1, abs=1e-6)
    middle = cut.quantile(torch.tensor(0.5, dtype=torch.float64))
    assert float((drawn.log() < middle).double().mean()) == pytest.approx(0.5, abs=0.03)
    assert float(cut.density(torch.tensor(math.log(0.39)))) == 0
    inside = torch.trapezoid(cut.density(t[t < middle]), t[t < middle])
    assert float(inside) == pytest.approx(0.5, abs=1e-3)
    with pytest.raises(ValueError, match=r"only 0\.\d+% of the levels lie above"):
        Above(of, 60.0)
