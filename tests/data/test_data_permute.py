"""Keyed permutations: bijections of any range, undone by their inverse, and as even as chance over the keys."""

from __future__ import annotations

import math
import time
from collections import Counter
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.permute import MOST, Permutation
from pipeline.keys import Key


def table(n: int, draws: int) -> np.ndarray:
    """One permutation of [0, n) a key: (draws, n)."""
    return np.stack([Permutation(n, Key(0).fold("law", k))(np.arange(n)) for k in range(draws)])


def excess(counts: np.ndarray, expected: float) -> float:
    """Pearson's χ² minus its mean, in standard deviations, for cells that are free but for their sum."""
    free = counts.size - 1
    return float((((counts - expected) ** 2 / expected).sum() - free) / math.sqrt(2 * free))


@given(st.integers(1, 3000), st.integers(-9, 9))
def test_it_is_a_bijection_and_the_inverse_undoes_it(n, seed):
    permutation, i = Permutation(n, Key(seed)), np.arange(n)
    images = permutation(i)
    assert np.array_equal(np.sort(images), i)
    assert np.array_equal(permutation.inverse(images), i)


@pytest.mark.slow
@pytest.mark.parametrize("n", [10**9, 2**40 - 1, 2**61 + 1, MOST])
def test_it_is_one_of_ranges_too_large_to_list(n):
    permutation = Permutation(n, Key(3))
    i = np.concatenate([np.arange(50_000), n - 1 - np.arange(50_000)])
    images = permutation(i)
    assert images.dtype == np.int64
    assert 0 <= images.min() < images.max() < n
    assert len(np.unique(images)) == len(i)
    assert np.array_equal(permutation.inverse(images), i)
    assert excess(np.bincount((images * 1.0 * 64 / n).astype(int), minlength=64), len(i) / 64) < 4


@pytest.mark.parametrize("n", [7, 1024, 10**12])
def test_indices_are_mapped_alone_as_in_company_and_keep_their_shape(n):
    permutation, i = Permutation(n, Key(5)), np.arange(6).reshape(2, 3)
    assert permutation(i).shape == (2, 3)
    assert [permutation(np.array(j)).item() for j in i.ravel()] == permutation(i).ravel().tolist()
    assert permutation(np.empty(0, np.int64)).shape == (0,)


@pytest.mark.slow
@pytest.mark.parametrize("n", [3, 5])
def test_over_the_keys_every_permutation_of_a_few_things_is_equally_likely(n):
    seen = Counter(map(tuple, table(n, 2000).tolist()))
    counts = np.array([seen[each] for each in permutations(range(n))])
    assert abs(excess(counts, 2000 / len(counts))) < 4


@pytest.mark.slow
@pytest.mark.parametrize("n", [6, 10, 17])
def test_over_the_keys_two_places_take_every_two_things_equally_often(n):
    images = table(n, 2000)
    off = ~np.eye(n, dtype=bool)
    for i, j in ((0, 1), (0, n - 1), (n // 2, n - 2)):
        pairs = np.bincount(images[:, i] * n + images[:, j], minlength=n * n).reshape(n, n)
        assert not pairs[~off].any()
        assert abs(excess(pairs[off], 2000 / off.sum())) < 4


def test_neighbours_land_anywhere_and_few_things_stay():
    n = 100_000
    images = Permutation(n, Key(1))(np.arange(n))
    gaps = np.diff(images) % n
    assert abs(excess(np.bincount(gaps * 50 // n, minlength=50), (n - 1) / 50)) < 4
    assert (images == np.arange(n)).sum() < 8  # Poisson of mean 1


def test_other_keys_give_other_permutations():
    one, other = (Permutation(1000, Key(0).fold("order", epoch))(np.arange(1000)) for epoch in (0, 1))
    assert (one == other).sum() < 8
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.15


def test_the_order_of_a_version_is_kept_for_ever():
    assert Permutation(10, Key(0))(np.arange(10)).tolist() == [2, 1, 5, 3, 0, 9, 4, 8, 7, 6]
    assert Permutation(10**12, Key(7))(np.arange(3)).tolist() == [600887525287, 64193230389, 58168929007]


def test_an_index_costs_the_same_in_any_range():
    i = np.arange(100_000)
    permutation = Permutation(MOST, Key(0))
    began = time.perf_counter()
    permutation(i)
    assert time.perf_counter() - began < 2


def test_what_it_cannot_do_is_refused(refused):
    for n in (0, -1, MOST + 1):
        with refused(f"n is {n}"):
            Permutation(n, Key(0))
    for i in ([-1], [5], [0, 7]):
        with refused("not all in 0..4"):
            Permutation(5, Key(0))(np.array(i))
    with refused("not all in 0..4"):
        Permutation(5, Key(0)).inverse(np.array([5]))
