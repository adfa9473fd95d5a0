"""A run divided among processes is the run of one process: losses, weights, averages, checkpoints, roll-backs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from processes import together
from torch import nn

from pipeline.learning.divide import blocks
from pipeline.learning.state import State
from pipeline.scale import Scale

NETWORKS = ["mlp", "preserving"]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What each of two processes said."""
    folder = tmp_path_factory.mktemp("divided")
    said = together(2, Path(__file__).with_name("divided.py"), folder)
    return [json.loads(text) for text in said]


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_each_process_holds_a_half_and_all_learn_what_one_learns(two, name):
    shares = [said[name]["share"] for said in two]
    assert sum(shares) == pytest.approx(1)
    assert max(shares) < 0.6
    alone, together = two[0][name]["alone"], np.mean([said[name]["losses"] for said in two], 0)
    losses, gradients = np.abs(together / alone - 1).T
    assert losses.max() <= 1e-6
    assert gradients.max() <= 1e-5
    assert np.ptp(alone, 0).min() > 0.01, "nothing was learned: a weak test"
    assert max(said[name]["apart"] for said in two) < 1e-4  # AdamW makes rounding of small gradients large


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_the_result_is_the_average_as_a_module_of_its_own(two, name):
    for said in two:
        assert said[name]["plain"]
        assert said[name]["result"]


@pytest.mark.slow
def test_its_checkpoints_are_whole_and_go_on_to_the_bit_or_undivided(two):
    for said in two:
        assert said["continued"]["resumed"]
        assert said["continued"]["undivided"] < 1e-4
        assert said["continued"]["pieces"] < 1e-4


@pytest.mark.slow
def test_a_batch_that_only_one_process_saw_rolls_all_of_them_back(two):
    for times, difference in (said["rolled back"] for said in two):
        assert times == 1
        assert difference < 1e-4


def test_blocks_are_found_in_lists_and_in_lists_of_lists():
    inner = [nn.Linear(1, 1) for _ in range(3)]
    network = nn.Sequential(nn.ModuleList([nn.ModuleList(inner[:2]), inner[2]]), nn.ReLU())
    assert blocks(network) == inner
    assert blocks(nn.ModuleDict({"a": nn.ModuleList([network])})) == [network]


def test_what_cannot_be_divided_is_refused():
    with pytest.raises(ValueError, match="leave one of them out"):
        Scale(shard=True, channels_last=True)
    state = State.create(nn.Linear(2, 2))
    state.step = 3
    with pytest.raises(ValueError, match="the run is at step 3"):
        state.divide()
