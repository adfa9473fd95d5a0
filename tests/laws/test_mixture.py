"""Mixtures, sensors, black boxes and conditions: stated ratios, means and variances, the same alone and in a batch."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from cases_masks import COLOUR, CORRUPTIONS, CROPS, IMAGE, SEVENTY

from pipeline.config import from_json, to_json
from pipeline.data.records import Examples
from pipeline.data.shards import read_shard, write_shard
from pipeline.identity import fingerprint
from pipeline.keys import Key
from pipeline.physics.blackbox import BlackBox, Gamma, Jpeg
from pipeline.physics.conditions import ClassMap, Condition, Swap, Symmetric, TokenRemoval, worsen
from pipeline.physics.corruption import Clean, Corruption, Noisy, Through, corrupt
from pipeline.physics.masks import PixelMask
from pipeline.physics.mixture import Mixture, Routed
from pipeline.physics.sensors import Measured, Poisson, Quantised
from pipeline.physics.views import Pool
from pipeline.physics.windows import RandomCrop


def images(n: int, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.rand(n, *shape, generator=Key(0).torch()) * 2 - 1


def names(n: int) -> list[str]:
    return [f"img-{i}" for i in range(n)]


# ---- Mixtures ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_components_come_in_the_stated_ratios_and_each_row_says_which():
    n = 3000
    _, rows = corrupt(SEVENTY, torch.zeros(n, 1, 2, 2), names(n), seed=0)
    which = rows["component"][:, 0]
    for k, (weight, part) in enumerate(SEVENTY.parts):
        assert abs((which == k).mean() - weight) < 5 * (weight * (1 - weight) / n) ** 0.5
        assert (rows["sigma"][which == k] == np.float32(part.noise)).all()
    assert set(rows) == {"component", "sigma", "part1_mask"}
    assert (rows["part1_mask"][which != 1] == 0).all()


def test_what_a_component_did_is_what_its_row_says():
    """Noise of 0.59 with the variance stated, exact masks, untouched clean ones, in one batch."""
    x0 = images(400, COLOUR)
    y, rows = corrupt(SEVENTY, x0, names(400), seed=1)
    A, which = SEVENTY.at(rows, COLOUR), torch.from_numpy(rows["component"][:, 0])
    residual = y - A(x0)
    assert abs(residual[which == 0].std() - 0.59) < 0.01
    assert (residual[which > 0] == 0).all()
    assert (y[which == 2] == x0[which == 2]).all()
    masked = y[which == 1]
    assert ((masked == 0) | (masked == x0[which == 1])).all()
    assert abs((masked == 0).float().mean() - 0.5) < 0.05
    expected = torch.from_numpy(rows["sigma"] ** 2).reshape(-1, 1, 1, 1).expand_as(y)
    torch.testing.assert_close(SEVENTY.variance(A(x0), rows), expected)


@pytest.mark.parametrize("mixture", [SEVENTY, CROPS])
def test_the_map_of_a_batch_is_the_map_of_each_row(mixture):
    x0 = images(12, IMAGE)
    _, rows = corrupt(mixture, x0, names(12), seed=0)
    A = mixture.at(rows, IMAGE)
    assert isinstance(A, Routed)
    y = A(x0)
    each = [mixture.at({k: v[i : i + 1] for k, v in rows.items()}, IMAGE) for i in range(12)]
    assert y.equal(torch.cat([B(x0[i : i + 1]) for i, B in enumerate(each)]))
    assert A.pinv(y).equal(torch.cat([B.pinv(y[i : i + 1]) for i, B in enumerate(each)]))


def test_a_component_draws_the_noise_that_it_draws_alone():
    y, rows = corrupt(SEVENTY, torch.zeros(30, *IMAGE), names(30), seed=0)
    alone, _ = corrupt(Noisy(noise=0.59), torch.zeros(30, *IMAGE), names(30), seed=0)
    noisy = torch.from_numpy(rows["component"][:, 0] == 0)
    assert y[noisy].equal(alone[noisy])
    assert (y[~noisy] == 0).all()


def test_a_mixture_in_a_mixture_keeps_its_sigma():
    inner = Mixture(((0.5, Noisy(noise=0.1)), (0.5, Noisy(noise=0.2))))
    _, rows = corrupt(Mixture(((0.5, inner), (0.5, Clean()))), torch.zeros(60, 1, 2, 2), names(60), seed=0)
    assert set(rows["sigma"].tolist()) == {0.0, np.float32(0.1).item(), np.float32(0.2).item()}


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_configuration_comes_back_from_json(name):
    corruption, shape = CORRUPTIONS[name]
    again = from_json(Corruption, json.loads(json.dumps(to_json(corruption))))
    assert again == corruption
    assert fingerprint(again) == fingerprint(corruption)
    x0 = images(3, shape)
    assert corrupt(again, x0, names(3), 0)[0].equal(corrupt(corruption, x0, names(3), 0)[0])


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_rows_live_in_a_shard_and_come_back_as_the_same_operator(name, tmp_path):
    corruption, shape = CORRUPTIONS[name]
    y, rows = corrupt(corruption, images(4, shape), names(4), seed=0)
    examples = Examples.from_x(tuple(names(4)), y, np.full(4, -1), rows, uint8=False)
    write_shard(tmp_path / "shard.parquet", examples)
    back = read_shard(tmp_path / "shard.parquet").operator
    assert sorted(back) == sorted(rows)
    x = images(4, shape)
    assert corruption.at(back, shape)(x).equal(corruption.at(rows, shape)(x))


# ---- Sensors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sensor", [Poisson(4.0), Poisson(250.0), Quantised(5, dither=True), Quantised(256, dither=True)], ids=str
)
def test_a_sensor_is_unbiased_with_the_stated_variance(sensor):
    """Within 5 standard errors at each of nine brightnesses, white to black."""
    n = 20000
    y = torch.linspace(-1, 0.99, 9, dtype=torch.float64).expand(n, 9)
    m = sensor(y, Key(0))
    variance = sensor.variance(y)[0]
    assert ((m.mean(0) - y[0]).abs() <= 5 * (variance / n).sqrt() + 1e-9).all()
    fourth = ((m - y) ** 4).mean(0)
    error = 5 * ((fourth - variance**2).clamp(min=0) / n).sqrt()
    assert (((m - y) ** 2).mean(0) - variance).abs().sub(error).max() <= 1e-9


def test_plain_rounding_has_the_mean_square_error_of_a_step():
    """Δ²/12 averaged over whole steps; never more than Δ/2; idempotent; its levels include -1 and 1."""
    sensor = Quantised(9)
    y = (torch.arange(80000, dtype=torch.float64)[None] + 0.5) / 40000 - 1
    error = sensor(y, Key(0)) - y
    assert abs((error**2).mean() / sensor.variance(y)[0, 0] - 1) < 1e-6
    assert error.abs().max() <= sensor.width / 2 + 1e-12
    levels = sensor(y, Key(0)).unique()
    torch.testing.assert_close(levels, torch.linspace(-1, 1, 9, dtype=torch.float64))
    torch.testing.assert_close(sensor(levels[None], Key(0))[0], levels)


def test_what_is_brighter_than_white_is_measured_as_it_is():
    """A Pool's A x0 goes up to its size: levels go on, and more photons come."""
    x0, pooled = torch.full((1, *IMAGE), 0.9), Through(Pool(IMAGE, 2))
    y, _ = corrupt(Measured(pooled, Quantised(9)), x0, ["a"], seed=0)
    assert (y - 1.8).abs().max() <= Quantised(9).width / 2
    y, _ = corrupt(Measured(pooled, Poisson(1e6)), x0, ["a"], seed=0)
    assert (y - 1.8).abs().max() <= 6 * (2 * 2.8 / 1e6) ** 0.5


@pytest.mark.slow
def test_photons_and_read_out_noise_add_their_variances():
    n, c = 4000, Measured(Clean(), Poisson(30.0), noise=0.2)
    x0 = torch.tensor([-1.0, 0.0, 0.5]).reshape(1, 1, 3).expand(n, 1, 1, 3)
    y, rows = corrupt(c, x0, names(n), seed=0)
    stated = c.variance(x0, rows)[0].flatten()
    torch.testing.assert_close(stated, torch.tensor([0.04, 0.04 + 2 / 30, 0.04 + 3 / 30]))
    assert ((y - x0).var(0).flatten() / stated - 1).abs().max() < 5 * (3 / n) ** 0.5


# ---- Black boxes ---------------------------------------------------------------------------------------------------


def test_jpeg_is_a_small_change_that_grows_as_quality_falls():
    smooth = torch.linspace(-1, 1, 16).reshape(1, 1, 1, 16).expand(2, 3, 16, 16) * torch.linspace(0, 1, 16)[:, None]
    errors = [(BlackBox(Jpeg(q)).filter(smooth) - smooth).square().mean().item() for q in (95, 50, 5)]
    assert 0 < errors[0] < errors[1] < errors[2]
    assert errors[0] < 1e-3
    y, rows = corrupt(BlackBox(Jpeg(50)), smooth, names(2), seed=0)
    assert rows == {}
    assert y.equal(Jpeg(50)(smooth))
    u = (y + 1) * 127.5
    torch.testing.assert_close(u, u.round(), rtol=0, atol=1e-3)
    clip = smooth[:, :, None].expand(2, 3, 4, 16, 16)
    assert Jpeg(50)(clip)[:, :, 2].equal(y)


def test_gamma_bends_brightness_and_leaves_black_and_white():
    x = torch.tensor([[[[-1.0, 0.0, 1.0]]]])
    torch.testing.assert_close(Gamma(2.0)(x).flatten(), torch.tensor([-1.0, -0.5, 1.0]))
    torch.testing.assert_close(Gamma(0.5)(Gamma(2.0)(x)), x)
    assert Gamma(1.0)(x - 0.7).equal(x - 0.7), "below black, too: it is linear"


def test_what_cannot_be_undone_refuses_its_adjoint_even_within_others():
    jpeg = BlackBox(Jpeg(50), noise=0.1)
    words = r"^Jpeg can only be simulated and has no adjoint: .*\.$"
    for corruption in (jpeg, Measured(BlackBox(Jpeg(50)), Quantised(9)), Mixture(((1.0, jpeg),))):
        y, rows = corrupt(corruption, images(2, IMAGE), names(2), seed=0)
        assert y.shape == (2, *IMAGE)
        with pytest.raises(ValueError, match=words):
            corruption.at(rows, IMAGE)


# ---- Conditions ----------------------------------------------------------------------------------------------------

WORDS = [f"a photo of thing {i % 5}" for i in range(40)]


@pytest.mark.slow
@pytest.mark.parametrize("error", [Symmetric(0.3, 5), Symmetric(1.0, 3), ClassMap(0.4, (1, 0, 2)), Symmetric(0.0, 4)])
def test_labels_are_told_as_the_matrix_says(error):
    T, n = error.matrix(), 3000
    assert np.allclose(T.sum(1), 1)
    for c in range(len(T)):
        told = np.bincount(worsen(error, [c] * n, names(n), seed=c), minlength=len(T)) / n
        assert (np.abs(told - T[c]) <= 5 * np.sqrt(T[c] * (1 - T[c]) / n)).all()
    assert worsen(error, [-1], ["a"], 0) == [-1]


def test_the_largest_number_that_may_be_drawn_gives_a_label_too():
    """The shares of a row of T may add up to a little less than 1."""

    class Last(Key):
        def numpy(self):
            return SimpleNamespace(random=lambda: np.nextafter(1, 0))

    for classes in range(2, 60):
        assert 0 <= Symmetric(0.3, classes)(0, Last(0)) < classes


@pytest.mark.parametrize("ratio", [0.0, 0.25, 1.0])
def test_swapped_captions_are_another_examples_and_come_by_ratio(ratio):
    n = 3000
    values = [WORDS[i % 40] for i in range(n)]
    told = worsen(Swap(ratio), values, names(n), seed=0, pool=WORDS)
    changed = np.array([a != b for a, b in zip(told, values)])
    assert abs(changed.mean() - ratio) <= 5 * (ratio * (1 - ratio) / n) ** 0.5
    assert set(told) <= set(WORDS)
    others = [told.index(w) for w in set(WORDS)] if ratio else []
    assert len(others) == (5 if ratio else 0)


@pytest.mark.parametrize("ratio", [0.0, 0.3, 1.0])
def test_words_are_removed_by_ratio_and_keep_their_order(ratio):
    n = 1500
    caption = "one two three four"
    told = [c.split() for c in worsen(TokenRemoval(ratio), [caption] * n, names(n), seed=0)]
    for word in caption.split():
        gone = np.mean([word not in words for words in told])
        assert abs(gone - ratio) <= 5 * (ratio * (1 - ratio) / n) ** 0.5
    assert all(words == [w for w in caption.split() if w in words] for words in told)


@pytest.mark.parametrize("condition", [Symmetric(0.5, 9), Swap(0.5), TokenRemoval(0.5)])
def test_a_condition_is_the_same_alone_in_a_batch_and_from_json(condition):
    values = list(range(9)) if isinstance(condition, Symmetric) else WORDS[:9]
    told = worsen(condition, values, names(9), 3, WORDS)
    again = from_json(Condition, json.loads(json.dumps(to_json(condition))))
    assert told == [worsen(again, [v], [i], 3, WORDS)[0] for v, i in zip(values[::-1], names(9)[::-1])][::-1]
    assert told != worsen(condition, values, names(9), 4, WORDS)


# ---- Refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Mixture(((0.7, Clean()), (0.2, Clean()))), "sum to 1, got [0.7, 0.2] with sum 0.9"),
        (lambda: Mixture(()), "sum to 1"),
        (lambda: Mixture(((1.5, Clean()), (-0.5, Clean()))), "weights above 0"),
        (lambda: Mixture(((1.0, Clean()),), noise=0.1), "its parts its own noise"),
        (lambda: Mixture(((0.5, Clean()), (0.5, RandomCrop(2, 2)))).out_shape(IMAGE), "parts that all give one shape"),
        (lambda: SEVENTY.at({"component": np.array([[3]])}, IMAGE), "from 0 to 2, got 3"),
        (lambda: SEVENTY.at({}, IMAGE), "need a column 'component'"),
        (lambda: Measured(Noisy(noise=0.1), Poisson(1.0)), "give the noise to Measured"),
        (lambda: Measured(SEVENTY, Poisson(1.0)), "give the noise to Measured"),
        (lambda: Measured(PixelMask(0.1), Poisson(1.0), noise=-1.0), "Measured.noise"),
        (lambda: Poisson(0.0), "Poisson.peak"),
        (lambda: Poisson(float("inf")), "Poisson.peak"),
        (lambda: Poisson(1.0)(torch.full((1, 2), -1.5), Key(0)), "at least -1, black"),
        (lambda: Poisson(1.0)(torch.full((1, 2), float("nan")), Key(0)), "at least -1, black"),
        (lambda: Quantised(1), "Quantised.steps"),
        (lambda: Jpeg(0), "Jpeg.quality"),
        (lambda: Jpeg()(torch.zeros(1, 2, 4, 4)), "1 or 3 channels"),
        (lambda: Jpeg()(torch.full((1, 1, 4, 4), float("nan"))), "finite images"),
        (lambda: Gamma(0.0), "Gamma.gamma"),
        (lambda: Symmetric(1.5, 3), "Symmetric.ratio is a share from 0 to 1, got 1.5"),
        (lambda: Swap(-0.1), "Swap.ratio is a share from 0 to 1, got -0.1"),
        (lambda: Symmetric(0.5, 1), "at least 2"),
        (lambda: Symmetric(0.5, 3)(3, Key(0)), "labels 0 to 2, got 3"),
        (lambda: Symmetric(0.5, 3)(-2, Key(0)), "labels 0 to 2, got -2"),
        (lambda: Routed((Pool(IMAGE, 2),), (torch.tensor([0]),)), "two or more"),
        (lambda: Mixture(((1.0, Clean()), (0.0, Noisy(noise=0.1)))), "weights above 0"),
        (lambda: ClassMap(0.5, (0, 2)), "from 0 to 1, got (0, 2)"),
        (lambda: Swap(1.0)("a", Key(0), ["a", "a"]), "pool of 2 that differs from 'a'"),
        (lambda: Swap(1.0)("a", Key(0)), "pool of 0"),
        (lambda: worsen(Swap(0.0), ["a"], [], 0), "0 ids and 1 values"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_sentence(make, words):
    with pytest.raises(ValueError, match=re.escape(words)) as refusal:
        make()
    assert str(refusal.value).endswith(".")
