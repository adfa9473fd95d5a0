"""Leaks: the clean image behind a damaged one is recognised as often as the theory says, and by chance as measured."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_data_census_similar import smooth

from pipeline.data import leaks
from pipeline.data.leaks import Copies, Damage, copies
from pipeline.data.records import Examples
from pipeline.keys import Key
from pipeline.physics.boxes import FixedBox
from pipeline.physics.corruption import Clean, Noisy, Through, corrupt
from pipeline.physics.masks import BoxMask, PixelMask
from pipeline.physics.views import Channel, Crop, Pool
from pipeline.physics.windows import RandomCrop

SHAPE = (3, 16, 16)
CORRUPTIONS = [
    Noisy(noise=0.2),
    Noisy(noise=0.5),
    Through(Crop(SHAPE, 2, 3, 10, 9)),
    Through(Pool(SHAPE, 2), noise=0.2),
    Through(Channel(SHAPE, (1,)), noise=0.1),
    PixelMask(0.5, noise=0.1),
    BoxMask(0.2, 0.5),
    RandomCrop(9, 10),
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


def test_an_image_that_is_there_twice_hides_no_leak():
    """It is no other image, for which what leaked could be taken by chance."""
    images, noise = smooth(120, 16), Noisy(noise=0.2)
    twice = np.concatenate([images[:60], images[:60]])
    found = copies(examples(twice), damaged(noise, examples(images[50:120], "y")), Damage(noise, SHAPE))
    assert len(found.pairs) == 10
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


@pytest.mark.parametrize("cut", [False, True])
def test_chance_is_how_often_images_that_did_not_leak_are_taken_for_others(cut):
    noise, images = Noisy(noise=1.0), smooth(600, 16)
    found = copies(examples(images[:300]), damaged(noise, examples(images[300:], "y"), cut), Damage(noise, SHAPE))
    assert 0.1 < found.chance < 0.5
    assert abs(len(found.pairs) / 300 - found.chance) < 5 * (found.chance * (1 - found.chance) * 2 / 300) ** 0.5
    assert not found.likely


@pytest.mark.slow
@pytest.mark.parametrize("noise", [Noisy(noise=2.0), PixelMask(0.5, noise=1.5)], ids=str)
def test_black_and_white_images_that_8_bits_cut_off_are_recognised_whatever_their_hidden_pixels_hold(noise):
    images = np.where(smooth(260, 16) >= 128, 255, 0).astype(np.uint8)
    rows = damaged(noise, examples(images[200:], "y"), True)
    if "mask" in rows.operator:
        hidden = ~noise.at(rows.operator, SHAPE).mask.expand(rows.images.shape).numpy()
        rows = Examples(
            rows.ids,
            np.where(hidden, 255, rows.images).astype(np.uint8),
            rows.label,
            rows.operator,
        )
    found = copies(examples(images), rows, Damage(noise, SHAPE))
    same = [int(i[1:]) + 200 == int(j[1:]) for i, j in _ids(found)]
    assert len(same) >= len(found.damaged) - 1
    assert all(same)
    assert found.recall >= 0.99


def test_rows_with_a_sigma_of_their_own_are_all_compared_and_the_clearest_come_first():
    images, sigma = smooth(100, 16), np.full(100, 0.5, np.float32)
    x = Examples.from_x([f"x{i}" for i in range(100)], examples(images).x())
    z = torch.randn(x.images.shape, generator=torch.Generator().manual_seed(0))
    z[::2] = 0  # as clear as it gets
    rows = Examples.from_x([f"y{i}" for i in range(100)], x.x() + 0.5 * z, None, {"sigma": sigma})
    found = copies(examples(images), rows, Damage(Noisy(noise=0.01), SHAPE))
    assert sorted(int(i[1:]) for i, _ in _ids(found)) == list(range(100))
    assert all(int(i[1:]) % 2 == 0 for i, _ in _ids(found)[:50])


@pytest.mark.parametrize("sigma", [0.1, 1.0])
@pytest.mark.parametrize("at", [-1.0, -0.4, 0.9])
def test_the_mean_and_variance_of_what_is_cut_off(sigma, at):
    x = torch.full((1, 1, 1, 1), at)
    z = torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    cut = (at + sigma * z).clamp(-1, 1)
    mean, share = leaks._expected(x, sigma)
    assert float(mean) == pytest.approx(float(cut.mean()), abs=0.005 * sigma + 1e-4)
    assert float(share) * sigma**2 == pytest.approx(float(cut.var()), rel=0.02)


@pytest.mark.parametrize("clipped", [True, False])
def test_through_maps_of_their_own_the_distance_of_a_copy_has_the_stated_mean(clipped):
    """T / k has mean 1 for true copies, whether 8 bits cut the noise off or half precision kept it."""
    n, sigma = 40, 1.0
    clean = examples(smooth(n, 16))
    mask = np.full((n, 16 * 16 // 8), 255, np.uint8)  # all seen
    z = torch.randn(n, *SHAPE, generator=torch.Generator().manual_seed(1))
    rows = Examples.from_x([f"y{i}" for i in range(n)], clean.x() + sigma * z, None, {"mask": mask}, uint8=clipped)
    damage, chosen = Damage(PixelMask(0.5, noise=sigma), SHAPE), np.arange(n)
    T, anew = leaks._with_own_maps(clean, rows, damage, np.full(n, sigma), chosen, 0)
    k = leaks._low(clean.x()).shape[1]
    for distances in (T, anew):
        assert float(np.diag(distances).mean() / k) == pytest.approx(1, abs=0.1)


def test_what_is_cut_off_wholly_keeps_a_hundredth_and_without_noise_nothing_is_cut_off():
    x = torch.full((2, 1, 4, 4), 3.0)
    assert leaks._expected(x, 0.1)[1].tolist() == pytest.approx([0.01] * 2), "else a distance is divided by nothing"
    mean, share = leaks._expected(x, 0.0)
    assert torch.equal(mean, x)
    assert share.tolist() == [1, 1]


def test_images_are_damaged_anew_as_they_were_kept():
    x = torch.zeros(1, 1, 64, 64)
    kept, cut = (leaks._anew(x, 0.8, clipped, Key(0)) for clipped in (False, True))
    assert float(kept.std()) == pytest.approx(0.8, rel=0.05)
    assert torch.equal(cut, kept.clamp(-1, 1))
    assert not torch.equal(cut, kept)


@pytest.mark.parametrize(
    ("pairs", "chance", "trials", "likely", "certain"),
    [(19, 0.01, 10**6, False, False), (20, 0.01, 10**6, True, True), (4, 0, 999, True, False), (5, 0, 999, True, True)],
)
def test_pairs_count_where_they_are_three_deviations_above_chance(pairs, chance, trials, likely, certain):
    """Of 1000 images 10 are taken for another where the chance is 1%: 10 + 3 √10 = 19.5."""
    ids = tuple(map(str, range(1000)))
    found = Copies(np.zeros((pairs, 2), np.int64), ids, ids, 1.0, chance, trials)
    assert (found.likely, found.certain) == (likely, certain)


@pytest.mark.parametrize("k", [1, 4, 64, 192])
def test_the_bound_is_the_stated_quantile(k):
    above = 1 - torch.special.gammainc(torch.tensor(k / 2), torch.tensor(leaks._quantile(k) / 2, dtype=torch.float64))
    assert 0.0008 <= float(above) <= 0.00102


def test_where_there_are_too_many_some_are_taken_every_one_alike():
    assert leaks._some(9, 9, 0).tolist() == list(range(9))
    taken = np.stack([leaks._some(10, 4, seed) for seed in range(500)])
    assert taken.shape == (500, 4)
    assert (np.diff(taken) > 0).all()
    assert np.abs(np.bincount(taken.ravel(), minlength=10) / 500 - 0.4).max() < 5 * (0.24 / 500) ** 0.5


def test_sigma_is_what_is_told_or_what_a_row_says_or_what_the_corruption_has():
    rows, noise = examples(smooth(3, 16)), Noisy(noise=0.25)
    said = Examples(rows.ids, rows.images, operator={"sigma": np.array([0.1, 0.2, 0.4], np.float32)})
    assert Damage(noise, SHAPE).sigmas(rows) == pytest.approx([0.25] * 3)
    assert Damage(noise, SHAPE).sigmas(said) == pytest.approx([0.1, 0.2, 0.4])
    assert Damage(noise, SHAPE, 0.3).sigmas(said).tolist() == [0.3] * 3


def test_what_cannot_be_compared_is_not():
    rows = examples(smooth(5, 16))
    assert copies(examples(smooth(5, 8)), rows, Damage(Noisy(noise=0.1), SHAPE)) is None
    assert copies(rows, rows, Damage(Through(Crop(SHAPE, 0, 0, 8, 8)), SHAPE)) is None
    assert copies(rows, rows.take([]), Damage(Noisy(noise=0.1), SHAPE)) is None
    assert copies(rows.take([]), rows, Damage(Noisy(noise=0.1), SHAPE)) is None


def test_plain_is_what_shows_whole_images_without_noise():
    assert Damage(Clean(), SHAPE).plain
    assert not Damage(Clean(), SHAPE, 0.1).plain
    assert not Damage(FixedBox(0, 0, 4, 4), SHAPE).plain
    assert not any(Damage(corruption, SHAPE).plain for corruption in CORRUPTIONS)


def _ids(found) -> list[tuple[str, str]]:
    return [(found.damaged[i], found.clean[j]) for i, j in found.pairs.tolist()]
