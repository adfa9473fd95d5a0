"""Exact EM of a Gaussian: the likelihood never falls, and mean and covariance are found behind masks and noise."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.data.coverage import apart
from pipeline.diffusion import exact, gaussian
from pipeline.keys import Key
from pipeline.learning.gaussian import Law, Measured, fit, seen_whole, started, step
from pipeline.learning.weights import pack, unpack
from pipeline.physics.blur import GaussianBlur
from pipeline.physics.masks import Masked

SHAPE, N = (1, 2, 3), 6
MEAN = torch.linspace(-0.4, 0.5, N).double()
FACTOR = torch.randn(N, N, generator=Key(1).torch(), dtype=torch.float64) / 4
COV = FACTOR @ FACTOR.T + 0.02 * torch.eye(N)
LAW = exact.Gaussian(MEAN.view(SHAPE), COV)


def masked(count: int, noise: float, seed: int = 0, p: float = 0.4, law: exact.Gaussian = LAW) -> list[Measured]:
    """Rows of the law behind masks of their own, with noise on seen and hidden pixels alike."""
    x0, key = law.sample(count, Key(seed)), Key(seed).fold("rows")
    A = Masked(SHAPE, torch.rand(count, *SHAPE, generator=key.torch()) >= p)
    y = A(x0) + noise * torch.randn(x0.shape, generator=key.fold("noise").torch(), dtype=torch.float64)
    return [Measured.of(y, A, torch.full((count,), noise))]


def test_a_step_is_the_conditional_mean_and_covariance_of_each_row():
    """Against conditioning on the seen pixels alone, row by row, by the textbook formula."""
    ((part),) = masked(40, 0.3)
    law, least = Law(MEAN + 0.1, COV + 0.1 * torch.eye(N)), 1e-9
    found, likelihood = step(law, [part], least)
    means, spreads, logs = [], [], 0.0
    for y, A in zip(part.y, part.A, strict=True):
        seen = A.diagonal() > 0
        S = law.cov[seen][:, seen] + 0.09 * torch.eye(int(seen.sum()))
        gain = law.cov[:, seen] @ torch.linalg.inv(S)
        means.append(law.mean + gain @ (y - law.mean)[seen])
        spreads.append(law.cov - gain @ law.cov[seen])
        own = torch.distributions.MultivariateNormal(law.mean[seen], S) if seen.any() else None
        logs += float(own.log_prob(y[seen])) if own else 0.0
        logs += float(torch.distributions.Normal(0.0, 0.3).log_prob(torch.zeros(int((~seen).sum()))).sum())
    mean = torch.stack(means).mean(0)
    cov = torch.stack([C + torch.outer(m - mean, m - mean) for m, C in zip(means, spreads, strict=True)]).mean(0)
    torch.testing.assert_close(found.mean, mean)
    torch.testing.assert_close(found.cov, cov)
    assert likelihood == pytest.approx(logs / 40, rel=1e-6)


@pytest.mark.parametrize(("noise", "rank"), [(0.0, N), (0.3, N), (0.3, 2), (0.0, 1)])
def test_the_likelihood_of_the_rows_never_falls(noise, rank):
    _, told = fit(masked(300, noise), N, rank, 40, tol=-1.0)
    assert len(told) == 40
    assert min(np.diff(told)) > -1e-9
    assert told[-1] > told[0] + 0.1


@pytest.mark.parametrize("rank", [N, 2])
@pytest.mark.parametrize("noise", [0.0, 0.2, 1.5])
def test_where_nothing_is_hidden_the_maximum_has_a_closed_form(noise, rank):
    """EM does not leave it, and comes near its likelihood from below; of 1.5 some rows' variances fall short."""
    part = masked(400, noise, p=0.0)
    noise = float(part[0].noise[0])
    law, best = seen_whole(part[0].y, noise, rank)
    least = torch.linalg.eigvalsh(law.cov).min()
    assert least > -1e-12, "no variance is negative"
    assert noise < 1 or rank < N or least < 1e-12, "and here one is at its bound"
    if noise:
        after, likelihood = step(law, part, 1e-9)
        torch.testing.assert_close(after.limited(rank).cov, law.cov, rtol=0, atol=1e-12)
        torch.testing.assert_close(after.mean, law.mean)
        assert likelihood == pytest.approx(best, abs=1e-9)
    _, told = fit(part, N, rank, 400, tol=-1.0)
    assert max(told) <= best + 1e-9
    assert told[-1] == pytest.approx(best, abs=2e-3)


@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_mean_and_covariance_are_found_behind_masks(noise):
    count = 8000
    law, _ = fit(masked(count, noise), N, N, 100, tol=1e-6)
    # A pixel is seen in 0.6 of the rows, a pair in 0.36; five standard errors of such means.
    error = 5 * ((COV.diagonal().max() + noise**2) / (0.36 * count)) ** 0.5
    torch.testing.assert_close(law.mean, MEAN, rtol=0, atol=float(error))
    torch.testing.assert_close(law.cov, COV, rtol=0, atol=float(2 * error * (COV.diagonal().max() + noise**2) ** 0.5))
    # What zeros in the place of hidden pixels would give is far from it.
    wrong = torch.cat([part.y for part in masked(count, noise)])
    assert (wrong.mean(0) - MEAN).abs().max() > 2 * error


def test_a_law_of_low_rank_is_found_with_that_rank():
    axis = torch.nn.functional.normalize(torch.arange(1.0, N + 1).double(), dim=0)
    law = exact.Gaussian(MEAN.view(SHAPE), 0.5 * torch.outer(axis, axis) + 0.05 * torch.eye(N))
    found, _ = fit(masked(8000, 0.0, p=0.3, law=law), N, 1, 60, tol=1e-6)
    torch.testing.assert_close(found.cov, law.cov, rtol=0, atol=0.03)
    values = torch.linalg.eigvalsh(found.cov)
    torch.testing.assert_close(values[:-1], values[:1].expand(N - 1))


def test_one_map_for_all_rows_and_one_for_each_lead_to_the_same():
    A = GaussianBlur(SHAPE, 0.6)
    y = A(LAW.sample(200, Key(4))) + 0.1 * torch.randn(200, *SHAPE, generator=Key(5).torch(), dtype=torch.float64)
    one = Measured.of(y, A, torch.full((200,), 0.1))
    each = Measured(one.y, one.A.expand(200, -1, -1), one.noise)
    law = Law(MEAN, COV)
    pairs = [(started([one], N), started([each], N)), (step(law, [one], 0)[0], step(law, [each], 0)[0])]
    for a, b in pairs:
        torch.testing.assert_close(a.mean, b.mean)
        torch.testing.assert_close(a.cov, b.cov)


def test_numbers_that_are_never_seen_together_are_told_and_stay_uncorrelated():
    left = torch.zeros(100, *SHAPE, dtype=torch.bool)
    left[:50, ..., 0], left[50:, ..., 1:] = True, True
    A = Masked(SHAPE, left)
    rows = [Measured.of(A(LAW.sample(100, Key(0))), A, torch.zeros(100))]
    first = torch.tensor([True, False, False, True, False, False])
    assert np.array_equal(apart((part.shows for part in rows), N), first[:, None] != first)
    law, _ = fit(rows, N, N, 50)
    assert law.cov[first][:, ~first].abs().max() < 1e-9
    assert not apart((part.shows for part in masked(300, 0.0)), N).any()


def test_the_network_is_the_exact_denoiser_and_comes_back_from_its_files():
    x, sigma = torch.randn(5, *SHAPE, generator=Key(6).torch()), torch.logspace(-2, 1, 5)
    network = gaussian.Gaussian.Config(SHAPE, N).build()
    network.set(MEAN, COV)
    torch.testing.assert_close(network(x, sigma), LAW(x, sigma), rtol=1e-4, atol=1e-5)
    again = unpack(pack(network).__getitem__)
    torch.testing.assert_close(again(x, sigma), network(x, sigma))
    low = gaussian.Gaussian.Config(SHAPE, 2).build()
    low.set(MEAN, COV)
    limited = exact.Gaussian(MEAN.view(SHAPE), Law(MEAN, COV).limited(2).cov)
    torch.testing.assert_close(low(x, sigma), limited(x, sigma), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="rank is 7"):
        gaussian.Gaussian.Config(SHAPE, 7)


def test_pixels_that_all_rows_hide_keep_what_they_started_with():
    mask = torch.ones(1, *SHAPE, dtype=torch.bool)
    mask[..., 0, 0] = False
    A = Masked(SHAPE, mask)
    law, _ = fit([Measured.of(A(LAW.sample(100, Key(0))), A, torch.zeros(100))], N, N, 20)
    assert law.mean[0] == 0
    assert law.cov[0, 1:].abs().max() < 1e-9
