"""What is hidden is told from the operators alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
from cases import CORRUPTIONS

from pipeline.keys import Key


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_something_is_hidden_where_a_row_of_the_matrix_is_zero(name):
    corruption, shape = CORRUPTIONS[name]
    drawn = (corruption.draw(shape, Key(5).fold(name, k)) for k in range(40))
    maps = (corruption.at({k: np.asarray(v)[None] for k, v in row.items()}, shape) for row in drawn)
    zero = any((A.dense().reshape(-1, math.prod(shape)) == 0).all(1).any() for A in maps)
    assert corruption.hides(shape) is zero
