"""The order of reading is a pure function of (n, seed, position): epochs permute, seeking equals walking."""

from __future__ import annotations

import time
from itertools import islice

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.reader import batches, order

SEEDS = st.integers(-(2**63), 2**63 - 1)


@given(st.integers(1, 60), SEEDS, st.integers(0, 10**12))
def test_every_epoch_is_a_permutation(n: int, seed: int, epoch: int) -> None:
    assert sorted(order(n, seed, epoch * n, n)) == list(range(n))


@given(st.integers(1, 40), SEEDS, st.integers(0, 200), st.integers(0, 100), st.integers(0, 100))
def test_seeking_equals_walking(n: int, seed: int, start: int, first: int, then: int) -> None:
    stream = order(n, seed, 0, start + first + then)
    np.testing.assert_array_equal(order(n, seed, start, first), stream[start : start + first])
    np.testing.assert_array_equal(order(n, seed, start + first, then), stream[start + first :])


@settings(deadline=None)
@given(st.integers(1, 50), SEEDS, st.integers(0, 99), st.sampled_from([1, 2, 3, 4, 6, 12]), st.integers(1, 3))
def test_the_ranks_together_read_the_same_batch_whatever_their_number(
    n: int, seed: int, start: int, world: int, share: int
) -> None:
    batch = 12 * share
    ranks = [list(islice(batches(range(n), batch, seed, start, rank, world), 5)) for rank in range(world)]
    for k, parts in enumerate(zip(*ranks)):
        np.testing.assert_array_equal(np.concatenate(parts), order(n, seed, start + k * batch, batch))


def test_epochs_and_seeds_differ_and_the_order_is_known() -> None:
    epochs = order(20, 0, 0, 60).reshape(3, 20)
    assert len({tuple(epoch) for epoch in epochs} | {tuple(order(20, 1, 0, 20))}) == 4
    assert order(8, 0, 0, 16).tolist() == GOLDEN


# A change here changes what every resumed run reads next.
GOLDEN = [0, 3, 4, 7, 1, 6, 5, 2, 4, 0, 2, 3, 7, 6, 5, 1]


def test_each_index_is_equally_likely_at_each_place() -> None:
    n, epochs = 6, 4000
    places = order(n, 3, 0, n * epochs).reshape(epochs, n)
    counts = np.stack([np.bincount(places[:, place], minlength=n) for place in range(n)])
    chi2 = ((counts - epochs / n) ** 2 / (epochs / n)).sum()
    assert chi2 < 60  # 25 degrees of freedom: exceeded with probability 1e-4, and the seed is fixed


def test_seeking_far_costs_no_more_than_seeking_near() -> None:
    began = time.perf_counter()
    assert len(order(10_000, 0, 10**17 + 5_000, 10_000)) == 10_000
    assert time.perf_counter() - began < 0.5


def test_what_cannot_be_read_is_refused_at_once(refused) -> None:
    for part, make in {
        "no examples": lambda: batches([], 4, 0),
        "batch=10": lambda: batches(range(9), 10, 0, world=4),
        "batch=0": lambda: batches(range(9), 0, 0),
        "rank=2": lambda: batches(range(9), 4, 0, rank=2, world=2),
        "start=-1": lambda: batches(range(9), 4, 0, start=-1),
        "count=-2": lambda: order(9, 0, 0, -2),
    }.items():
        with refused(part):
            make()
