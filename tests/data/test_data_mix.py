"""Mixtures: every prefix keeps the proportions to within one row, and each set runs through its own epochs."""

from __future__ import annotations

import itertools
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.mix import Mixed, Pattern, whole
from pipeline.data.reader import InMemory
from pipeline.data.records import Examples

SIZES = (50, 7, 20)
WEIGHTS = (7, 1, 2)
WEIGHED = st.lists(st.integers(1, 25), min_size=1, max_size=8).map(tuple)


def rows(k: int, dtype=np.uint8) -> InMemory:
    """Set k, whose every pixel is k and whose label is the row."""
    images = np.full((SIZES[k], 1, 2, 2), k, dtype)
    return InMemory(Examples(tuple(f"{k}-{i}" for i in range(SIZES[k])), images, np.arange(SIZES[k])), ("label",))


def first(batches, count):
    return list(itertools.islice(batches, count))


@settings(max_examples=20)
@given(WEIGHED)
def test_no_prefix_is_a_whole_row_away_from_its_proportion(weights):
    pattern, total = Pattern(weights), sum(weights)
    counts = np.array([pattern.counts(t) for t in range(total + 1)])
    exact = np.arange(total + 1)[:, None] * np.array(weights)
    assert (np.abs(counts * total - exact) < total).all()
    assert counts[-1].tolist() == list(weights)


@settings(max_examples=20)
@given(WEIGHED, st.integers(0, 500), st.integers(0, 200))
def test_the_count_before_a_position_is_that_of_a_walk(weights, start, count):
    pattern = Pattern(weights)
    walked = Counter(pattern.sets(0, start + count).tolist())
    assert pattern.counts(start + count) == [walked[k] for k in range(len(weights))]
    assert np.array_equal(pattern.sets(start, count), pattern.sets(0, start + count)[start:])
    far = 10**15 * sum(weights) + start
    assert pattern.counts(far) == [n + 10**15 * w for n, w in zip(pattern.counts(start), weights)]


def test_each_set_has_its_share_of_a_batch_and_runs_through_epochs_of_its_own():
    mixed = Mixed((rows(0), rows(1), rows(2)), WEIGHTS)
    batches = first(mixed.batches(10, 0), 70)
    seen = [[], [], []]
    for batch in batches:
        sets = batch.images[:, 0, 0, 0]
        assert np.bincount(sets).tolist() == list(WEIGHTS)
        assert np.array_equal(batch.index, np.array(mixed.firsts)[sets] + batch.columns["label"])
        for k, row in zip(sets, batch.columns["label"].tolist()):
            seen[k].append(row)
    for size, order in zip(SIZES, seen):
        epochs = [tuple(order[at : at + size]) for at in range(0, len(order) - size + 1, size)]
        assert len(epochs) > 1
        assert all(sorted(epoch) == list(range(size)) for epoch in epochs)
        assert len(set(epochs)) == len(epochs)
    assert len(mixed) == sum(SIZES)


def test_two_sets_of_one_size_are_shuffled_each_by_itself():
    mixed = Mixed((rows(0), rows(0)), (1, 1))
    batch = next(mixed.batches(2 * SIZES[0], 0))
    one, other = (batch.columns["label"][batch.index // SIZES[0] == k] for k in (0, 1))
    assert sorted(one) == sorted(other)
    assert (one == other).sum() < 8


@pytest.mark.parametrize(("start", "world"), [(0, 2), (123, 1), (10**9 + 3, 5)])
def test_it_is_the_same_from_anywhere_and_for_any_number_of_workers(start, world):
    mixed = Mixed((rows(0), rows(1), rows(2)), WEIGHTS)
    single = first(mixed.spans(4, ((start + i, 1) for i in range(60))), 60)
    alone = first(mixed.batches(20, 4, start), 3)
    together = list(zip(*(first(mixed.batches(20, 4, start, rank, world), 3) for rank in range(world))))
    for k, one in enumerate(alone):
        assert np.array_equal(one.index, np.concatenate([share.index for share in together[k]]))
        assert np.array_equal(one.index, np.concatenate([row.index for row in single[20 * k : 20 * k + 20]]))
        assert np.array_equal(one.images, np.concatenate([row.images for row in single[20 * k : 20 * k + 20]]))


def test_sets_of_two_dtypes_are_read_as_x():
    bytes_, halves = rows(1), rows(2, np.float16)
    batch = next(Mixed((bytes_, halves), (1, 1)).batches(6, 0))
    assert batch.images.dtype == np.float32
    known = {0: 1 / 127.5 - 1, 1: 2.0}
    expected = [known[int(i >= SIZES[1])] for i in batch.index]
    assert torch.allclose(batch.x()[:, 0, 0, 0], torch.tensor(expected))


def test_shares_become_whole_numbers_as_they_are_written():
    assert whole((0.7, 0.2, 0.1)) == (7, 2, 1)
    assert whole((2, 4)) == (1, 2)
    assert whole((Fraction(1, 3), Fraction(2, 3))) == (1, 2)
    assert whole((1e-3, 0.999)) == (1, 999)
    assert whole((1e-5, 0.99999)) == (1, 99_999), "the longest pattern there may be"


def test_what_cannot_be_mixed_is_refused(refused):
    for shares in ((), (0.5, 0), (1, -1), (1, float("nan")), (1, float("inf"))):
        with refused("give every set of a mixture a positive one"):
            whole(shares)
    with refused("round them"):
        whole((0.123456789, 1))
    for weights in ((), (0, 1), (99_999, 2)):
        with refused("weights are"):
            Pattern(weights)
    with refused("2 sets and 1 weights"):
        Mixed((rows(0), rows(1)), (1,))
    other = InMemory(Examples(("a",), np.zeros((1, 3, 2, 2), np.uint8)))
    with refused("(1, 2, 2), (3, 2, 2)"):
        Mixed((rows(0), other), (1, 1))
    with refused("different columns"):
        Mixed((rows(0), InMemory(rows(1).examples)), (1, 1))
    with refused("weights are (0, 1)"):
        Mixed((rows(0), rows(1)), (0, 1))
