"""Boxes, lines, windows and watermarks: drawn uniformly, hiding what their rows say; known logos are taken off."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from cases_masks import CLIP, COLOUR, IMAGE, LOGO
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.keys import Key
from pipeline.physics.boxes import Boxes, FixedBox, KeepPatch, Subtitle
from pipeline.physics.corruption import Clean, corrupt
from pipeline.physics.masks import BoxMask, LineMask
from pipeline.physics.watermark import Diagonal, Watermark
from pipeline.physics.windows import DroppedFrames, FrameRate, RandomCrop, Runs, ShortClip

QUICK = settings(max_examples=30, deadline=None, derandomize=True, database=None)


def names(n: int) -> list[str]:
    return [f"img-{i}" for i in range(n)]


def seen(corruption, shape, n: int) -> tuple[torch.Tensor, dict[str, np.ndarray]]:
    """Which pixels of n examples are seen, as booleans (n, *shape), and their rows."""
    y, rows = corrupt(corruption, torch.ones(n, *shape), names(n), seed=0)
    return y != 0, rows


def test_boxes_hide_the_union_of_the_boxes_of_their_row():
    m, rows = seen(Boxes(3, 0.1, 0.6), (2, 9, 11), 20)
    for mask, boxes in zip(m, rows["boxes"].reshape(20, 3, 4)):
        expected = torch.ones(2, 9, 11, dtype=torch.bool)
        for top, left, height, width in boxes.tolist():
            expected[:, top : top + height, left : left + width] = False
        assert mask.equal(expected)
    assert len({boxes.tobytes() for boxes in rows["boxes"].reshape(60, 4)}) > 40


def test_a_kept_patch_is_what_a_box_of_that_place_hides():
    m, rows = seen(KeepPatch(0.2, 0.6), (1, 8, 8), 50)
    hidden = BoxMask(0, 1).at(rows, (1, 8, 8))(torch.ones(50, 1, 8, 8)) == 0
    assert m.equal(hidden)
    assert m.flatten(1).any(1).all()
    assert seen(KeepPatch(0.01, 0.01), (1, 8, 8), 9)[0].flatten(1).sum(1).eq(1).all()


def test_a_fixed_box_hides_itself_in_every_example():
    m, rows = seen(FixedBox(1, 2, 2, 3), COLOUR, 4)
    assert rows == {}
    assert (~m).nonzero()[:, 2:].unique(dim=0).tolist() == [[i, j] for i in (1, 2) for j in (2, 3, 4)]
    assert (~m).sum() == 4 * 3 * 6


def test_subtitles_lie_at_the_bottom_centred_with_uniform_sides():
    n, H, W = 800, 50, 100
    m, rows = seen(Subtitle(0.1, 0.3, 0.4, 0.8), (1, H, W), n)
    top, left, height, width = rows["box"].T
    assert (top + height == H).all()
    assert (np.abs(2 * left + width - W) <= 1).all()
    assert abs(height.mean() / H - 0.2) < 5 * 0.2 / (12 * n) ** 0.5
    assert abs(width.mean() / W - 0.6) < 5 * 0.4 / (12 * n) ** 0.5
    assert ((~m).flatten(1).sum(1).numpy() == height * width).all()
    assert m[:, :, : int(0.7 * H)].all()


@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("p", [0.0, 0.4])
def test_whole_lines_are_hidden_with_probability_p(columns, p):
    n = 1000
    m = seen(LineMask(p, columns), (2, 5, 7), n)[0]
    lines = m[:, 0, 0] if columns else m[:, 0, :, 0]
    assert m.equal((lines[:, None, None] if columns else lines[:, None, :, None]).expand_as(m))
    assert ((~lines).double().mean(0) - p).abs().max() <= 5 * (p * (1 - p) / n) ** 0.5


def test_random_crops_are_the_windows_of_their_rows_at_uniform_places():
    n, x0 = 1000, torch.arange(30.0).reshape(1, 1, 5, 6)
    y, rows = corrupt(RandomCrop(3, 4), x0.expand(n, 1, 5, 6), names(n), seed=0)
    for window, (top, left) in zip(y, rows["corner"]):
        assert window.equal(x0[0, :, top : top + 3, left : left + 4])
    counts = np.unique(rows["corner"], axis=0, return_counts=True)[1]
    assert len(counts) == 9
    assert np.abs(counts / n - 1 / 9).max() < 5 * (8 / 81 / n) ** 0.5


@QUICK
@given(st.integers(0, 2), st.integers(1, 4), st.lists(st.integers(0, 3), min_size=1, max_size=5))
def test_runs_are_slices(axis, length, starts):
    shape = (7, 8, 9)
    x = torch.randn(len(starts), *shape)
    y = Runs(shape, axis, torch.tensor(starts), length)(x)
    assert y.equal(torch.stack([e.narrow(axis, start, length) for e, start in zip(x, starts)]))


def test_clips_keep_the_frames_that_their_rows_say():
    n, shape = 600, (1, 6, 1, 1)
    clip = torch.arange(6.0).reshape(1, *shape).expand(n, *shape)
    y, rows = corrupt(ShortClip(4), clip, names(n), seed=0)
    starts = rows["start"][:, 0]
    assert y.flatten(1).equal(torch.from_numpy(starts)[:, None] + torch.arange(4.0))
    assert np.abs(np.bincount(starts) / n - 1 / 3).max() < 5 * (2 / 9 / n) ** 0.5
    assert corrupt(ShortClip(2, start=3), clip[:1], ["a"], 0)[0].flatten().tolist() == [3, 4]
    assert corrupt(FrameRate(4), clip[:1], ["a"], 0)[0].flatten().tolist() == [0, 4]


def test_as_many_frames_are_dropped_as_stated_and_every_one_alike():
    n = 1000
    m, rows = seen(DroppedFrames(2), (2, 5, 2, 2), n)
    frames = m[:, 0, :, 0, 0]
    assert np.array_equal(frames, rows["frames"])
    assert m.equal(frames[:, None, :, None, None].expand_as(m))
    assert ((~frames).sum(1) == 2).all()
    assert ((~frames).double().mean(0) - 0.4).abs().max() < 5 * (0.24 / n) ** 0.5


# ---- Watermarks ----------------------------------------------------------------------------------------------------


def test_a_known_watermark_is_taken_off_wherever_it_is_not_opaque():
    x0 = torch.rand(2, *COLOUR) * 2 - 1
    v = LOGO.over(x0)
    assert torch.allclose(v[:, 0, 0, 2], 0.75 * x0[:, 0, 0, 2] + 0.25 * 0.5)
    A = LOGO.at({}, COLOUR)
    y = LOGO.linear(v)
    torch.testing.assert_close(y, A(x0), rtol=0, atol=1e-6)
    torch.testing.assert_close(y, corrupt(LOGO, x0, ["a", "b"], 0)[0], rtol=0, atol=1e-6)
    found = A.pinv(y)
    hidden = torch.zeros(4, 6, dtype=torch.bool)
    hidden[1, 2:4] = True  # opacity 0.9 and 1; 0.875 is still inverted
    torch.testing.assert_close(found[..., ~hidden], x0[..., ~hidden], rtol=0, atol=1e-5)
    assert (found[..., hidden] == 0).all()


@pytest.mark.parametrize("dilation", [0, 1, 2])
def test_dilation_hides_the_pixels_around_what_is_opaque(dilation):
    mark = Watermark(((1.0,),), (((0.5,),),), top=3, left=4, dilation=dilation)
    A = mark.at({}, IMAGE)
    hidden = (A(torch.ones(1, *IMAGE)) == 0)[0, 0].nonzero()
    assert len(hidden) == (2 * dilation + 1) ** 2
    assert (hidden - torch.tensor([3, 4])).abs().max() == dilation
    assert (dilation == 1) == (mark == Watermark(mark.alpha, mark.colour, mark.top, mark.left)), "one unless told"


def test_nothing_hidden_depends_on_what_is_under_it():
    x0 = torch.zeros(1, *COLOUR)
    other = x0.clone()
    other[..., 1, 2:4] = float("nan")
    assert LOGO.at({}, COLOUR)(other).equal(LOGO.at({}, COLOUR)(x0))


def test_a_logo_is_read_from_its_picture_with_its_alpha(tmp_path):
    rgba = np.zeros((2, 3, 4), np.uint8)
    rgba[0, 1], rgba[1, 2] = (255, 0, 51, 255), (0, 255, 0, 51)
    Image.fromarray(rgba).save(tmp_path / "logo.png")
    mark = Watermark.read(tmp_path / "logo.png", 1, 2)
    assert mark.alpha == ((0, 1, 0), (0, 0, 0.2))
    assert [grid[0][1] for grid in mark.colour] == [1, -1, -0.6]
    assert mark.over(torch.zeros(1, *COLOUR))[0, :, 2, 4].tolist() == pytest.approx([-0.2, 0.2, -0.2])
    Image.fromarray(rgba[..., :3]).save(tmp_path / "plain.png")
    with pytest.raises(ValueError, match=r"plain\.png should be a logo with alpha"):
        Watermark.read(tmp_path / "plain.png")


# ---- Refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Boxes(0, 0.1, 0.2), "count >= 1"),
        (lambda: Boxes(1, 0.5, 0.2), "low <= high"),
        (lambda: KeepPatch(0.0, 0.5), "0 < low <= high <= 1"),
        (lambda: Subtitle(0.5, 1.0), "high < 1"),
        (lambda: LineMask(1.0), "0 <= p < 1, got 1.0"),
        (lambda: LineMask(0.5, noise=-1.0), "LineMask.noise"),
        (lambda: FixedBox(0, 0, 8, 8).at({}, IMAGE), "leaves some of it"),
        (lambda: FixedBox(0, 6, 2, 4).at({}, IMAGE), "inside the 8 x 8 image"),
        (lambda: RandomCrop(9, 2).out_shape(IMAGE), "fits the 8 x 8 image, got 9 x 2"),
        (lambda: RandomCrop(0, 2).out_shape(IMAGE), "fits the 8 x 8 image, got 0 x 2"),
        (lambda: RandomCrop(2, 0).out_shape(IMAGE), "fits the 8 x 8 image, got 2 x 0"),
        (lambda: RandomCrop(2, 2).at({"corner": np.array([[7, 0]])}, IMAGE), "places from 0 to 7"),
        (lambda: RandomCrop(2, 2).at({"corner": np.array([[-1, 0]])}, IMAGE), "places from 0 to 7"),
        (lambda: ShortClip(2).out_shape(IMAGE), "got (1, 8, 8)"),
        (lambda: ShortClip(2, start=-1).out_shape(CLIP), "got (2, 3, 4, 4)"),
        (lambda: ShortClip(4).out_shape(CLIP), "at least 4 frames, got (2, 3, 4, 4)"),
        (lambda: ShortClip(2, start=2).out_shape(CLIP), "at least 4 frames"),
        (lambda: FrameRate(0), "FrameRate.every"),
        (lambda: FrameRate(2).out_shape(IMAGE), "clips of shape (C, T, H, W)"),
        (lambda: DroppedFrames(3).draw(CLIP, Key(0)), "so that one frame stays"),
        (lambda: Watermark((), ()), "alpha (h, w) and colour (C, h, w)"),
        (lambda: Watermark(((0.5,),), (((0.5, 0.1),),)), "one and the same h and w"),
        (lambda: Watermark(((1.5,),), (((0.5,),),)), "alpha in [0, 1]"),
        (lambda: Watermark(((0.5,),), (((1.5,),),)), "u / 127.5 - 1"),
        (lambda: Watermark(((0.5,),), (((-1.5,),),)), "u / 127.5 - 1"),
        (lambda: Watermark(((0.5,),), (((0.5,),),), dilation=-1), "dilation >= 0"),
        (lambda: Watermark(((0.5,),), (((0.5,),),), left=-1), "dilation >= 0, got 0, -1 and 1"),
        (lambda: Watermark(((0.5,),), (((0.5,),),), top=-1), "dilation >= 0, got -1, 0 and 1"),
        (lambda: LOGO.at({}, IMAGE), "3 channels"),
        (lambda: LOGO.at({}, (3, 1, 6)), "do not hold it"),
        (lambda: Diagonal((2,), torch.tensor([[float("nan"), 1.0]])), "finite weights"),
        (lambda: Diagonal((2,), torch.ones(0, 2)), "finite weights"),
        (lambda: Clean().at({}, IMAGE)(torch.zeros(1, 2)), "expects a tensor"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_sentence(make, words):
    with pytest.raises(ValueError, match=re.escape(words)) as refusal:
        make()
    assert str(refusal.value).endswith(".")
