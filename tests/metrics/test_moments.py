"""Moments of parts add up to those of the whole, however it was cut; the Fréchet distance against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.metrics.features import TooFew
from pipeline.metrics.frechet import frechet, judged
from pipeline.metrics.moments import Moments, total


def normal(count: int, n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_moments(mean: torch.Tensor, root: torch.Tensor, count: int = 500, seed: int = 0) -> Moments:
    """Of a sample that has exactly this mean and this root of the covariance."""
    z = normal(count, len(mean), seed)
    z = (z - z.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(z.T))).T
    return Moments.of(z @ root.T + mean)


@given(st.lists(st.integers(0, 39), max_size=6), st.integers(0, 9))
def test_any_split_of_a_set_gives_the_same_moments(cuts, seed):
    x = normal(40, 3, seed) * 5 + 100
    x = x[torch.randperm(40, generator=torch.Generator().manual_seed(seed))]
    parts = [x[a:b] for a, b in zip([0, *sorted(cuts)], [*sorted(cuts), 40], strict=True)]
    found = total(Moments.of(part) for part in parts)
    assert found.count == 40
    torch.testing.assert_close(found.mean, x.mean(0))
    torch.testing.assert_close(found.covariance, torch.cov(x.T))


@given(st.integers(1, 38), st.integers(0, 9))
def test_a_part_taken_away_leaves_the_rest(cut, seed):
    x = normal(40, 3, seed) + 7
    rest = Moments.of(x) - Moments.of(x[:cut])
    assert rest.count == 40 - cut
    torch.testing.assert_close(rest.mean, x[cut:].mean(0))
    torch.testing.assert_close(rest.covariance, torch.cov(x[cut:].T), atol=1e-9, rtol=1e-7)


def test_frechet_of_gaussians_with_commuting_covariances():
    """|Δμ|² + Σ (√λ₁ − √λ₂)²."""
    a = with_moments(torch.ones(3).double(), torch.diag(torch.tensor([1.0, 2.0, 3.0])).double())
    b = with_moments(torch.zeros(3).double(), torch.diag(torch.tensor([2.0, 2.0, 1.0])).double(), seed=1)
    assert frechet(a, b) == pytest.approx(3 + 1 + 0 + 4)


def test_frechet_of_any_gaussians_is_what_scipy_says():
    from scipy.linalg import sqrtm

    ones = torch.zeros(4).double()
    a, b = with_moments(ones, normal(4, 4, 3)), with_moments(ones + 0.5, normal(4, 4, 4), seed=5)
    cross = np.trace(np.real(sqrtm(a.covariance.numpy() @ b.covariance.numpy())))
    assert frechet(a, b) == pytest.approx(1 + float(a.covariance.trace() + b.covariance.trace()) - 2 * cross)


def test_frechet_is_zero_on_itself_symmetric_and_invariant_under_rotation():
    a = normal(200, 6, 1)
    b = a[:100] * 1.5 + 0.3
    q = torch.linalg.qr(normal(6, 6, 2)).Q
    p, r = Moments.of(a), Moments.of(b)
    assert frechet(p, p) == pytest.approx(0, abs=1e-9)
    assert frechet(p, r) == pytest.approx(frechet(r, p))
    assert frechet(Moments.of(a @ q), Moments.of(b @ q)) == pytest.approx(frechet(p, r))


def test_groups_change_the_interval_and_not_the_distance():
    a, b = normal(100, 2), normal(90, 2, 1) + 1
    whole = frechet(Moments.of(a), Moments.of(b))
    for groups in (2, 10, 30):
        found = judged([Moments.of(x) for x in a.chunk(groups)], [Moments.of(x) for x in b.chunk(groups)])
        assert found.value == pytest.approx(whole)
        assert found.low is not None
        assert found.low < whole < found.high
    alone = judged([Moments.of(a[:3])], [Moments.of(b[:3])])
    assert (alone.low, alone.high) == (None, None)


def test_one_image_has_no_covariance():
    one = Moments.of(torch.zeros(1, 3))
    with pytest.raises(TooFew, match="at least 2"):
        frechet(one, one)
