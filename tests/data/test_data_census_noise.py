"""Noise is estimated without bias where nothing else is there, near enough on photographs, and texture is not noise."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.data import noise
from pipeline.data.images import decode
from pipeline.data.noise import Noise

RNG = np.random.default_rng(0)
U, V = np.meshgrid(np.linspace(-1, 1, 32), np.linspace(-1, 1, 32))


def estimates(x: np.ndarray, seen: np.ndarray | None = None) -> tuple[float, float]:
    """(fine, coarse)."""
    fine = noise.estimate(noise.tally(noise.differences(x, seen)))
    return fine, noise.estimate(noise.tally(noise.differences(noise.halved(x))))


@pytest.mark.parametrize("sigma", [0.01, 0.2, 1.5])
@pytest.mark.parametrize("smooth", [np.zeros((32, 32)), 0.3 * U * V + 0.5 * U**2 - 0.2 * V], ids=["flat", "curved"])
def test_the_estimate_is_unbiased_on_smooth_images_at_both_sizes(sigma, smooth):
    x = smooth + sigma * RNG.standard_normal((400, 1, 32, 32))
    fine, coarse = estimates(x)
    assert fine == pytest.approx(sigma, rel=0.015)
    assert coarse == pytest.approx(sigma, rel=0.03)
    low, high = Noise(sigma, fine, coarse, fine / sigma).bounds
    assert low == pytest.approx(sigma, rel=0.02)
    assert high == fine
    assert Noise(sigma, fine, coarse, fine / sigma).complaint() == ""


def test_images_without_noise_have_none():
    assert estimates(np.zeros((10, 1, 32, 32)))[0] == 0
    assert estimates(np.tile(0.5 * U**2 + U * V, (10, 1, 1, 1)))[0] < 1e-6
    assert math.isnan(estimates(np.zeros((3, 1, 2, 2)))[0])


def test_what_is_hidden_does_not_count():
    seen = RNG.random((400, 1, 32, 32)) < 0.6
    x = np.where(seen, 0.7 + 0.2 * RNG.standard_normal(seen.shape), 0)
    assert estimates(x, seen)[0] == pytest.approx(0.2, rel=0.02)
    assert estimates(x)[0] > 0.35  # the holes, taken for noise


@pytest.mark.parametrize("size", [(4, 4), (5, 9), (8, 8)])
def test_images_of_any_size_have_as_many_differences_as_squares_fit_and_are_halved_without_their_last_odd_line(size):
    x = RNG.standard_normal((2, 3, *size))
    assert len(noise.differences(x)) == 6 * (size[0] - 3) * (size[1] - 3)
    h, w = size[0] // 2, size[1] // 2
    whole = x[..., : 2 * h, : 2 * w].reshape(2, 3, h, 2, w, 2)
    np.testing.assert_allclose(noise.halved(x), 2 * whole.mean((3, 5)), atol=1e-5)


def test_texture_that_grows_as_stated_is_taken_off_and_without_a_coarse_size_all_may_be_texture():
    sigma, texture = 0.3, 0.1
    fine, coarse = (math.sqrt(sigma**2 + growth * texture**2) for growth in (1, noise.TEXTURE))
    assert Noise(sigma, fine, coarse).bounds == pytest.approx((sigma, fine))
    assert Noise(sigma, fine, math.nan).bounds == (0.0, fine)
    assert Noise(0.0, fine, math.nan).complaint() == ""


def test_fewer_differences_than_needed_give_no_estimate():
    d = RNG.standard_normal(noise.FEWEST)
    assert noise.estimate(noise.tally(d)) > 0
    assert math.isnan(noise.estimate(noise.tally(d[1:])))


def test_tallies_of_parts_give_the_estimate_of_the_whole():
    d = RNG.standard_normal(30_000)
    whole, parts = noise.tally(d), noise.tally(d[:1000]) + noise.tally(d[1000:])
    assert parts == whole
    assert noise.estimate(whole) == pytest.approx(np.median(np.abs(d)) / 0.67449, rel=0.002)


def test_a_wrong_sigma_is_complained_of_and_a_right_one_is_not():
    fine, coarse = estimates(0.3 * RNG.standard_normal((200, 1, 32, 32)))
    assert "declared to have noise of σ = 0.6" in Noise(0.6, fine, coarse, fine / 0.6).complaint()
    assert "declared to have noise of σ = 0.2" in Noise(0.2, fine, coarse, fine / 0.2).complaint()
    assert "declared to be without noise" in Noise(0.0, fine, coarse).complaint()
    assert Noise(0.3, fine, coarse, fine / 0.3).complaint() == ""
    for share, wrong in ((0.8, True), (0.9, False), (1.2, False), (1.3, True)):
        found = share * 0.3
        assert bool(Noise(0.3, found, found, share).complaint()) is wrong
    assert Noise(0.3, 0.42, 0.78, 1.4).complaint() == "", "it may all be texture: σ is between 0.26 and 0.42"
    assert Noise(0.0, 0.02, 0.02).complaint() == ""


@pytest.fixture(scope="module")
def photographs() -> dict[str, np.ndarray]:
    home = os.environ.get("KINTSUGI_DATA")
    if not home:
        pytest.skip("KINTSUGI_DATA does not name the folder of real data")
    found = {}
    for name in ("cifar10", "fashion_mnist", "weizmann_actions"):
        column = pq.read_table(Path(home) / name / "train-0000.parquet", columns=["image"])["image"]
        mode = "L" if name == "fashion_mnist" else "RGB"
        images = [decode(column[i].as_py(), name, mode) for i in range(0, len(column), len(column) // 300)]
        found[name] = np.stack(images) / 127.5 - 1
    return found


@pytest.mark.parametrize(("sigma", "off"), [(0.0, 0.02), (0.1, 0.02), (0.2, 0.02), (0.5, 0.01)])
def test_on_photographs_texture_adds_little_and_no_set_is_accused_wrongly(photographs, sigma, off):
    for name, x in photographs.items():
        fine, coarse = estimates(x + sigma * RNG.standard_normal(x.shape))
        assert -0.01 * sigma <= fine - sigma <= off, name
        told = Noise(sigma, fine, coarse, fine / sigma if sigma else math.nan)
        assert told.bounds[0] <= 1.12 * sigma + 1e-9, name
        assert told.complaint() == "", name
        if sigma:
            assert Noise(0.0, fine, coarse).complaint(), name
            assert Noise(2 * sigma, fine, coarse, fine / sigma / 2).complaint(), name
            assert Noise(sigma / 2, fine, coarse, 2 * fine / sigma).complaint(), name
