"""Every sampler errs as little as its order says, calls D as often as it says, and is what its paper says."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.interpolate import CubicSpline

from pipeline.diffusion.churn import Churn
from pipeline.diffusion.denoiser import expand
from pipeline.diffusion.exact import Mixture
from pipeline.diffusion.multistep import DPMSolver2M
from pipeline.diffusion.sample import DDIM, Ancestral, Euler, Grid, Heun, normal
from pipeline.keys import Key

LINE = Mixture([0.3, 0.7], [torch.tensor([-1.0]), torch.tensor([0.8])], [0.05 * torch.eye(1)] * 2)
SIGMA = torch.tensor([20.0, 2.0, 0.3], dtype=torch.float64)
DOWN = torch.tensor([5.0, 1.9, 0.01], dtype=torch.float64)
X = torch.tensor([[-15.0], [0.4], [0.9]], dtype=torch.float64)


def law():
    return zip(LINE.weights, LINE.parts)


def below(x, sigma):
    """The share of p_σ below x."""
    return sum(w * torch.special.ndtr((x - part.mean) / (part.values + sigma**2).sqrt()) for w, part in law())


def flow(x, sigma):
    """Where the probability-flow ODE takes x (B, 1): on a line points keep their order, hence the share below them."""
    low, high = torch.full_like(x, -4.0), torch.full_like(x, 4.0)
    for _ in range(60):
        middle = (low + high) / 2
        short = below(middle, 0.0) < below(x, sigma)
        low, high = torch.where(short, middle, low), torch.where(short, high, middle)
    return low


def gauss(n):
    points, weights = np.polynomial.hermite_e.hermegauss(n)
    return torch.from_numpy(points), torch.from_numpy(weights / weights.sum())


def bias(sampler, start):
    """|E cos x₀ − truth| for x ~ p_start, by quadrature over each Transition, the last one first: no random numbers."""
    z, weights = gauss(31)
    x = 4 * (start + 1.2) * torch.sinh(torch.linspace(-3, 3, 501, dtype=torch.float64)) / np.sinh(3)
    spline = None

    def value(at):
        return torch.cos(at) if spline is None else torch.from_numpy(spline(at.numpy()))

    for up, down in reversed(list(itertools.pairwise(sampler.sigmas(start)[:, 0]))):
        move = sampler.step(LINE, x[:, None], up.expand(len(x)), down.expand(len(x)), None)
        std = torch.zeros_like(x) if move.std is None else move.std
        after = value((move.mean + std[:, None] * z).clamp(x[0], x[-1])) @ weights
        spline = CubicSpline(x.numpy(), after.numpy())
    made = sum(w * value(part.mean + (part.values + start**2).sqrt() * z) for w, part in law())
    truth = sum(w * torch.cos(part.mean + part.values.sqrt() * z) for w, part in law())
    return abs(float((made - truth) @ weights))


def assert_order(order, error, grids, within):
    errors = [error(steps) for steps in grids]
    slopes = [float(np.log2(a / b)) for a, b in itertools.pairwise(errors)]
    assert all(abs(slope - order) < within for slope in slopes), (errors, slopes)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "order"), [(Euler, 1), (DDIM, 1), (Heun, 2), (DPMSolver2M, 2)], ids=lambda v: getattr(v, "__name__", v)
)
def test_order_along_the_flow_of_a_mixture(kind, order):
    x = torch.linspace(-40, 40, 41, dtype=torch.float64)[:, None]
    truth = flow(x, 20.0)

    def error(steps):
        return float((kind(steps, 1e-4, 20.0)(LINE, x) - truth).square().mean().sqrt())

    assert_order(order, error, [32, 64, 128, 256], within=0.15)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sampler", "order", "within"),
    [
        (Ancestral, 1, 0.1),
        (lambda *grid: DDIM(*grid, eta=0.5), 1, 0.1),
        (lambda *grid: Churn(*grid, s_churn=4.0, s_min=0.0, s_noise=1.0), 2, 0.4),
    ],
    ids=["Ancestral", "DDIM", "Churn"],
)
def test_weak_order_on_a_mixture(sampler, order, within):
    assert_order(order, lambda steps: bias(sampler(steps, 1e-3, 2.0), 2.0), [32, 64, 128], within)


@pytest.mark.parametrize(
    ("sampler", "calls"),
    [(Euler(9), 9), (DDIM(9, eta=0.5), 9), (Ancestral(9), 9), (DPMSolver2M(9), 9), (Heun(9), 17), (Churn(9), 17)],
    ids=lambda v: type(v).__name__,
)
def test_the_denoiser_is_called_as_often_as_stated(sampler, calls):
    seen = []

    def D(x, sigma, cond=None):
        seen.append(sigma)
        return LINE(x, sigma)

    sampler(D, X, keys=[Key(0).fold(i) for i in range(3)])
    assert len(seen) == calls == sampler.evaluations()
    seen.clear()
    sampler(D, X[:1].float(), 0.3, keys=[Key(0)])
    assert len(seen) == sampler.evaluations(0.3) < calls, "only the levels below the start are gone through"


def test_ddim_goes_from_euler_to_ancestral():
    still, euler = DDIM().step(LINE, X, SIGMA, DOWN, None), Euler().step(LINE, X, SIGMA, DOWN, None)
    assert still.std is None
    assert torch.equal(still.mean, euler.mean)
    full, ancestral = DDIM(eta=1.0).step(LINE, X, SIGMA, DOWN, None), Ancestral().step(LINE, X, SIGMA, DOWN, None)
    assert torch.equal(full.mean, ancestral.mean)
    assert torch.equal(full.std, ancestral.std)
    assert torch.equal(DDIM()(LINE, X), Euler()(LINE, X))
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="give it from 0"):
            DDIM(eta=wrong)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_ddim_is_eq_12_and_16_of_song_et_al(eta):
    """In their coordinates √α x, where α = 1/(1 + σ²)."""
    a, b = 1 / (1 + SIGMA[:, None] ** 2), 1 / (1 + DOWN[:, None] ** 2)
    x0 = LINE(X, SIGMA)
    predicted = (a.sqrt() * X - a.sqrt() * x0) / (1 - a).sqrt()
    width = eta * ((1 - b) / (1 - a)).sqrt() * (1 - a / b).sqrt()
    mean = b.sqrt() * x0 + (1 - b - width**2).sqrt() * predicted
    move = DDIM(eta=eta).step(LINE, X, SIGMA, DOWN, None)
    torch.testing.assert_close(b.sqrt() * move.mean, mean)
    if eta:
        torch.testing.assert_close(b.sqrt() * move.std[:, None], width)


@pytest.mark.parametrize("offset", [1e-8, 1e-4, 1e-3, 1e-2])
def test_a_start_just_above_a_level_is_a_start_at_the_level(offset):
    """A step much shorter than the next says nothing of it: divided by its length, rounding would be all there is."""
    sampler, D = DPMSolver2M(18), lambda x, sigma, cond=None: LINE(x.double(), sigma.double()).bfloat16().float()
    level = float(Grid(18).sigmas()[12])
    x = level * torch.randn(200, 1, generator=Key(1).torch())
    at, above = (sampler(D, x, start=start) for start in (level, level * (1 + offset)))
    assert float((above - at).square().mean().sqrt()) < 0.01


def test_dpm_solver_is_algorithm_2_of_lu_et_al():
    x, old, t = X, None, -Grid(7).sigmas().log()[:, 0]
    for i in range(7):
        D = LINE(x, (-t[i]).exp().expand(3))
        h = t[i + 1] - t[i]
        if old is None or i == 6:
            ahead = D
        else:
            r = (t[i] - t[i - 1]) / h
            ahead = (1 + 1 / (2 * r)) * D - old / (2 * r)
        x, old = (t[i] - t[i + 1]).exp() * x - torch.expm1(-h) * ahead, D
    torch.testing.assert_close(DPMSolver2M(7)(LINE, X), x)
    first = DPMSolver2M().step(LINE, X, SIGMA, DOWN, None)
    torch.testing.assert_close(first.mean, Euler().step(LINE, X, SIGMA, DOWN, None).mean)


def test_churn_is_algorithm_2_of_karras_et_al():
    churn = Churn(12, s_churn=3.0, s_min=0.1, s_max=30.0, s_noise=1.01)
    keys = [Key(0).fold(i) for i in range(3)]
    made = churn(LINE, X, keys=keys)
    sources = [key.fold("steps").numpy() for key in keys]
    x, t = X, Grid(12).sigmas()[:, 0]
    for i in range(12):
        hat = t[i] * 1.25 if 0.1 <= t[i] <= 30 else t[i]
        if hat > t[i]:
            x = x + (hat**2 - t[i] ** 2).sqrt() * 1.01 * normal((1,), sources)
        slope = (x - LINE(x, hat.expand(3))) / hat
        ahead = x + (t[i + 1] - hat) * slope
        if i < 11:
            slope = (slope + (ahead - LINE(ahead, t[i + 1].expand(3))) / t[i + 1]) / 2
        x = x + (t[i + 1] - hat) * slope
    torch.testing.assert_close(made, x)


def test_churn_goes_up_between_its_bounds_only_and_by_no_more_than_the_square_root_of_2():
    grid, plain = Churn(12, s_churn=99.0, s_min=0.1, s_max=30.0).sigmas()[:, 0], Grid(12).sigmas()[:, 0]
    up = grid[1:] > grid[:-1]
    inside = plain[(plain >= 0.1) & (plain <= 30)]
    assert torch.equal(grid[:-1][up], inside)
    torch.testing.assert_close(grid[1:][up], 2**0.5 * inside)
    assert torch.equal(torch.cat([grid[:1], grid[1:][~up]]), plain)
    assert torch.equal(Churn(12, s_churn=0.0).sigmas(SIGMA), Heun(12).sigmas(SIGMA))
    assert torch.equal(Churn(s_churn=0.0)(LINE, X), Heun()(LINE, X))
    for wrong in ({"s_churn": -1.0}, {"s_min": 3.0, "s_max": 2.0}, {"s_noise": 0.0}):
        with pytest.raises(ValueError, match="cannot churn"):
            Churn(**wrong)


def test_both_halves_of_a_churned_step_are_transitions():
    up = Churn(s_noise=1.5).step(LINE, X, DOWN, SIGMA, None)
    assert torch.equal(up.mean, X)
    torch.testing.assert_close(up.std, 1.5 * (SIGMA**2 - DOWN**2).sqrt())
    z = torch.ones(3, 1, dtype=torch.float64)
    want = torch.distributions.Normal(X, expand(up.std, X)).log_prob(up.draw(z))[:, 0]
    torch.testing.assert_close(up.log_prob(up.draw(z)), want)
    down = Churn().step(LINE, X, SIGMA, DOWN, None)
    assert down.std is None
    assert torch.equal(down.mean, Heun().step(LINE, X, SIGMA, DOWN, None).mean)


@pytest.mark.parametrize("wrong", [{"start": [1.0, 2.0]}, {"keys": 2}, {"keys": 4}, {"cond": 1}, {"start": [1.0] * 4}])
def test_starts_keys_and_conditions_are_one_per_sample(wrong):
    x, (name, value) = torch.zeros(3, 2), *wrong.items()
    value = {"start": torch.tensor, "keys": lambda n: [Key(i) for i in range(n)], "cond": torch.zeros}[name](value)
    rows = len(value)
    with pytest.raises(ValueError, match=f"{name} has {rows} rows for 3 samples: give one per sample"):
        Ancestral(steps=3)(lambda x, sigma, cond=None: 0 * x, x, **{"keys": [Key(0)] * 3, name: value})
