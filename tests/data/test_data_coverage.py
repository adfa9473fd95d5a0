"""A pixel is shown where the matrix of some row's operator has a column that is not 0."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.data.coverage import shown
from pipeline.data.leaks import Damage
from pipeline.physics.blackbox import BlackBox, Jpeg
from pipeline.physics.blur import GaussianBlur
from pipeline.physics.boxes import FixedBox, KeepPatch
from pipeline.physics.corruption import Clean, Corruption, Noisy, Through, corrupt
from pipeline.physics.linear import Shape
from pipeline.physics.masks import BoxMask, FixedMask, LineMask, PixelMask
from pipeline.physics.mixture import Mixture
from pipeline.physics.views import Channel, Crop, Pool
from pipeline.physics.watermark import Watermark
from pipeline.physics.windows import DroppedFrames, RandomCrop

IMAGE, COLOUR, CLIP = (1, 6, 6), (3, 4, 4), (1, 3, 4, 4)
CASES: dict[str, tuple[Corruption, Shape]] = {
    "pixels": (PixelMask(0.8), IMAGE),
    "pixels of channels": (PixelMask(0.8, per_channel=True), COLOUR),
    "pixels of a clip": (PixelMask(0.8), CLIP),
    "boxes": (BoxMask(0.7, 0.9), IMAGE),
    "lines": (LineMask(0.7), IMAGE),
    "patches": (KeepPatch(0.3, 0.4), COLOUR),
    "crops": (RandomCrop(3, 2), IMAGE),
    "dropped frames": (DroppedFrames(2), CLIP),
    "a box": (FixedBox(1, 1, 3, 2, noise=0.1), COLOUR),
    "a mask": (FixedMask(("0101", "1111", "0000", "1110")), COLOUR),
    "a watermark": (Watermark(((0.95, 0.5), (0.0, 1.0)), (((0.0, 0.0), (0.0, 0.0)),), dilation=0), IMAGE),
    "a blur": (Through(GaussianBlur(IMAGE, 1.0)), IMAGE),
    "a mixture": (Mixture(((0.5, PixelMask(0.9)), (0.5, LineMask(0.9)))), IMAGE),
}


@pytest.mark.parametrize("case", CASES)
def test_what_rows_show_is_where_their_matrices_are_not_zero(case: str) -> None:
    corruption, shape = CASES[case]
    some = False
    for count in (1, 2, 3):
        _, rows = corrupt(corruption, torch.zeros(count, *shape), [str(i) for i in range(count)], seed=3)
        A = corruption.at(rows, shape)
        dense = A.dense().reshape(A.rows, -1, np.prod(shape))
        expected = (dense.abs() > 1e-9).any(0).any(0).numpy().reshape(shape)
        found = shown(A, Damage(corruption, shape))
        np.testing.assert_array_equal(np.broadcast_to(found, shape), expected)
        some |= not expected.all()
    assert some or case == "a blur", "it hides nothing, so it tests nothing"


@pytest.mark.parametrize(
    "corruption",
    [Clean(), Noisy(noise=1.0), Through(Crop(COLOUR, 1, 1, 2, 2)), Through(Channel(COLOUR)), Through(Pool(COLOUR, 2))],
    ids=str,
)
def test_a_view_shows_all_that_its_model_is_about(corruption: Corruption) -> None:
    assert shown(corruption.at({}, COLOUR), Damage(corruption, COLOUR)).all()


def test_what_is_not_known_is_not_held_against_a_set() -> None:
    assert shown(None, Damage(BlackBox(Jpeg()), COLOUR)).all()
    assert shown(None, None).all()
