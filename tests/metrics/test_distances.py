"""Kernel and sliced distances: unbiasedness, explicit formulas, closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.keys import Key
from pipeline.metrics import kernel, sliced
from pipeline.metrics.features import TooFew


def normal(count: int, n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def groups_of(x: torch.Tensor, groups: int) -> torch.Tensor:
    return torch.arange(len(x)) % groups


def explicit(a: np.ndarray, b: np.ndarray) -> float:
    """Equation 3 of Gretton et al. (2012), pair by pair."""

    def k(x, y):
        return (float(x @ y) / len(x) + 1) ** 3

    m, n = len(a), len(b)
    aa = sum(k(a[i], a[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    bb = sum(k(b[i], b[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    return aa + bb - 2 * sum(k(x, y) for x in a for y in b) / (m * n)


def test_the_kernel_distance_is_the_formula_of_the_paper():
    a, b = normal(13, 4), normal(9, 4, 1) + 0.5
    assert kernel.mmd2(a, b) == pytest.approx(explicit(a.numpy(), b.numpy()))


def test_what_is_left_without_a_group_is_the_distance_of_the_others(monkeypatch):
    monkeypatch.setattr(kernel, "CHUNK", 5)
    a, b = normal(12, 3), normal(10, 3, 1) + 1
    seen = []
    monkeypatch.setattr(kernel, "estimate", lambda whole, without: seen.extend([whole, *without]))
    kernel.judged(a, b, groups_of(a, 4), groups_of(b, 4), 4)
    assert seen[0] == pytest.approx(kernel.mmd2(a, b))
    for g in range(4):
        assert seen[1][0][g] == pytest.approx(kernel.mmd2(a[groups_of(a, 4) != g], b))
        assert seen[2][0][g] == pytest.approx(kernel.mmd2(a, b[groups_of(b, 4) != g]))
    assert (seen[1][1], seen[2][1]) == ([3, 3, 3, 3], [3, 3, 2, 2])


def test_its_mean_is_zero_for_sets_of_one_law_and_the_truth_for_two():
    """In one dimension k = 1 + 3xy + 3x²y² + x³y³, so MMD² = 3 Δm₁² + 3 Δm₂² + Δm₃² of the laws' moments."""
    same = torch.tensor([kernel.mmd2(normal(20, 1, 2 * s), normal(30, 1, 2 * s + 1)) for s in range(600)])
    assert abs(float(same.mean())) < 4 * float(same.std()) / 600**0.5
    assert float(same.min()) < 0, "it is not unbiased if it is never negative"
    mean, std = 0.4, 0.7
    truth = 3 * mean**2 + 3 * (mean**2 + std**2 - 1) ** 2 + (mean**3 + 3 * mean * std**2) ** 2
    apart = torch.tensor([kernel.mmd2(normal(20, 1, s), normal(30, 1, 9999 - s) * std + mean) for s in range(600)])
    assert float(apart.mean()) == pytest.approx(truth, abs=4 * float(apart.std()) / 600**0.5)
    assert float(apart.std()) / 600**0.5 < 0.1 * truth


def test_subsets_have_the_same_mean_and_a_wider_interval():
    a, b = normal(300, 4), normal(300, 4, 1) + 0.3
    over_all = kernel.judged(a, b, groups_of(a, 20), groups_of(b, 20), 20)
    many = kernel.kid(a, b, 400, 50, Key(0), over_all)
    assert many.value == pytest.approx(over_all.value, rel=0.1)
    few = kernel.kid(a, b, 10, 50, Key(0), over_all)
    assert few.high - few.low > many.high - many.low > over_all.high - over_all.low
    assert kernel.kid(a, b, 1, 5000, Key(0), over_all).value == pytest.approx(over_all.value), (
        "no more rows than there are"
    )
    assert kernel.kid(a, b, 1, 50, Key(0), over_all).low is None, "one subset varies by nobody knows what"


def test_one_image_has_no_distance():
    with pytest.raises(TooFew, match="at least 2"):
        kernel.mmd2(normal(1, 2), normal(5, 2))
    with pytest.raises(TooFew, match="at least 2"):
        sliced.judged(
            normal(1, 2), normal(5, 2), torch.zeros(1).long(), torch.zeros(5).long(), 1, torch.eye(2).double()
        )


@pytest.mark.parametrize("copies", [1, 3])
def test_a_shift_is_as_long_as_its_projections(copies):
    """Whatever the law; a set in which every row is there three times is the same law."""
    x, v = normal(40, 5), torch.tensor([1.0, -2.0, 0.5, 0.0, 3.0]).double()
    theta = sliced.directions(5, 64, Key(3))
    want = ((theta @ v) ** 2).mean().sqrt()
    assert sliced.sliced(x.repeat(copies, 1) + v, x, theta) == pytest.approx(float(want))
    many = sliced.directions(5, 20_000, Key(0))
    assert sliced.sliced(x, x + v, many) == pytest.approx(float(v.norm() / 5**0.5), rel=0.02)


def test_one_dimension_of_unequal_sizes_is_the_integral_over_quantiles():
    a, b = normal(7, 1), normal(5, 1, 1) * 2
    t = (np.arange(35_000) + 0.5) / 35_000
    p, q = (np.sort(x.numpy()[:, 0])[np.floor(t * len(x)).astype(int)] for x in (a, b))
    assert sliced.sliced(a, b, torch.ones(1, 1).double()) == pytest.approx(np.sqrt(((p - q) ** 2).mean()))


def test_directions_are_of_length_one_in_every_direction_alike():
    theta = sliced.directions(3, 30_000, Key(1))
    torch.testing.assert_close(theta.norm(dim=1), torch.ones(30_000).double())
    torch.testing.assert_close(theta.T @ theta / 30_000, torch.eye(3).double() / 3, atol=0.01, rtol=0)


def test_sliced_without_a_group_is_the_distance_of_the_others(monkeypatch):
    a, b, theta = normal(12, 3), normal(10, 3, 1), sliced.directions(3, 8, Key(0))
    seen = []
    monkeypatch.setattr(sliced, "estimate", lambda whole, without, low: seen.extend([whole, *without]))
    sliced.judged(a, b, groups_of(a, 4), groups_of(b, 4), 4, theta)
    assert seen[0] == pytest.approx(sliced.sliced(a, b, theta))
    for g in range(4):
        assert seen[1][0][g] == pytest.approx(sliced.sliced(a[groups_of(a, 4) != g], b, theta))
        assert seen[2][0][g] == pytest.approx(sliced.sliced(a, b[groups_of(b, 4) != g], theta))
