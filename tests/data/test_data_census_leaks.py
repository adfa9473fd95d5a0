"""Leaks: the clean image behind a damaged one is recognised as often as the theory says, and by chance as measured."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_data_census_similar import smooth

from pipeline.data import leaks
from pipeline.data.leaks import Damage, copies
from pipeline.data.records import Examples
from pipeline.physics.corruption import Clean, Noisy, Through, corrupt
from pipeline.physics.masks import BoxMask, PixelMask
from pipeline.physics.views import Channel, Crop, Pool

SHAPE = (3, 16, 16)
CORRUPTIONS = [
    Noisy(noise=0.2),
    Noisy(noise=0.5),
    Through(Crop(SHAPE, 2, 3, 10, 9)),
    Through(Pool(SHAPE, 2), noise=0.2),
    Through(Channel(SHAPE, (1,)), noise=0.1),
    PixelMask(0.5, noise=0.1),
    BoxMask(0.2, 0.5),
]


def examples(images: np.ndarray, name: str = "x") -> Examples:
    return Examples(tuple(f"{name}{i}" for i in range(len(images))), images)


def damaged(corruption, rows: Examples, cut: bool = False) -> Examples:
    y, operator = corrupt(corruption, rows.x(), rows.ids, 3)
    return Examples.from_x(rows.ids, y, None, operator, cut)


@pytest.mark.parametrize("corruption", CORRUPTIONS, ids=str)
def test_copies_are_recognised_through_the_damage_and_others_are_not(corruption):
    images = smooth(300, 16)
    clean, shown = examples(images[:250]), examples(images[200:300], "y")
    found = copies(clean, damaged(corruption, shown), Damage(corruption, SHAPE))
    places = {int(name[1:]): int(other[1:]) for name, other in _ids(found)}
    looked = {int(name[1:]) for name in found.damaged}
    assert places == {i: 200 + i for i in looked if i < 50}
    assert found.recall >= 0.99
    assert found.chance <= 0.02
    assert found.certain


def test_where_nothing_leaked_nothing_is_found():
    images = smooth(300, 16)
    noise = Noisy(noise=0.3)
    found = copies(examples(images[:200]), damaged(noise, examples(images[200:], "y")), Damage(noise, SHAPE))
    assert len(found.pairs) == 0
    assert not found.certain


def test_one_in_a_thousand_copies_is_missed_by_theory():
    noise, images = Noisy(noise=0.5), smooth(60, 16)
    rows = np.tile(images, (50, 1, 1, 1))
    found = copies(examples(images), damaged(noise, examples(rows, "y")), Damage(noise, SHAPE))
    assert 0.995 <= len(found.pairs) / len(rows) < 1


def test_noise_that_hides_everything_is_said_to_tell_nothing():
    noise, images = Noisy(noise=20.0), smooth(300, 16)
    found = copies(examples(images[:200]), damaged(noise, examples(images[200:], "y")), Damage(noise, SHAPE))
    assert found.chance > 0.9
    assert not found.certain


def test_noise_cut_off_at_8_bits_is_allowed_for():
    noise, images = Noisy(noise=0.5), smooth(300, 16)
    found = copies(examples(images[:200]), damaged(noise, examples(images[150:], "y"), True), Damage(noise, SHAPE))
    assert {int(i[1:]): int(j[1:]) for i, j in _ids(found)} == {i: 150 + i for i in range(50)}


@pytest.mark.parametrize("sigma", [0.1, 1.0])
@pytest.mark.parametrize("at", [-1.0, -0.4, 0.9])
def test_the_mean_and_variance_of_what_is_cut_off(sigma, at):
    x = torch.full((1, 1, 1, 1), at)
    z = torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    cut = (at + sigma * z).clamp(-1, 1)
    mean, share = leaks._expected(x, sigma)
    assert float(mean) == pytest.approx(float(cut.mean()), abs=0.005 * sigma + 1e-4)
    assert float(share) * sigma**2 == pytest.approx(float(cut.var()), rel=0.02)


def test_what_cannot_be_compared_is_not():
    rows = examples(smooth(5, 16))
    assert copies(examples(smooth(5, 8)), rows, Damage(Noisy(noise=0.1), SHAPE)) is None
    assert copies(rows, rows, Damage(Through(Crop(SHAPE, 0, 0, 8, 8)), SHAPE)) is None


def test_plain_is_what_shows_whole_images_without_noise():
    assert Damage(Clean(), SHAPE).plain
    assert not Damage(Clean(), SHAPE, 0.1).plain
    assert not any(Damage(corruption, SHAPE).plain for corruption in CORRUPTIONS)


def _ids(found) -> list[tuple[str, str]]:
    return [(found.damaged[i], found.clean[j]) for i, j in found.pairs.tolist()]
