"""How many processes share a batch changes neither which examples are seen, nor when, nor the loss of any step."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from processes import together
from worlds import BATCH, STEPS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    """What each of four processes said."""
    folder = tmp_path_factory.mktemp("worlds")
    said = together(4, Path(__file__).with_name("worlds.py"), folder)
    return [json.loads(text) for text in said]


@pytest.mark.parametrize("world", [2, 3, 4])
def test_worlds_of_any_size_see_the_same_examples_and_have_the_same_losses(four, world):
    rows, losses = four[0]["1"]
    assert len(rows) == len(losses) == STEPS
    shares = [said[str(world)] for said in four[:world]]
    assert [[row for share in shares for row in share[0][step]] for step in range(STEPS)] == rows
    assert all(len(part) == BATCH // world for share in shares for part in share[0])
    difference = np.abs(np.array([share[1] for share in shares]) / losses - 1).max()  # each has all the rows' mean
    assert difference <= 1e-6, difference
    assert np.ptp(losses) > 0.01, "nothing was learned: a weak test"


def test_what_one_process_is_told_all_know_after_the_same_step(four):
    assert [said["heard"] for said in four] == [[5] * 4] * 4
