"""What bicubic pixels, Fourier lines, light patterns, padded Hadamard rows and letters show, beside their laws."""

from __future__ import annotations

import hashlib
import json
import re

import numpy as np
import pytest
import torch
from cases_lines import ALTERNATING, CORRUPTIONS
from PIL import Image

from pipeline.config import from_json, to_json
from pipeline.data.records import Examples
from pipeline.data.shards import read_shard, write_shard
from pipeline.identity import fingerprint
from pipeline.keys import Key
from pipeline.physics.bicubic import Bicubic, keys_cubic, resampling
from pipeline.physics.corruption import Corruption, corrupt
from pipeline.physics.fourier import Fourier, FourierLines, hartley
from pipeline.physics.ghost import Buckets, Camera, Ghost, Rademacher, Speckle, measuring
from pipeline.physics.hadamard import Hadamard, HadamardRows
from pipeline.physics.spectral import CUTOFF


def images(n: int, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.rand(n, *shape, generator=Key(0).torch(), dtype=torch.float64) * 2 - 1


def names(n: int) -> list[str]:
    return [f"img-{i}" for i in range(n)]


def exactly(left: torch.Tensor, right: torch.Tensor, atol: float = 1e-12) -> None:
    torch.testing.assert_close(left, right, rtol=0, atol=atol)


# ---- Every corruption of this house ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_configurations_come_back_from_json_and_rows_from_a_shard(name, tmp_path):
    corruption, shape = CORRUPTIONS[name]
    again = from_json(Corruption, json.loads(json.dumps(to_json(corruption))))
    assert again == corruption
    assert fingerprint(again) == fingerprint(corruption)
    x0 = images(3, shape).float()
    y, rows = corrupt(corruption, x0, names(3), seed=0)
    assert corrupt(again, x0, names(3), 0)[0].equal(y)
    write_shard(tmp_path / "a.parquet", Examples.from_x(tuple(names(3)), y, np.full(3, -1), rows, uint8=False))
    back = read_shard(tmp_path / "a.parquet").operator
    assert sorted(back) == sorted(rows)
    assert corruption.at(back, shape)(x0).equal(corruption.at(rows, shape)(x0))


# ---- Bicubic -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_bicubic_is_pillows_up_to_the_border_and_with_mirror_that_of_a_mirrored_image(factor):
    x = images(1, (24, 36)).float()
    margin = 6 * factor

    def pillow(image: np.ndarray) -> torch.Tensor:
        H, W = image.shape
        small = Image.fromarray(image).resize((W // factor, H // factor), Image.Resampling.BICUBIC)
        return torch.from_numpy(np.array(small)).double()

    ours = Bicubic((24, 36), factor)(x.double())[0]
    exactly(ours, pillow(x[0].numpy()), atol=1e-6)
    mirrored = pillow(np.pad(x[0].numpy(), margin, mode="symmetric"))[6:-6, 6:-6]
    reflected = Bicubic((24, 36), factor, mirror=True)(x.double())[0]
    exactly(reflected, mirrored, atol=1e-6)
    exactly(reflected[2:-2, 2:-2], ours[2:-2, 2:-2])
    assert (reflected - ours).abs().max() > 0.01


def test_the_cubic_is_keys_kernel():
    """1 and 0 on the whole numbers, -1/16 at 3/2, sums to 1; a smooth slope keeps its places."""
    exactly(keys_cubic(torch.arange(-3.0, 4).double()), torch.tensor([0, 0, 0, 1.0, 0, 0, 0]).double())
    exactly(keys_cubic(torch.tensor([0.5, -1.5]).double()), torch.tensor([9 / 16, -1 / 16]).double())
    t = torch.linspace(0, 1, 17).double()
    exactly(sum(keys_cubic(t + n) for n in range(-3, 3)), torch.ones(17).double())
    D = resampling(32, 4, False)
    slope = D @ (torch.arange(32).double() + 0.5)
    exactly(slope[2:-2], 4 * (torch.arange(2, 6).double() + 0.5))


@pytest.mark.parametrize("mirror", [False, True])
def test_bicubic_keeps_brightness_and_states_its_singular_values(mirror):
    A = Bicubic((1, 12, 8), 4, mirror)
    exactly(A(torch.full((1, 1, 12, 8), -0.3).double()), torch.full((1, 1, 3, 2), -0.3).double())
    exactly(A.singular_values, torch.linalg.svdvals(A.dense()))


def test_gradients_pass_a_matrix_first_made_without_them():
    for A in (Bicubic((1, 10, 10), 5), Camera((1, 3, 7), 2, seed=11)):
        with torch.inference_mode():
            A(images(1, A.in_shape))
        x = images(1, A.in_shape).requires_grad_()
        A(x).sum().backward()
        assert x.grad is not None


# ---- Fourier -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [False, True])
def test_lines_project_to_the_zero_filled_reconstruction(columns):
    lines, axis = (0, 1, 3, 4, 5, 7), -1 if columns else -2
    shape = (2, 5, 8) if columns else (2, 8, 5)
    x = images(3, shape)
    spectrum = torch.fft.fft2(x)
    read = torch.zeros(8, dtype=torch.bool)
    read[list(lines)] = True
    zeroed = torch.where(read if columns else read[:, None], spectrum, 0)
    A = FourierLines(shape, (lines,), columns)
    exactly(A.project(x), torch.fft.ifft2(zeroed).real)
    exactly(A(x), hartley(x).index_select(axis, torch.tensor(lines)))


def test_hartleys_numbers_are_fouriers():
    """F x(k) = (y(k) + y(-k)) / 2 - i (y(k) - y(-k)) / 2."""
    x = images(1, (6, 5))
    y = hartley(x)
    opposite = y.flip(-1, -2).roll((1, 1), (-1, -2))
    spectrum = torch.complex((y + opposite) / 2, (opposite - y) / 2)
    exactly(torch.view_as_real(spectrum), torch.view_as_real(torch.fft.fft2(x, norm="ortho")))
    exactly(y.square().sum(), x.square().sum())


def test_the_centre_is_always_read_and_other_pairs_alike():
    n, c, shape = 1500, Fourier(4.0, centre=0.15), (1, 40, 3)
    _, rows = corrupt(c, torch.zeros(n, *shape), names(n), seed=0)
    seen = np.unpackbits(rows["lines"], axis=1, count=40).astype(bool)
    assert c.pairs(shape) == (4, 2)
    assert c.out_shape(shape) == (1, 9, 3)
    assert (seen.sum(1) == 9).all()
    assert (seen == np.roll(seen[:, ::-1], 1, axis=1)).all()
    assert seen[:, [38, 39, 0, 1, 2]].all()
    assert not seen[:, 20].any()
    p = 2 / 17
    assert np.abs(seen[:, 3:20].mean(0) - p).max() < 5 * (p * (1 - p) / n) ** 0.5


@pytest.mark.parametrize(("size", "acceleration", "count"), [(320, 4.0, 79), (320, 8.0, 39), (9, 3.0, 3), (8, 1.0, 8)])
def test_the_acceleration_is_kept(size, acceleration, count):
    for columns in (False, True):
        shape = (1, 2, size) if columns else (1, size, 2)
        c = Fourier(acceleration, centre=0.04, columns=columns)
        assert c.out_shape(shape)[2 if columns else 1] == count
        x0 = images(2, shape)
        y, rows = corrupt(c, x0, names(2), seed=0)
        if acceleration == 1:
            exactly(c.at(rows, shape).pinv(y), x0)


# ---- Ghost imaging -------------------------------------------------------------------------------------------------


def test_speckle_has_the_statistics_of_laser_light():
    """Mean 1 of every pattern, E[I²] = 2 - 1/K, and |γ|² - 1/K between pixels that lie r apart."""
    n, speckle = 6000, Speckle(2.0)
    I = speckle(n, 8, 8, Key(0))
    waves = speckle.aperture(8, 8)
    K = waves.sum()
    assert K == 13
    assert np.allclose(I.mean((1, 2)), 1)
    assert (I >= 0).all()
    gamma = np.fft.ifft2(waves) * 64 / K
    expected = np.abs(gamma) ** 2 - 1 / K
    moments = np.fft.ifft2(np.abs(np.fft.fft2(I - 1)) ** 2).real / 64
    error = moments.std(0) / n**0.5
    assert (np.abs(moments.mean(0) - expected) < 5 * error + 1e-9).all()
    assert expected[0, 0] == pytest.approx(1 - 1 / K)
    assert expected[0, 1] > 0.3 > expected[0, 4]


def test_rademacher_patterns_are_signs_whose_mean_square_is_the_identity():
    n = 4000
    P = Rademacher()(n, 2, 4, Key(1)).reshape(n, 8)
    assert set(np.unique(P)) == {-1, 1}
    assert np.abs(P.mean(0)).max() < 5 / n**0.5
    assert np.abs(P.T @ P / n - np.eye(8)).max() < 5 / n**0.5


def test_a_bucket_counts_light_and_twice_it_less_the_pattern_is_y():
    x = images(1, (1, 4, 6))
    P = torch.from_numpy(Speckle()(5, 4, 6, Key(2).fold("camera"))).flatten(1)
    counted = P @ ((x + 1) / 2).flatten()
    A = Camera((1, 4, 6), 5, Speckle(), seed=2, orthonormal=False)
    exactly(A(x)[0, 0], (2 * counted - P.sum(1)) / 24**0.5)


def test_orthonormal_patterns_are_those_of_gram_and_schmidt():
    """P Aᵀ is lower triangular with a positive diagonal: each row is a pattern less what those before it see."""
    for patterns in (Rademacher(), Speckle(1.5)):
        A = Camera((1, 5, 6), 9, patterns, seed=4)
        P = torch.from_numpy(patterns(9, 5, 6, Key(4).fold("camera"))).flatten(1)
        L = P @ A.dense().T
        exactly(L, L.tril(), atol=1e-9)
        assert (L.diagonal() > 0).all()
        exactly(L @ A.dense(), P, atol=1e-9)


def test_what_speckle_hardly_sees_is_left_out_and_singular_values_are_stated():
    A = Camera((1, 8, 8), 40, Speckle(3.0), orthonormal=False)
    stated = A.buckets.singular_values[0]
    exactly(stated, torch.linalg.svdvals(A.dense()), atol=1e-6)
    assert 5 < (stated > CUTOFF * stated[0]).sum() < 40
    assert stated[stated <= CUTOFF * stated[0]].max() < 1e-6 * stated[0]
    graded = np.diag([1, 2 * CUTOFF, CUTOFF / 2])[:, None]
    exactly(measuring(graded, False) * 3**0.5, torch.diag(torch.tensor([1, 2 * CUTOFF, 0], dtype=torch.float64)))
    exactly(measuring(graded[:2], True), torch.eye(3).double()[:2])
    with pytest.raises(ValueError, match="3 patterns see only 2 directions well"):
        measuring(graded, True)
    exactly(Camera((2, 3), 4).buckets.singular_values, torch.ones(1, 4).double())


def test_each_example_has_its_own_patterns_and_a_camera_one_set():
    shape = (1, 4, 4)
    y, rows = corrupt(Ghost(6), images(3, shape), names(3), seed=0)
    A = Ghost(6).at(rows, shape)
    each = A.dense()
    assert (each[0] - each[1]).abs().max() > 0.1
    exactly(A(images(3, shape)), y)
    exactly(each[1:2], Ghost(6).at({"patterns": rows["patterns"][1:2]}, shape).dense()[None])
    assert (Camera(shape, 6, seed=0).dense() - Camera(shape, 6, seed=1).dense()).abs().max() > 0.1


# ---- Hadamard rows of any number of pixels -------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 4, 15])
def test_padded_rows_have_the_stated_gram_matrix_and_singular_values(count):
    """15 pixels in 16: all of the singular values but one at most are 1, none is above."""
    picks = np.stack([Key(i).fold(count).numpy().permutation(16)[:count] for i in range(2)])
    A = HadamardRows((3, 5), ALTERNATING, torch.from_numpy(picks))
    exactly(A.gram, A.dense() @ A.dense().mT)
    exactly(A.singular_values, torch.linalg.svdvals(A.dense()))
    assert (A.singular_values <= 1 + 1e-12).all()
    assert ((A.singular_values - 1).abs() < 1e-12).sum(1).min() >= count - 1
    assert not A.orthonormal


def test_all_rows_of_a_padded_image_keep_its_length():
    A = HadamardRows((3, 5), ALTERNATING[:1], torch.arange(16)[None])
    exactly(A.dense().T @ A.dense(), torch.eye(15).double())


def test_the_draws_of_today_are_the_draws_of_tomorrow():
    """Data is stored under the fingerprint of its corruption; Hadamard's of before padding are as they were."""
    assert Fourier(2.0).draw((1, 32, 8), Key(0))["lines"].tobytes().hex() == "caa362a9"
    signs = Rademacher()(3, 8, 8, Key(0)).astype(np.int8).tobytes()
    assert hashlib.sha256(signs).hexdigest()[:16] == "3f7455752af3ee45"
    A = Hadamard(20).at({"patterns": np.array([[12345], [7]])}, (3, 8, 8))
    content = A.signs.numpy().astype(np.int8).tobytes() + A.picks.numpy().astype(np.int64).tobytes()
    assert hashlib.sha256(content).hexdigest()[:16] == "3ff3f20d22f01cca"
    assert A.orthonormal


# ---- Refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Bicubic((1, 8, 6), 4), "factor that divides the 8 x 6 image, got 4"),
        (lambda: Bicubic((1, 6, 8), 4), "factor that divides the 6 x 8 image, got 4"),
        (lambda: Bicubic((8,), 2), "Bicubic needs an image shape"),
        (lambda: FourierLines((1, 8, 8), ((0, 1),)), "with 8 - k beside k, got (0, 1)"),
        (lambda: FourierLines((1, 8, 8), ((1, 0, 7),)), "increasing lines from 0 to 7"),
        (lambda: FourierLines((1, 8, 8), ((0, 8),)), "increasing lines from 0 to 7"),
        (lambda: FourierLines((1, 8, 8), ((0,), (0, 4))), "as many of them for every example"),
        (lambda: FourierLines((1, 8, 8), ()), "one line or more"),
        (lambda: FourierLines((1, 8, 8), ((),)), "one line or more"),
        (lambda: Fourier(0.5), "acceleration >= 1"),
        (lambda: Fourier(float("inf")), "acceleration >= 1"),
        (lambda: Fourier(4.0, centre=1.5), "0 <= centre <= 1"),
        (lambda: Fourier(4.0, centre=0.5).out_shape((1, 32, 32)), "line 0 and 7 pairs, to fit into the 8 of 32 lines"),
        (lambda: Fourier(9.0).out_shape((1, 8, 8)), "to fit into the 0 of 8 lines"),
        (lambda: Fourier(2.0).at({"lines": np.array([[255]])}, (1, 8, 8)), "should be those of Fourier("),
        (lambda: Fourier(2.0).at({}, (1, 8, 8)), "need a column 'lines'"),
        (lambda: Camera((1, 2, 2), 5), "Camera.count must be from 1 to the 4 pixels"),
        (lambda: Ghost(0).out_shape((1, 2, 2)), "Ghost.count must be from 1 to the 4 pixels"),
        (lambda: Speckle(0.0), "Speckle.grain"),
        (lambda: Camera((1, 4, 4), 3, Speckle(9.0)).dense(), "see only 1 directions well"),
        (lambda: Buckets((1, 2, 2), torch.ones(1, 2, 3)), "matrix (B, count, 4), got (1, 2, 3)"),
        (lambda: HadamardRows((1, 1, 3), torch.ones(1, 3), torch.tensor([[0, 4]])), "distinct picks from 0 to 3"),
        (lambda: HadamardRows((1, 1, 3), torch.ones(1, 3), torch.tensor([[2, -1]])), "distinct picks"),
        (lambda: HadamardRows((1, 1, 3), torch.ones(1, 3), torch.tensor([[2, 2]])), "distinct picks"),
        (lambda: Hadamard(7).out_shape((1, 2, 3)), "from 1 to the 6 pixels"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_sentence(make, words):
    with pytest.raises(ValueError, match=re.escape(words)) as refusal:
        make()
    assert str(refusal.value).endswith(".")
