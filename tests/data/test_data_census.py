"""The census adds up: of a whole it is the sum of the censuses of its parts, to the last bit, in bounded space."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data import census
from pipeline.data.census import Census, Moments, Tally, look, total
from pipeline.data.records import Examples

counts = st.dictionaries(st.text(max_size=3), st.integers(1, 5), max_size=8)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(census, "KEPT", 4)


def rows(n: int, dtype: type = np.uint8, seed: int = 0, channels: int = 3) -> Examples:
    rng = np.random.default_rng(seed)
    shape = (n, channels, 6, 5)
    images = rng.integers(0, 256, shape).astype(np.uint8) if dtype == np.uint8 else rng.normal(0, 3, shape)
    label, caption = rng.integers(-1, 9, n), tuple("" if i % 3 else f"word {i}" for i in range(n))
    return Examples(tuple(f"{seed}-{i}" for i in range(n)), images.astype(dtype), label, {}, caption)


@pytest.mark.slow
@given(counts, counts, counts)
def test_tallies_are_a_commutative_monoid_however_many_values_there_are(a, b, c):
    x, y, z = (Tally.of(part) for part in (a, b, c))
    assert x + y == y + x
    assert (x + y) + z == x + (y + z)
    assert x + Tally() == x
    whole = {v: a.get(v, 0) + b.get(v, 0) + c.get(v, 0) for v in {*a, *b, *c}}
    assert x + y + z == Tally.of(whole)
    assert (x + y + z).total == sum(whole.values())
    assert len((x + y + z).counts) <= 4
    assert all(whole[value] == count for value, count in (x + y + z).counts.items())


@pytest.mark.slow
@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.sampled_from([np.uint8, np.float16]), st.randoms())
def test_the_census_of_parts_in_any_order_is_that_of_the_whole(sizes, dtype, random):
    whole = rows(sum(sizes), dtype)
    ends = np.cumsum([0, *sizes])
    parts = [look(whole.take(np.arange(i, j))) for i, j in pairwise(ends)]
    random.shuffle(parts)
    assert total(parts) == look(whole)
    assert total(parts).rows == len(whole)
    assert Census.read(json.loads(json.dumps(look(whole).json()))) == look(whole)
    assert Census() + look(whole) == look(whole) == look(whole) + Census()


@pytest.mark.parametrize("dtype", [np.uint8, np.float16])
def test_moments_are_those_of_the_pixels(dtype):
    examples = rows(50, dtype)
    x = examples.x().double().numpy()
    for c, name in enumerate(("red", "green", "blue")):
        found = look(examples).numbers(f"pixels, {name}")
        assert found.mean == pytest.approx(x[:, c].mean(), abs=1e-7)
        assert found.std == pytest.approx(x[:, c].std(), abs=1e-7)
        assert found.range == pytest.approx((x[:, c].min(), x[:, c].max()), abs=1e-7)


def test_moments_do_not_round_however_many_numbers_there_are():
    far = Moments.of(np.array([60000.0, 60001.0]), np.array([10**9, 10**9]))
    assert far.mean == 60000.5
    assert far.std == pytest.approx(0.5, abs=1e-12)
    assert math.isnan(Moments().mean)


def test_what_is_said_of_images_labels_and_captions():
    images = np.zeros((4, 1, 2, 3), np.uint8)
    images[1:3] = 7
    images[3, 0, 0] = 255
    label = np.array([2, -1, 2, 0])
    found = look(Examples(("a", "b", "c", "d"), images, label, {}, ("one", " ", "", "two")))
    assert found.tally("constant").total == 3
    assert found.tally("label").counts == {"2": 2, "0": 1}
    assert found.tally("captions").total == 2
    assert found.tally("size").counts == {"2x3": 4}
    assert found.tally("clipped").counts == {"values at an end of 8 bits": 12, "other values": 12}
    assert found.numbers("pixels, grey").range == pytest.approx((-1, 1))
