"""Samplers on laws whose flow is known: right moments, second order, any start, one result whatever the batch."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from pipeline.diffusion.churn import Churn
from pipeline.diffusion.denoiser import expand
from pipeline.diffusion.exact import Gaussian, Mixture
from pipeline.diffusion.multistep import DPMSolver2M
from pipeline.diffusion.sample import DDIM, Ancestral, Euler, Grid, Heun, Transition, normal, samples
from pipeline.keys import Key

COV = torch.tensor([[0.5, 0.3, 0.0], [0.3, 0.4, -0.1], [0.0, -0.1, 0.2]], dtype=torch.float64)
GAUSSIAN = Gaussian(torch.tensor([0.3, -0.2, 0.1]), COV)
MIXTURE = Mixture([0.3, 0.7], [torch.tensor([-1.0, 0.2]), torch.tensor([0.8, -0.5])], [0.05 * torch.eye(2)] * 2)
SAMPLERS = [Euler(), Heun(), DDIM(), DDIM(eta=0.5), DPMSolver2M(), Ancestral(), Churn()]


def elementwise(x, sigma, cond=None):
    """The exact denoiser of a two-point law per pixel, ±½: no sum over the batch or the pixels."""
    return 0.5 * torch.tanh(0.5 * x / expand(sigma, x) ** 2)


def test_grid_ends_and_spacing():
    grid = Grid(18, 0.002, 80.0, 7.0).sigmas()[:, 0]
    assert grid.shape == (19,)
    assert (grid[0], grid[-2], grid[-1]) == (80.0, 0.002, 0.0)
    roots = grid[:-1] ** (1 / 7)
    torch.testing.assert_close(roots.diff(), (roots[-1] - roots[0]).expand(17) / 17)
    torch.testing.assert_close(Grid(5, 0.1, 10.0, 1.0).sigmas()[:-1, 0].diff(), torch.full((4,), -2.475).double())


def test_a_grid_from_a_start_has_the_levels_below_it():
    full, cut = Grid().sigmas()[:, 0], Grid().sigmas(0.5)[:, 0]
    assert cut[0] == 0.5
    assert torch.equal(cut[1:], full[full < 0.5])
    assert torch.equal(Grid().sigmas(80.0), Grid().sigmas())
    assert Grid().sigmas(1e-3)[:, 0].tolist() == [1e-3, 0.0]
    assert Grid().sigmas(float(full[3]))[:, 0].tolist() == full[3:].tolist()


def test_rows_with_lower_starts_wait():
    grid = Grid().sigmas(torch.tensor([0.5, 3.0]))
    assert torch.equal(grid[:, 1], Grid().sigmas(3.0)[:, 0])
    low = grid[:, 0]
    assert torch.equal(torch.cat([low[:1], low[low < 0.5]]), Grid().sigmas(0.5)[:, 0])


@pytest.mark.parametrize("start", [0.0, -1.0, 81.0, float("nan"), torch.tensor([1.0, 0.0])])
def test_a_start_off_the_grid_is_refused(start):
    with pytest.raises(ValueError, match="raise sigma_max"):
        Grid().sigmas(start)


def test_a_grid_that_is_none_is_refused():
    endless = ({"sigma_max": float("inf")}, {"rho": float("inf")}, {"rho": 1e-3}, {"steps": 2.5})
    for wrong in ({"steps": 1}, {"sigma_min": 0.0}, {"sigma_max": 0.001}, {"rho": 0.0}, *endless):
        with pytest.raises(ValueError, match="no grid"):
            Heun(**wrong)


def errors(law, truth, x, steps):
    made = (Heun(steps=n, sigma_min=1e-4, sigma_max=20.0)(law, x) for n in steps)
    return [float((made - truth).square().mean().sqrt()) for made in made]


def slopes(e):
    return [float(np.log2(a / b)) for a, b in itertools.pairwise(e)]


def test_heun_is_of_second_order_on_a_gaussian():
    x = 20 * torch.randn(64, 3, generator=Key(0).torch(), dtype=torch.float64)
    truth = GAUSSIAN.flow(x, torch.full((64,), 20.0))
    e = errors(GAUSSIAN, truth, x, [16, 32, 64, 128, 256])
    assert all(1.7 < s < 2.4 for s in slopes(e)), slopes(e)
    assert e[-1] < 1e-4


@pytest.mark.slow
def test_heun_is_of_second_order_on_a_mixture():
    x = 20 * torch.randn(32, 2, generator=Key(1).torch(), dtype=torch.float64)
    truth = Heun(steps=1024, sigma_min=1e-4, sigma_max=20.0)(MIXTURE, x)
    e = errors(MIXTURE, truth, x, [64, 128, 256])
    assert all(1.7 < s < 2.4 for s in slopes(e)), slopes(e)


@pytest.mark.parametrize("start", [0.05, 0.5, 5.0])
def test_heun_follows_the_flow_from_any_start(start):
    sigma = torch.full((50,), start, dtype=torch.float64)
    x = GAUSSIAN.sample(50, Key(2)) + start * torch.randn(50, 3, generator=Key(3).torch(), dtype=torch.float64)
    made = Heun(steps=400)(GAUSSIAN, x, start=start)
    torch.testing.assert_close(made, GAUSSIAN.flow(x, sigma), atol=3e-4, rtol=0)


@pytest.mark.slow
def test_heun_recovers_mean_and_covariance_of_a_gaussian():
    made = samples(GAUSSIAN, Heun(steps=40), (3,), range(8_000), seed=0, batch=8_000).double()
    torch.testing.assert_close(made.mean(0), GAUSSIAN.mean, atol=0.02, rtol=0)
    torch.testing.assert_close(made.T.cov(), COV, atol=0.02, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "sampler",
    [
        *(Heun(steps=40), Euler(steps=100), DDIM(steps=100, eta=0.5), Ancestral(steps=100), DPMSolver2M(steps=40)),
        Churn(steps=40, s_churn=10.0, s_noise=1.0),
    ],
    ids=str,
)
def test_samplers_recover_a_mixture(sampler):
    made = samples(MIXTURE, sampler, (2,), range(4_000), seed=1, batch=4_000).double()
    torch.testing.assert_close(made.mean(0), MIXTURE.mean, atol=0.04, rtol=0)
    torch.testing.assert_close(made.T.cov(), MIXTURE.cov, atol=0.05, rtol=0)
    assert float((made[:, 0] < 0).double().mean()) == pytest.approx(0.3, abs=0.03)


def test_ancestral_steps_are_exact_for_a_point():
    """If x₀ = m surely then x′ | x ~ N(m + σ′²/σ² (x − m), σ′²(σ² − σ′²)/σ²), so x′ − m has variance σ′²."""
    m = torch.tensor([0.4, -0.1], dtype=torch.float64)

    def D(x, sigma, cond=None):
        return m.expand_as(x)

    x = m + torch.tensor([[3.0, -1.0], [0.5, 2.0]], dtype=torch.float64)
    sigma, down = torch.tensor([2.0, 3.0]).double(), torch.tensor([0.5, 1.0]).double()
    move = Ancestral().step(D, x, sigma, down, None)
    ratio = expand(down**2 / sigma**2, x)
    torch.testing.assert_close(move.mean, m + ratio * (x - m))
    torch.testing.assert_close((down / sigma) ** 4 * sigma**2 + move.std**2, down**2)
    end = Ancestral().step(D, x, sigma, torch.zeros(2).double(), None)
    torch.testing.assert_close(end.draw(torch.randn(2, 2).double()), m.expand(2, 2))


def test_log_prob_is_the_normal_density():
    mean, std = torch.randn(4, 2, 3), torch.rand(4) + 0.1
    move = Transition(mean, std)
    x = move.draw(torch.randn(4, 2, 3))
    want = torch.distributions.Normal(mean, expand(std, mean)).log_prob(x).flatten(1).sum(1)
    torch.testing.assert_close(move.log_prob(x), want)
    for still in (Transition(mean), Transition(mean, torch.zeros(4))):
        with pytest.raises(ValueError, match="no density"):
            still.log_prob(x)


@pytest.mark.slow
@pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
def test_sample_i_is_the_same_to_the_bit_in_any_batch(sampler):
    ids = range(23)
    whole = samples(elementwise, sampler, (1, 4, 4), ids, seed=3, batch=23)
    for batch in (1, 7, 16):
        assert torch.equal(samples(elementwise, sampler, (1, 4, 4), ids, seed=3, batch=batch), whole)
    assert torch.equal(samples(elementwise, sampler, (1, 4, 4), [17, 5], seed=3), whole[[17, 5]])
    assert not torch.equal(samples(elementwise, sampler, (1, 4, 4), ids, seed=4), whole)
    assert len(whole.unique(dim=0)) == 23


@pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
def test_rows_of_different_start_do_not_disturb_each_other(sampler):
    starts = torch.tensor([0.3, 5.0, 0.001, 80.0])
    keys = [Key(0).fold(i) for i in range(4)]
    x = expand(starts, torch.empty(4, 1, 2, 2)) * normal((1, 2, 2), [key.numpy() for key in keys])
    together = sampler(elementwise, x, start=starts, keys=keys)
    for i in range(4):
        alone = sampler(elementwise, x[i : i + 1], start=float(starts[i]), keys=keys[i : i + 1])
        assert torch.equal(together[i : i + 1], alone)


def test_the_state_is_double_and_the_denoiser_is_called_in_the_dtype_given():
    seen = set()

    def D(x, sigma, cond=None):
        seen.add((x.dtype, sigma.dtype))
        return 0.5 * x

    assert Heun()(D, torch.randn(2, 3)).dtype == torch.float32
    assert seen == {(torch.float32, torch.float32)}

    def state_is_double(D, x, sigma, down, cond):
        seen.add(x.dtype)
        return Transition(x)

    probe = type("Probe", (Heun,), {"step": staticmethod(state_is_double)})()
    probe(D, torch.randn(2, 3))
    assert torch.float64 in seen


def test_conditions_go_with_their_samples_and_progress_is_told():
    def D(x, sigma, cond=None):
        return expand(cond.to(x.dtype), x).expand_as(x)

    cond = torch.arange(5)
    made = samples(D, Heun(steps=4), (2,), range(5), seed=0, batch=2, cond=cond)
    torch.testing.assert_close(made, cond[:, None].expand(5, 2).float())
    told = []
    Heun(steps=4)(elementwise, torch.randn(1, 2), progress=lambda done, steps: told.append((done, steps)))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_misuse_is_told():
    with pytest.raises(ValueError, match="one per sample"):
        samples(elementwise, Heun(), (2,), range(3), seed=0, cond=torch.zeros(2))
    with pytest.raises(ValueError, match="give it keys"):
        Ancestral()(elementwise, torch.randn(2, 3))
    with pytest.raises(ValueError, match="white noise"):
        Transition(torch.zeros(2, 3), torch.ones(2)).draw()
    for batch in (0, -1):
        with pytest.raises(ValueError, match="at least one sample at a time"):
            samples(elementwise, Heun(), (2,), range(3), seed=0, batch=batch)
    assert samples(elementwise, Heun(), (2,), [], seed=0).shape == (0, 2)
