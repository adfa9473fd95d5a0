"""The order of a stream: every row once an epoch, whole blocks in each window, any position found at once."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.stream import Order


@settings(max_examples=15)
@given(st.integers(1, 200), st.integers(1, 20), st.integers(1, 5), st.integers(0, 3))
def test_each_epoch_of_the_order_has_every_row_once(n, block, window, epoch):
    rows = Order(n, block, window).rows(7, epoch * n, n)
    assert np.array_equal(np.sort(rows), np.arange(n))


@pytest.mark.slow
@settings(max_examples=15)
@given(st.integers(1, 200), st.integers(1, 20), st.integers(1, 4), st.integers(0, 500), st.integers(0, 300))
def test_to_seek_is_to_walk(n, block, window, start, count):
    order = Order(n, block, window)
    assert np.array_equal(order.rows(3, start, count), order.rows(3, 0, start + count)[start:])


@settings(max_examples=15)
@given(st.integers(1, 200), st.integers(1, 20), st.integers(1, 5))
def test_a_window_is_whole_blocks_and_the_partial_block_comes_last(n, block, window):
    order, rows = Order(n, block, window), Order(n, block, window).rows(0, 0, n)
    for w in range(-(-n // (block * window))):
        start, blocks = w * block * window, order.blocks(0, 0, w)
        assert set(rows[start : start + order.size(w)] // block) == set(blocks)
        assert len(blocks) <= window
    assert blocks[-1] == n // block or n % block == 0


def test_the_order_of_a_billion_rows_and_more_is_found_at_once():
    for n in (10**9, 2**61):
        order = Order(n)
        order.rows(0, 0, 1)
        began = time.process_time()
        rows = order.rows(0, 10**17 + 12_345, 64)
        assert time.process_time() - began < 0.5
        assert len(set(rows.tolist())) == 64
        assert 0 <= rows.min() < rows.max() < n


def test_epochs_and_seeds_have_orders_of_their_own_and_blocks_are_torn_apart():
    order, n = Order(100_000), 100_000
    one, next_epoch, seed = order.rows(0, 0, n), order.rows(0, n, n), order.rows(1, 0, n)
    assert set(order.blocks(0, 0, 0)) != set(order.blocks(0, 1, 0))
    for other in (next_epoch, seed):
        assert (one == other).mean() < 0.01
    assert (np.abs(np.diff(one)) == 1).mean() < 0.01
    size = order.size(0)
    assert abs(np.corrcoef(one[:size], np.arange(size))[0, 1]) < 4 / size**0.5  # four standard deviations


def test_no_two_windows_are_shuffled_alike():
    order = Order(300, 5, 20)
    inner = {tuple(order.within(0, epoch, w)(np.arange(100)).tolist()) for epoch in (0, 1) for w in (0, 1, 2)}
    assert len(inner) == 6
