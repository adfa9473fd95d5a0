"""Closed forms of blurs, luminance and Hadamard measurements, beside the laws that every operator keeps."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from pipeline.keys import Key
from pipeline.physics.blur import GaussianBlur, MotionBlur
from pipeline.physics.corruption import corrupt
from pipeline.physics.hadamard import Hadamard, HadamardRows, transform
from pipeline.physics.luminance import WEIGHTS, Luminance
from pipeline.physics.measurements import Measurements
from pipeline.physics.spectral import CUTOFF, Spectral

SHAPE = (1, 16, 16)
ROWS, COLUMNS = torch.meshgrid(torch.arange(16.0).double(), torch.arange(16.0).double(), indexing="ij")


def wave(down: int, across: int, phase: float = 0.3) -> torch.Tensor:
    angle = 2 * math.pi * (down * ROWS + across * COLUMNS) / 16
    return torch.cos(angle + phase)[None, None]


@pytest.mark.parametrize(("down", "across"), [(0, 0), (1, 0), (0, 3), (2, 5), (-3, 4)])
def test_a_gaussian_blur_scales_a_wave_by_the_gaussian_of_its_frequency(down, across):
    A = GaussianBlur(SHAPE, 1.5, 0.4, angle=30.0)
    turn, w = math.radians(30), 2 * math.pi / 16
    along = w * (across * math.cos(turn) + down * math.sin(turn))
    beside = w * (down * math.cos(turn) - across * math.sin(turn))
    want = math.exp(-((1.5 * along) ** 2 + (0.4 * beside) ** 2) / 2)
    torch.testing.assert_close(A(wave(down, across)), want * wave(down, across), rtol=0, atol=1e-12)


def test_two_gaussian_blurs_are_one_whose_variances_add():
    x = torch.randn(2, *SHAPE, dtype=torch.float64, generator=Key(0).torch())
    twice = GaussianBlur(SHAPE, 0.4)(GaussianBlur(SHAPE, 0.3)(x))
    torch.testing.assert_close(twice, GaussianBlur(SHAPE, 0.5)(x), rtol=0, atol=1e-12)


def test_motion_blur_is_the_mean_of_a_wave_along_the_line():
    """Against the mean of many shifted copies, taken from the wave's formula."""
    A = MotionBlur(SHAPE, 5.0)
    shifts = (torch.arange(20_000).double() + 0.5) / 20_000 * 5 - 2.5
    angle = 2 * math.pi * 2 * (COLUMNS[None] + shifts[:, None, None]) / 16
    want = torch.cos(angle + 0.3).mean(0)
    torch.testing.assert_close(A(wave(0, 2))[0, 0], want, rtol=0, atol=1e-7)


@pytest.mark.parametrize("A", [GaussianBlur(SHAPE, 3.0), MotionBlur(SHAPE, 4.0), MotionBlur(SHAPE, 7.3, angle=50.0)])
def test_a_blur_keeps_brightness_and_its_inverse_divides_by_nothing_small(A):
    ones = torch.full((1, *SHAPE), 0.37, dtype=torch.float64)
    torch.testing.assert_close(A(ones), ones, rtol=0, atol=1e-12)
    y = torch.randn(1, *SHAPE, dtype=torch.float64, generator=Key(1).torch())
    assert A.pinv(y).norm() <= y.norm() / CUTOFF
    assert (A.seen == 0).any(), "a case in which something is not seen"


@dataclass(frozen=True, eq=False)
class Table(Spectral):
    """The transfer function of a table."""

    shape: tuple[int, ...]
    h: torch.Tensor

    def transfer(self, down, across):
        return self.h


def test_what_is_seen_ends_at_the_cutoff_and_its_inverse_is_exact_on_both_sides():
    least = CUTOFF * 2
    A = Table((1, 1, 4), torch.tensor([[-2.0, least * (1 + 1e-9), 1.0, least * (1 + 1e-9)]], dtype=torch.float64))
    B = Table((1, 1, 4), torch.tensor([[-2.0, least, 1.0, least]], dtype=torch.float64))
    assert (A.seen != 0).all()
    assert B.seen.tolist() == [[-2, 0, 1, 0]], "a negative one is as large as a positive one"
    x = torch.randn(1, 1, 1, 4, dtype=torch.float64, generator=Key(6).torch())
    torch.testing.assert_close(A.pinv(A(x)), x, rtol=0, atol=1e-10)
    torch.testing.assert_close(B.pinv(B(x)), B.project(x), rtol=0, atol=1e-12)


def test_where_a_transfer_function_tells_pi_from_minus_pi_the_mean_of_both_counts():
    down, across = (2 * math.pi * torch.fft.fftfreq(n, dtype=torch.float64) for n in (4, 6))
    h = 2 + torch.sin(down[:, None] / 2) * torch.sin(across[None])
    A = Table((1, 4, 6), h)
    torch.testing.assert_close(A.seen[2], torch.full((6,), 2.0).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(A.seen[1], h[1], rtol=0, atol=1e-12)


class Two(Measurements):
    """Two numbers of two pixels, with singular values 1 and `small`."""

    def __init__(self, small: float):
        self.shape, self.A = (1, 1, 2), torch.tensor([[1.0, 0.0], [0.0, small]], dtype=torch.float64)

    count = 2

    @property
    def gram(self):
        return (self.A @ self.A.T)[None]

    def __call__(self, x):
        return x.flatten(-2) @ self.A.T

    def adjoint(self, y):
        return (y @ self.A).reshape(len(y), 1, 1, 2)


def test_singular_values_below_a_millionth_of_the_largest_count_as_none():
    y = torch.tensor([[[1.0, 1e-6]]], dtype=torch.float64)
    torch.testing.assert_close(Two(1.1e-6).pinv(y).flatten(), torch.tensor([1.0, 1 / 1.1]).double(), rtol=1e-6, atol=0)
    assert Two(0.9e-6).pinv(y).flatten().tolist() == [1, 0]


def test_luminance_of_grey_is_grey_and_its_noise_has_the_stated_variance():
    shape = (3, 8, 8)
    A = Luminance(shape)
    grey = torch.full((1, *shape), -0.4, dtype=torch.float64)
    torch.testing.assert_close(A(grey), grey[:, :1], rtol=0, atol=1e-12)
    z = torch.randn(2000, *shape, dtype=torch.float64, generator=Key(2).torch())
    assert float(A(z).var()) == pytest.approx(sum(w * w for w in WEIGHTS), rel=0.02)
    assert sum(w * w for w in WEIGHTS) == pytest.approx(0.447, abs=5e-4)


@pytest.mark.parametrize("n", [1, 2, 8, 64])
def test_the_fast_transform_is_sylvesters_matrix(n):
    H = torch.ones(1, 1, dtype=torch.float64)
    while len(H) < n:
        H = torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64), H)
    ours = transform(torch.eye(n, dtype=torch.float64))
    assert torch.equal(ours, ours.T)
    assert torch.equal(ours @ ours, n * torch.eye(n, dtype=torch.float64))
    assert sorted(map(tuple, ours.tolist())) == sorted(map(tuple, H.tolist()))


def test_all_hadamard_rows_lose_nothing_and_few_keep_their_share_of_energy():
    x = torch.randn(400, 1, 8, 8, dtype=torch.float64, generator=Key(3).torch())
    ids = [str(i) for i in range(400)]
    everything, rows = corrupt(Hadamard(64), x, ids, seed=1)
    torch.testing.assert_close(Hadamard(64).at(rows, (1, 8, 8)).pinv(everything), x, rtol=0, atol=1e-10)
    some, _ = corrupt(Hadamard(16), x, ids, seed=1)
    assert float((some**2).sum() / (x**2).sum()) == pytest.approx(0.25, rel=0.05)


def test_hadamard_rows_differ_by_example_and_not_by_company():
    x = torch.randn(6, 1, 8, 8, generator=Key(4).torch())
    ids = list("abcdef")
    together, rows = corrupt(Hadamard(8), x, ids, seed=2)
    alone, row = corrupt(Hadamard(8), x[3:4], ids[3:4], seed=2)
    assert torch.equal(alone, together[3:4])
    assert row["patterns"] == rows["patterns"][3:4]
    A = Hadamard(8).at(rows, (1, 8, 8))
    assert isinstance(A, HadamardRows)
    assert len(np.unique(A.picks.numpy(), axis=0)) == 6
    assert all(len(set(picks)) == 8 for picks in A.picks.tolist())


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: GaussianBlur((8,), 1.0),
        lambda: GaussianBlur(SHAPE, -1.0),
        lambda: GaussianBlur(SHAPE, math.inf),
        lambda: GaussianBlur(SHAPE, 1.0, -1.0),
        lambda: GaussianBlur(SHAPE, 1.0, angle=math.nan),
        lambda: MotionBlur(SHAPE, 1.0, angle=math.inf),
        lambda: MotionBlur(SHAPE, math.nan),
        lambda: Luminance((1, 8, 8)),
        lambda: Hadamard(4).out_shape((48,)),
        lambda: Hadamard(65).out_shape((1, 8, 8)),
        lambda: Hadamard(0).out_shape((1, 8, 8)),
        lambda: HadamardRows((1, 2, 2), torch.ones(1, 3), torch.zeros(1, 1)),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_sentence(wrong):
    with pytest.raises(ValueError, match=r"\w"):
        wrong()
