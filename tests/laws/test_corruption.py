"""An example is corrupted by (seed, id) alone, its noise is white of the stated std, its row rebuilds its operator."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from cases import CORRUPTIONS
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.keys import Key
from pipeline.physics.corruption import Clean, Corruption, Noisy, Through, corrupt
from pipeline.physics.linear import Identity
from pipeline.physics.masks import BoxMask, PixelMask
from pipeline.physics.sensors import Measured
from pipeline.physics.views import Pool

QUICK = settings(max_examples=30, deadline=None, derandomize=True, database=None)


def images(n: int, shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    return torch.rand(n, *shape, generator=Key(seed).torch()) * 2 - 1


def names(n: int) -> list[str]:
    return [f"img-{i}" for i in range(n)]


def content(y: torch.Tensor, rows: dict[str, np.ndarray], i: int) -> tuple[bytes, ...]:
    return (y[i].contiguous().numpy().tobytes(), *(rows[k][i].tobytes() for k in sorted(rows)))


# ---- Architecture 7.6: the same bytes wherever the work is done ----------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_an_example_has_the_same_bytes_alone_in_a_batch_and_in_any_order(name):
    corruption, shape = CORRUPTIONS[name]
    x0, ids = images(7, shape), names(7)
    y, rows = corrupt(corruption, x0, ids, seed=3)
    assert y.dtype == torch.float32
    assert y.shape == (7, *corruption.out_shape(shape))
    expected = [content(y, rows, i) for i in range(7)]
    alone = [corrupt(corruption, x0[i : i + 1], ids[i : i + 1], seed=3) for i in range(7)]
    assert [content(*one, 0) for one in alone] == expected
    order = [4, 0, 6, 2, 5, 1, 3]
    permuted = corrupt(corruption, x0[order], [ids[i] for i in order], seed=3)
    assert [content(*permuted, order.index(i)) for i in range(7)] == expected
    shards = [range(0, 3), range(3, 5), range(5, 7)]
    parts = [corrupt(corruption, x0[list(s)], [ids[i] for i in s], seed=3) for s in shards]
    assert [content(*part, j) for part, s in zip(parts, shards) for j in range(len(s))] == expected


@QUICK
@given(st.integers(1, 6), st.integers(1, 4), st.integers(1, 12), st.integers(2, 9))
def test_pooling_has_the_same_bytes_in_any_batch_and_layout(size, blocks, channels, batch):
    """Also of images that are strided or start off a memory boundary, where a fused sum might change its order."""
    shape = (channels, size * blocks, size)
    x0 = images(batch, shape)
    y, _ = corrupt(Through(Pool(shape, size)), x0, names(batch), seed=0)
    strided = x0.transpose(-1, -2).contiguous().transpose(-1, -2)
    shifted = torch.cat([torch.zeros(1), x0.flatten()])[1:].reshape(x0.shape)
    for other in (strided, shifted):
        assert corrupt(Through(Pool(shape, size)), other, names(batch), seed=0)[0].equal(y)
    assert Pool(shape, size)(x0).equal(y)


def test_threads_do_not_change_a_byte():
    corruption, shape = Through(Pool((3, 96, 96), 3), noise=0.1), (3, 96, 96)
    before = torch.get_num_threads()
    results = []
    for threads in (1, 4):
        torch.set_num_threads(threads)
        results.append(corrupt(corruption, images(4, shape), names(4), seed=0)[0])
    torch.set_num_threads(before)
    assert results[0].equal(results[1])


SCRIPT = """
import hashlib, torch
from pipeline.physics.corruption import corrupt
from pipeline.physics.masks import PixelMask
y, rows = corrupt(PixelMask(0.5, noise=0.1), torch.zeros(2, 3, 8, 8), ["a", "b"], seed=5)
print(hashlib.sha256(rows["mask"].tobytes() + y.numpy().tobytes()).hexdigest())
"""


@pytest.mark.slow
def test_a_fresh_process_draws_the_same_bytes():
    y, rows = corrupt(PixelMask(0.5, noise=0.1), torch.zeros(2, 3, 8, 8), ["a", "b"], seed=5)
    here = hashlib.sha256(rows["mask"].tobytes() + y.numpy().tobytes()).hexdigest()
    environment = {**os.environ, "PYTHONHASHSEED": "12345", "PYTHONPATH": os.pathsep.join(sys.path)}
    there = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True)
    assert there.stdout.strip() == here


def test_the_bytes_of_today_are_the_bytes_of_tomorrow():
    """Corrupted data is stored under the fingerprint of its recipe, so the draws may never change silently."""
    pixels = PixelMask(0.5).draw((1, 8, 8), Key(0).fold("corrupt", "img-0"))["mask"]
    box = BoxMask(0.25, 0.75).draw((3, 32, 32), Key(0).fold("corrupt", "img-0"))["box"]
    assert pixels.tobytes().hex() == "232d14c15f6cfbf6"
    assert box.tolist() == [18, 13, 13, 15]


@pytest.mark.parametrize(
    "name", [name for name, (c, _) in CORRUPTIONS.items() if c.noise > 0 or "mask" in type(c).__name__.lower()]
)
def test_other_seeds_and_other_ids_are_other_draws(name):
    corruption, shape = CORRUPTIONS[name]
    x0 = images(1, shape).expand(6, *shape)
    y, rows = corrupt(corruption, x0, names(6), seed=0)
    y2, rows2 = corrupt(corruption, x0, names(6), seed=1)
    draws = {content(y, rows, i) for i in range(6)} | {content(y2, rows2, i) for i in range(6)}
    assert len(draws) == 12
    if corruption.noise > 0:
        assert len({content(y, {}, i) for i in range(6)} | {content(y2, {}, i) for i in range(6)}) == 12


# ---- y = A x0 + noise · ε ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_rows_rebuild_the_operator_that_made_y(name):
    corruption, shape = CORRUPTIONS[name]
    x0 = images(5, shape)
    y, rows = corrupt(corruption, x0, names(5), seed=2)
    assert all(len(array) == 5 for array in rows.values())
    Ax = corruption.at(rows, shape)(x0)
    residual, variance = y - Ax, corruption.variance(Ax, rows)
    assert variance.shape == y.shape
    assert corruption.noiseless == (not (variance > 0).any())
    assert (residual[variance == 0].abs() < 1e-6).all()
    if not corruption.noiseless:
        assert 0.5 < (residual[variance > 0] / variance[variance > 0].sqrt()).std() < 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name for name, (c, _) in CORRUPTIONS.items() if c.noise > 0 and not isinstance(c, Measured)]
)
def test_the_noise_is_white_with_the_stated_std_and_its_mean_is_a_x0(name):
    """Over n ids: E[y | x0] = A x0, Cov[y | A x0] = noise² I; every entry within 5 standard errors."""
    corruption, shape = CORRUPTIONS[name]
    n = 1000
    x0 = images(1, shape).expand(n, *shape)
    y, rows = corrupt(corruption, x0, names(n), seed=4)
    eps = ((y - corruption.at(rows, shape)(x0)) / corruption.noise).flatten(1).double()
    assert eps.mean(0).abs().max() < 5 / n**0.5
    covariance = eps.T @ eps / n
    assert (covariance - torch.eye(len(covariance))).abs().max() < 5 * (2 / n) ** 0.5
    assert abs(eps.var().item() - 1) < 5 * (2 / eps.numel()) ** 0.5


def test_noise_and_operator_are_drawn_from_other_keys():
    """The noise of an id is the same under another mask, hence independent of it."""
    x0 = torch.zeros(2, 1, 8, 8)
    one, _ = corrupt(PixelMask(0.2, noise=1.0), x0, names(2), seed=0)
    two, _ = corrupt(Noisy(noise=0.5), x0, names(2), seed=0)
    assert one.equal(2 * two)


def test_dtype_is_kept_and_both_precisions_see_the_same_draws():
    x0 = images(3, (3, 4, 6))
    single, rows = corrupt(PixelMask(0.5, noise=0.1), x0, names(3), seed=0)
    double, rows2 = corrupt(PixelMask(0.5, noise=0.1), x0.double(), names(3), seed=0)
    assert (single.dtype, double.dtype) == (torch.float32, torch.float64)
    assert (rows["mask"] == rows2["mask"]).all()
    torch.testing.assert_close(single.double(), double, rtol=0, atol=1e-6)


def test_clean_changes_nothing():
    x0 = images(2, (1, 4, 4))
    y, rows = corrupt(Clean(), x0, names(2), seed=0)
    assert y.equal(x0)
    assert rows == {}


# ---- Masks ---------------------------------------------------------------------------------------------------------


def hidden(corruption: Corruption, shape: tuple[int, ...], n: int) -> torch.Tensor:
    """How often each pixel of n examples is hidden, as booleans (n, *shape)."""
    ones = torch.ones(n, *shape)
    return corrupt(corruption, ones, names(n), seed=0)[0] == 0


@pytest.mark.slow
@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("per_channel", [False, True])
def test_each_pixel_is_hidden_with_probability_p(p, per_channel):
    """Within 5 standard errors at every pixel, and pairwise independent: Cov of two pixels is 0 (p(1-p) if shared)."""
    n = 800
    h = hidden(PixelMask(p, per_channel), (2, 3, 3), n).double()
    error = 5 * (p * (1 - p) / n) ** 0.5
    assert (h.mean(0) - p).abs().max() <= error
    together = (h[:, 0] - p) * (h[:, 1] - p)
    assert (together.mean(0) - (0 if per_channel else p * (1 - p))).abs().max() <= error
    neighbours = (h[:, 0, :, :-1] - p) * (h[:, 0, :, 1:] - p)
    assert neighbours.mean(0).abs().max() <= error


@QUICK
@given(st.integers(1, 40), st.integers(1, 40), st.floats(0, 1), st.floats(0, 1), st.integers(0, 2**40))
def test_a_box_lies_in_the_image_and_hides_what_its_row_says(H, W, a, b, seed):
    corruption = BoxMask(min(a, b), max(a, b))
    row = corruption.draw((2, H, W), Key(seed))
    top, left, height, width = row["box"].tolist()
    assert 0 <= top <= top + height <= H
    assert 0 <= left <= left + width <= W
    assert corruption.low * H - 0.5 <= height <= corruption.high * H + 0.5
    assert corruption.low * W - 0.5 <= width <= corruption.high * W + 0.5
    seen = corruption.at({"box": np.asarray(row["box"])[None]}, (2, H, W))(torch.ones(1, 2, H, W))[0]
    assert (seen[:, top : top + height, left : left + width] == 0).all()
    assert (seen == 0).sum() == 2 * height * width


def test_boxes_have_uniform_sides_and_places():
    """E[side] = (low + high)/2 of the image, its variance (high - low)²/12 (+ rounding); places are uniform."""
    n, H, W = 2000, 64, 48
    boxes = np.stack([BoxMask(0.25, 0.75).draw((1, H, W), Key(0).fold(i))["box"] for i in range(n)])
    top, left, height, width = boxes.T / np.array([H, W, H, W])[:, None]
    for side in (height, width):
        assert abs(side.mean() - 0.5) < 5 * (1 / 48 / n) ** 0.5
        assert abs(side.var() * 48 - 1) < 0.1
    assert abs((top + height / 2).mean() - 0.5) < 5 * (1 / 12 / n) ** 0.5
    assert abs((left + width / 2).mean() - 0.5) < 5 * (1 / 12 / n) ** 0.5
    place = top / (1 - height)
    assert abs(place.var() * 12 - 1) < 0.1
    assert abs(np.corrcoef(height, width)[0, 1]) < 5 / n**0.5


def test_a_box_can_touch_both_ends():
    boxes = np.stack([BoxMask(0.5, 0.5).draw((4, 4), Key(0).fold(i))["box"] for i in range(200)])
    assert set(boxes[:, 0]) == {0, 1, 2}
    assert set(boxes[:, 1]) == {0, 1, 2}


@QUICK
@given(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), st.booleans(), st.integers(0, 2**40))
def test_packed_bits_rebuild_the_mask(C, H, W, per_channel, seed):
    corruption = PixelMask(0.5, per_channel)
    row = corruption.draw((C, H, W), Key(seed))
    mask_shape = (C, H, W) if per_channel else (1, H, W)
    assert row["mask"].nbytes == -(-int(np.prod(mask_shape)) // 8)
    seen = torch.from_numpy(Key(seed).numpy().random(mask_shape) >= 0.5)
    A = corruption.at({"mask": np.asarray(row["mask"])[None]}, (C, H, W))
    assert A(torch.ones(1, C, H, W))[0].equal(seen.expand(C, H, W).float())


# ---- Refusals ------------------------------------------------------------------------------------------------------

ONE = torch.zeros(1, 1, 4, 4)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: PixelMask(1.0), "PixelMask.p .* 0 <= p < 1, got 1.0"),
        (lambda: PixelMask(float("nan")), "PixelMask.p"),
        (lambda: PixelMask(0.5, noise=-0.1), "PixelMask.noise must be a finite number of at least 0, got -0.1"),
        (lambda: Noisy(noise=float("inf")), "Noisy.noise"),
        (lambda: Clean(noise=0.1), "use Noisy"),
        (lambda: BoxMask(0.5, 0.25), "0 <= low <= high <= 1"),
        (lambda: BoxMask(0.5, 1.25, noise=0.1), "0 <= low <= high <= 1"),
        (lambda: BoxMask(0.5, 0.5).draw((4,), Key(0)), "shape \\(..., H, W\\)"),
        (lambda: PixelMask(0.5).draw((4,), Key(0)), "two or more axes"),
        (lambda: PixelMask(0.5).at({}, (1, 4, 4)), "need a column 'mask'"),
        (lambda: PixelMask(0.5).at({"mask": np.zeros((2, 3), np.uint8)}, (1, 4, 4)), "shape \\(B, 2\\)"),
        (lambda: BoxMask(0.1, 0.2).at({"box": np.zeros(4, np.int32)}, (1, 4, 4)), "shape \\(B, 4\\)"),
        (lambda: Through(Identity((1, 4, 4))).at({}, (1, 8, 8)), "images of shape \\(1, 4, 4\\), got \\(1, 8, 8\\)"),
        (lambda: corrupt(Through(Identity((1, 8, 8))), ONE, ["a"], 0), "images of shape \\(1, 8, 8\\)"),
        (lambda: corrupt(Clean(), ONE, ["a", "b"], 0), "2 ids, 1 examples"),
        (lambda: corrupt(Clean(), ONE[:0], [], 0), "at least one"),
        (lambda: corrupt(Clean(), ONE.to(torch.uint8), ["a"], 0), "floating-point images"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_sentence(make, words):
    with pytest.raises(ValueError, match=words) as refusal:
        make()
    assert str(refusal.value).endswith(".")


def test_ids_that_are_not_strings_are_refused():
    with pytest.raises(TypeError, match="strings"):
        corrupt(Clean(), ONE, [1], 0)  # type: ignore[list-item]
