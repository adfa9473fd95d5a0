"""Modes: in its basis AᵀA is diagonal, the squares of the stated singular values on the diagonal."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.keys import Key
from pipeline.physics.blur import GaussianBlur, MotionBlur
from pipeline.physics.corruption import Noisy, corrupt
from pipeline.physics.fourier import Fourier
from pipeline.physics.linear import Identity
from pipeline.physics.masks import BoxMask, LineMask, PixelMask
from pipeline.physics.mixture import Mixture
from pipeline.physics.modes import Pixels, Waves, modes
from pipeline.physics.views import Pool

SHAPE = (2, 6, 5)


def drawn(corruption, n=4):
    _, rows = corrupt(corruption, torch.zeros(n, *SHAPE), [str(i) for i in range(n)], 0)
    return corruption.at(rows, SHAPE)


MAPS = {
    "identity": Identity(SHAPE),
    "pixels": drawn(PixelMask(0.5)),
    "values": drawn(PixelMask(0.5, per_channel=True)),
    "boxes": drawn(BoxMask(0.3, 0.8)),
    "lines": drawn(LineMask(0.5, columns=True)),
    "blur": GaussianBlur(SHAPE, 0.7, 1.1, 20.0),
    "twice the blur": 2 * GaussianBlur(SHAPE, 0.5),
    "motion": MotionBlur(SHAPE, 2.0, 30.0),
    "k-space rows": drawn(Fourier(2.0)),
    "k-space columns": drawn(Fourier(1.6, columns=True)),
    "mixture": drawn(Mixture(((0.5, PixelMask(0.4)), (0.5, Noisy(noise=0.1)))), 8),
}


@pytest.mark.parametrize("A", MAPS.values(), ids=MAPS.keys())
def test_the_basis_makes_it_diagonal_and_the_values_are_singular_values(A):
    basis, values = modes(A)
    assert values.shape == (A.rows, *SHAPE)
    n = int(np.prod(SHAPE))
    V = basis.back(torch.eye(n, dtype=torch.float64).view(n, *SHAPE)).flatten(1).T
    torch.testing.assert_close(V.T @ V, torch.eye(n, dtype=torch.float64))
    x = torch.randn(3, *SHAPE, generator=Key(0).torch(), dtype=torch.float64)
    torch.testing.assert_close(basis.back(basis.into(x)), x)
    dense = A.dense() if A.rows > 1 else A.dense()[None]
    gram = V.T @ dense.mT @ dense @ V
    torch.testing.assert_close(gram, torch.diag_embed(values.flatten(1) ** 2), rtol=1e-9, atol=1e-9)


def test_what_is_not_diagonal_in_a_known_basis_is_refused():
    with pytest.raises(ValueError, match="Pool has no singular values that are known here"):
        modes(Pool((1, 4, 4), 2))
    Routed = type(MAPS["mixture"])
    both = Routed((drawn(PixelMask(0.5), 1), GaussianBlur(SHAPE, 1.0)), (torch.tensor([0]), torch.tensor([1])))
    with pytest.raises(ValueError, match="no basis makes both diagonal"):
        modes(both)
    assert modes(MAPS["mixture"])[0] == Pixels()
    assert modes(MAPS["blur"])[0] == Waves()
