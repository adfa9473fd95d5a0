"""Numbers worked out by hand, and every draw under the key that is stated: what a small change of the code breaks."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.keys import Key
from pipeline.physics.bicubic import Bicubic
from pipeline.physics.blackbox import BlackBox, Gamma, Jpeg
from pipeline.physics.boxes import Boxes, FixedBox, KeepPatch, Subtitle
from pipeline.physics.conditions import ClassMap, Swap, Symmetric, TokenRemoval, worsen
from pipeline.physics.corruption import Clean, Noisy, Through, corrupt
from pipeline.physics.linear import Identity
from pipeline.physics.masks import PixelMask
from pipeline.physics.mixture import Mixture, Routed
from pipeline.physics.sensors import Measured, Poisson, Quantised
from pipeline.physics.views import Pool
from pipeline.physics.watermark import Watermark

IMAGE = (1, 4, 6)


def images(n: int, shape: tuple[int, ...] = IMAGE) -> torch.Tensor:
    return torch.rand(n, *shape, generator=Key(0).torch()) * 2 - 1


def names(n: int) -> list[str]:
    return [f"img-{i}" for i in range(n)]


def white(key: Key, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.from_numpy(key.numpy().standard_normal((1, *shape), dtype=np.float32))


# ---- Keys ----------------------------------------------------------------------------------------------------------


def test_operator_noise_and_sensor_have_keys_of_their_own_that_hold_the_id():
    x0, masks = images(3), PixelMask(0.5, noise=0.1)
    y, rows = corrupt(masks, x0, names(3), seed=5)
    measured = Measured(Clean(), Quantised(3, dither=True), noise=0.1)
    m, _ = corrupt(measured, x0, names(3), seed=5)
    filtered, _ = corrupt(BlackBox(Gamma(2.0), noise=0.1), x0, names(3), seed=5)
    for i, name in enumerate(names(3)):
        key = Key(5).fold("noise", name)
        assert (rows["mask"][i] == masks.draw(IMAGE, Key(5).fold("corrupt", name))["mask"]).all()
        eps, x = 0.1 * white(key, IMAGE), x0[i : i + 1]
        clean = masks.at({k: v[i : i + 1] for k, v in rows.items()}, IMAGE)(x)
        assert y[i : i + 1].equal(clean + eps)
        assert m[i : i + 1].equal(measured.by(x, key.fold("sensor")) + eps)
        assert filtered[i : i + 1].equal(Gamma(2.0)(x) + eps)


def test_each_part_of_a_mixture_draws_under_its_own_number():
    mixture = Mixture(((0.6, PixelMask(0.5)), (0.4, PixelMask(0.5))))
    _, rows = corrupt(mixture, images(40), names(40), seed=1)
    for i, name in enumerate(names(40)):
        key, k = Key(1).fold("corrupt", name), rows["component"][i, 0]
        assert k == (key.fold("component").numpy().random() >= 0.6)
        drawn = PixelMask(0.5).draw(IMAGE, key.fold("part", int(k)))["mask"]
        assert (rows[f"part{k}_mask"][i] == drawn).all()
        assert not rows[f"part{1 - k}_mask"][i].any()


@pytest.mark.parametrize("condition", [Symmetric(0.5, 9), Swap(0.5), TokenRemoval(0.5)])
def test_a_condition_draws_under_the_id_and_not_the_place(condition):
    values = [4] * 30 if isinstance(condition, Symmetric) else ["a b c d"] * 30
    pool = ("a b c d", "e", "f")
    told = worsen(condition, values, names(30), seed=7, pool=pool)
    expected = [condition(v, Key(7).fold("condition", i), pool) for v, i in zip(values, names(30))]
    assert told == expected
    assert len(set(told)) > 2, "other ids, other draws"
    assert len(set(worsen(condition, values, ["same"] * 30, 7, pool))) == 1


# ---- Watermarks ----------------------------------------------------------------------------------------------------


def test_opacity_below_nine_tenths_is_inverted_up_to_the_edges_and_in_clips():
    mark = Watermark(((0.899, 0.9),), (((-1.0, 1.0),),) * 2, top=3, left=4, dilation=0)
    clip = images(2, (2, 3, 4, 6))
    A = mark.at({}, (2, 3, 4, 6))
    y = mark.linear(mark.over(clip))
    torch.testing.assert_close(y, A(clip), rtol=0, atol=1e-6)
    restored = A.pinv(y)
    assert (restored[..., 3, 5] == 0).all()
    restored[..., 3, 5] = clip[..., 3, 5]
    torch.testing.assert_close(restored, clip, rtol=0, atol=1e-5)
    assert A.weights[0, 0, 0, 3, 4].item() == pytest.approx(0.101)
    for shape in ((2, 3, 3, 6), (2, 3, 4, 5)):
        with pytest.raises(ValueError, match="do not hold it"):
            mark.at({}, shape)


def test_what_is_over_an_image_is_a_weighted_mean_and_nothing_hidden_is_in_y():
    mark = Watermark(((0.25, 1.0),), (((0.5, 0.75),),), dilation=0)
    v = mark.over(torch.tensor([[[[-1.0, 0.2, 0.3]]]]))
    torch.testing.assert_close(v.flatten(), torch.tensor([-0.625, 0.75, 0.3]))
    torch.testing.assert_close(mark.linear(v).flatten(), torch.tensor([-0.75, 0.0, 0.3]))
    assert mark.at({}, (1, 1, 3))(torch.tensor([[[[1.0, float("nan"), 1.0]]]])).isfinite().all()


def test_a_logo_file_keeps_what_is_asked_of_it_and_has_a_largest_size(tmp_path):
    Image.new("LA", (128, 1), (51, 255)).save(tmp_path / "wide.png")
    mark = Watermark.read(tmp_path / "wide.png", top=1, left=2, dilation=3, noise=0.5)
    assert (mark.top, mark.left, mark.dilation, mark.noise) == (1, 2, 3, 0.5)
    assert [grid[0][0] for grid in mark.colour] == [-0.6] * 3
    assert mark.alpha == ((1.0,) * 128,)
    Image.new("LA", (129, 1)).save(tmp_path / "wider.png")
    with pytest.raises(ValueError, match=r"wider\.png should be a logo .* at most 128"):
        Watermark.read(tmp_path / "wider.png")


# ---- Sensors -------------------------------------------------------------------------------------------------------


def test_variances_and_levels_by_hand():
    y = torch.tensor([[-1.0, 0.0, 1.0]])
    assert Poisson(8.0).variance(y).tolist() == [[0.0, 0.25, 0.5]]
    assert Quantised(5).variance(y)[0, 0].item() == pytest.approx(0.25 / 12)
    halfway = Quantised(5, dither=True).variance(torch.tensor([[0.25, 0.5, 0.125]]))
    assert halfway.flatten().tolist() == pytest.approx([0.0625, 0.0, 0.25 * 0.1875])
    values = torch.tensor([[-1.0, -0.7, -0.6, 0.1, 0.6, 0.7, 1.4]])
    torch.testing.assert_close(Quantised(4)(values, Key(0)) * 3, torch.tensor([[-3.0, -3, -1, 1, 1, 3, 5]]))
    assert Quantised(2)(values, Key(0)).tolist() == [[-1.0, -1, -1, 1, 1, 1, 1]]
    counts = Key(1).numpy().poisson(4 * (values[:, :4].double().numpy() + 1))
    assert Poisson(8.0)(values[:, :4], Key(1)).tolist() == (torch.from_numpy(counts) / 4 - 1).tolist()
    m = Measured(Through(0.5 * Pool(IMAGE, 2)), Poisson(8.0), noise=0.5)
    assert (m.out_shape(IMAGE), m.noiseless) == ((1, 2, 3), False)
    assert m.variance(y, {}).tolist() == [[0.25, 0.5, 0.75]]


def test_dark_is_no_light_and_darker_is_refused():
    dark = torch.full((1, 4), -1.0005)
    assert Poisson(50.0)(dark, Key(0)).tolist() == [[-1.0] * 4]
    assert (Poisson(50.0).variance(dark) == 0).all()
    with pytest.raises(ValueError, match="at least -1"):
        Poisson(50.0)(torch.full((1, 4), -1.01), Key(0))


def test_each_number_is_measured_by_itself_and_after_a_filter():
    grey = torch.zeros(1, 1, 30, 30)
    for sensor in (Poisson(20.0), Quantised(4, dither=True)):
        error = sensor(grey, Key(0)) - sensor(grey, Key(1))
        assert 0.3 < (error.square().mean() / (2 * sensor.variance(grey)[0, 0, 0, 0])) < 3
        assert len(sensor(grey, Key(0)).unique()) > 1
    y, _ = corrupt(Measured(BlackBox(Gamma(2.0)), Quantised(5)), torch.full((1, *IMAGE), 0.5), ["a"], seed=0)
    assert (y == 0).all(), "0.75² of light is 0.125, and the level beside it 0"


# ---- Black boxes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quality", [1, 20, 95])
def test_jpeg_is_what_pillow_writes_at_that_quality_frame_by_frame(quality):
    u = Key(3).numpy().integers(0, 256, (2, 3, 16, 16), dtype=np.uint8)
    clip = (torch.from_numpy(u).float() / 127.5 - 1).movedim(0, 1)[None]
    out = (Jpeg(quality)(clip) + 1) * 127.5
    for t in range(2):
        file = io.BytesIO()
        Image.fromarray(u[t].transpose(1, 2, 0)).save(file, "JPEG", quality=quality)
        expected = torch.from_numpy(np.array(Image.open(file)).transpose(2, 0, 1)).float()
        torch.testing.assert_close(out[0, :, t], expected, rtol=0, atol=1e-3)


def test_jpeg_rounds_to_the_nearest_byte_and_keeps_white_white():
    level = torch.full((1, 1, 8, 8), 100.7 / 127.5 - 1)
    torch.testing.assert_close((Jpeg(95)(level) + 1) * 127.5, torch.full((1, 1, 8, 8), 101.0), rtol=0, atol=1e-3)
    assert (Jpeg(95)(torch.full((1, 1, 8, 8), 1.3)) == 1).all()
    assert (Jpeg(95)(torch.full((1, 1, 8, 8), -1.3)) == -1).all()
    for quality in (0, 96):
        with pytest.raises(ValueError, match="from 1 to 95"):
            Jpeg(quality)


def test_gamma_by_hand_and_only_gamma_one_has_a_map():
    dark = torch.tensor([[[[-1.5, -0.5]]]])
    torch.testing.assert_close(Gamma(3.0)(dark).flatten(), torch.tensor([-1.0, 2 / 64 - 1]))
    assert isinstance(BlackBox(Gamma(1.0)).at({}, IMAGE), Identity)
    with pytest.raises(ValueError, match="Gamma can only be simulated"):
        BlackBox(Gamma(2.0)).at({}, IMAGE)


# ---- Mixtures ------------------------------------------------------------------------------------------------------


def test_among_eleven_parts_the_second_is_not_the_eleventh():
    mixture = Mixture(tuple((1 / 11, PixelMask(0.3, noise=0.1 * i)) for i in range(11)))
    x0 = images(120)
    y, rows = corrupt(mixture, x0, names(120), seed=0)
    which = rows["component"][:, 0]
    assert set(which) == set(range(11))
    A = mixture.at(rows, IMAGE)
    for i in np.flatnonzero((which == 1) | (which == 10)):
        own = {"mask": rows[f"part{which[i]}_mask"][i : i + 1]}
        assert A(x0)[i].equal(PixelMask(0.3).at(own, IMAGE)(x0[i : i + 1])[0])
    assert mixture.variance(y, rows)[:, 0, 0, 0].tolist() == pytest.approx((0.1 * which) ** 2)


def test_a_part_of_many_variances_keeps_those_of_its_rows():
    inner = Mixture(((0.5, Noisy(noise=0.1)), (0.5, Noisy(noise=0.2))))
    mixture = Mixture(((0.5, inner), (0.5, Clean())))
    y, rows = corrupt(mixture, images(60), names(60), seed=0)
    assert mixture.variance(y, rows)[:, 0, 0, 0].tolist() == pytest.approx(rows["sigma"] ** 2)
    assert not mixture.noiseless
    assert Mixture(((0.5, PixelMask(0.1)), (0.5, Clean()))).noiseless


def test_routed_maps_invert_each_their_own_and_hold_each_place_once():
    A, B = Bicubic(IMAGE, 2), Pool(IMAGE, 2)
    routed = Routed((A, B), (torch.tensor([2, 0]), torch.tensor([1, 3])))
    y = images(4, A.out_shape)
    expected = torch.cat([M.pinv(y[i : i + 1]) for i, M in enumerate((A, B, A, B))])
    torch.testing.assert_close(routed.pinv(y), expected, rtol=0, atol=1e-6)
    assert not routed.orthonormal
    assert Routed((B, B), routed.groups).orthonormal
    for first, second in (([0, 1], [1, 2]), ([0, 2], [3]), ([0], [2])):
        with pytest.raises(ValueError, match="hold every place of a batch of two or more once"):
            Routed((A, B), (torch.tensor(first), torch.tensor(second)))
    for component in (-1, 2):
        with pytest.raises(ValueError, match="from 0 to 1"):
            Mixture(((0.5, Clean()), (0.5, Noisy(noise=1.0)))).at({"component": np.array([[component]])}, IMAGE)


# ---- Conditions ----------------------------------------------------------------------------------------------------


def test_transition_matrices_by_hand():
    assert Symmetric(0.3, 4).matrix() == pytest.approx(np.full((4, 4), 0.1) + 0.6 * np.eye(4))
    expected = np.array([[0.75, 0.25, 0.0], [0.0, 0.75, 0.25], [0.25, 0.0, 0.75]])
    assert ClassMap(0.25, (1, 2, 0)).matrix() == pytest.approx(expected)
    assert 2 not in worsen(Symmetric(1.0, 5), [2] * 200, names(200), 0), "a wrong label is never the true one"
    assert worsen(ClassMap(1.0, (1, 2, 0)), [0, 1, 2], names(3), 0) == [1, 2, 0]


def test_a_swapped_caption_is_any_other_of_the_pool_with_replacement():
    """Keyed by id alone it cannot be a permutation: the same caption may be told twice, each one alike."""
    n, pool = 3000, ("a", "b", "b", "c")
    told = worsen(Swap(1.0), ["a"] * n, names(n), 0, pool)
    assert [round(told.count(w) / n, 1) for w in "abc"] == [0.0, 0.7, 0.3]
    assert worsen(Swap(1.0), ["c"] * 50, names(50), 0, ["c"] * 9 + ["last"]) == ["last"] * 50
    half = np.array(worsen(Swap(0.5), ["a"] * n, names(n), 0, pool)) != "a"
    assert abs(half.mean() - 0.5) < 5 * 0.5 / n**0.5


def test_words_are_dropped_one_by_one():
    n = 2000
    told = worsen(TokenRemoval(0.3), ["one two"] * n, names(n), 0)
    shares = [told.count(t) / n for t in ("one two", "one", "two", "")]
    assert np.abs(np.array(shares) - (0.49, 0.21, 0.21, 0.09)).max() < 5 * 0.5 / n**0.5


# ---- Boxes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("box", "hidden"),
    [
        ((0, 1, 1, 3), [(0, 1), (0, 2), (0, 3)]),
        ((3, 2, 1, 1), [(3, 2)]),
        ((1, 5, 2, 1), [(1, 5), (2, 5)]),
        ((3, 0, 1, 6), [(3, j) for j in range(6)]),
        ((0, 0, 4, 1), [(i, 0) for i in range(4)]),
    ],
)
def test_a_fixed_box_may_be_one_pixel_high_or_wide_and_touch_any_edge(box, hidden):
    seen = FixedBox(*box).at({}, IMAGE)(torch.ones(1, *IMAGE))
    assert sorted(map(tuple, (seen[0, 0] == 0).nonzero().tolist())) == sorted(hidden)


@pytest.mark.parametrize("box", [(0, 0, 0, 3), (0, 0, 3, 0), (-1, 0, 2, 2), (3, 0, 2, 1), (0, 5, 1, 2), (0, 0, 4, 6)])
def test_a_fixed_box_of_nothing_of_everything_or_outside_is_refused(box):
    with pytest.raises(ValueError, match=re.escape("FixedBox needs a box inside the 4 x 6 image")):
        FixedBox(*box).at({}, IMAGE)


def test_boxes_are_drawn_one_by_one_and_touch_both_ends():
    shape, n = (1, 4, 8), 300
    rows = np.stack([Boxes(2, 0.25, 0.75).draw(shape, Key(i))["boxes"].reshape(2, 4) for i in range(n)])
    patches = np.stack([KeepPatch(0.25, 0.75).draw(shape, Key(i))["box"] for i in range(n)])
    assert max(abs(np.corrcoef(*ab)[0, 1]) for ab in (rows[:, :, 3].T, rows[:, 0, 2:].T, patches[:, 2:].T)) < 5 / n**0.5
    for boxes in (rows.reshape(-1, 4), patches):
        for axis, size in ((0, 4), (1, 8)):
            first, side = boxes[:, axis], boxes[:, axis + 2]
            assert (first == 0).any()
            assert (first + side == size).any()
            assert (first + side).max() == size
            assert {side.min(), side.max()} == {size // 4, 3 * size // 4}
            narrow = first[side == size // 4]
            assert abs(narrow.mean() - (size - size // 4) / 2) < 5 * size / (12 * len(narrow)) ** 0.5
    subtitles = np.stack([Subtitle(0.1, 0.6).draw((1, 20, 8), Key(i))["box"] for i in range(n)])
    assert (subtitles[:, 0] + subtitles[:, 2] == 20).all()
    assert subtitles[:, 2].min() == 2
    assert subtitles[:, 2].max() == 12
