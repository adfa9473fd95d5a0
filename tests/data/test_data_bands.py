"""Levels are drawn first: σ keeps its law whatever the rows' floors, and no row is looked at below its own."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.data.bands import FLOOR, GROUPS, WIDEST, Allowed, banded, cells, grouped, heard, levelled
from pipeline.data.reader import InMemory
from pipeline.data.records import Examples
from pipeline.diffusion.levels import LogNormal, Stratified, Tabulated
from pipeline.keys import Key
from pipeline.objectives.objective import Batch

CLEAN, NOISY, RESTORED = Allowed(weight=1), Allowed(low=0.7, weight=9), Allowed(high=0.7, weight=9)
LEVELS = LogNormal()


def rows(name: str, count: int) -> InMemory:
    images = np.zeros((count, 1, 2, 2), np.uint8)
    return InMemory(Examples(tuple(f"{name}-{i}" for i in range(count)), images))


def drawn(sets, levels, batch=50, steps=400, world=1):
    """σ, floors and ids of the first rows, in the global order."""
    mixed = banded(sets, levels)
    ranks = [mixed.batches(batch, 0, 0, rank, world) for rank in range(world)]
    sigma, floor, ids = [], [], []
    for k in range(steps):
        for rank, stream in enumerate(ranks):
            part = next(stream)
            share = batch // world
            place = Batch(torch.zeros(share, 1), offset=rank * share, total=batch)
            sigma.append(levelled(levels, part, Key(3).fold(k), place))
            floor.append(part.columns[FLOOR])
            ids += mixed.ids(part.index.tolist())
    return torch.cat(sigma).double(), np.concatenate(floor), ids


@pytest.mark.parametrize("levels", [LEVELS, Stratified(), Tabulated(0.05, 5.0, (1.0, 3.0, 0.5))])
@pytest.mark.parametrize("sigma", [0.06, 0.3, 1.0, 4.0])
def test_the_share_below_a_level_inverts_the_quantile(levels, sigma):
    u = levels.share_below(math.log(sigma))
    assert float(levels.quantile(torch.tensor(u, dtype=torch.float64))) == pytest.approx(math.log(sigma), abs=1e-9)


def test_beyond_the_ends_the_share_below_is_none_or_all():
    levels = Tabulated(0.05, 5.0, (1.0, 1.0))
    assert levels.share_below(math.log(0.01)) == 0
    assert levels.share_below(math.log(9.0)) == 1


def test_groups_hold_all_rows_in_order_as_many_in_each_or_of_like_noise():
    rng = np.random.default_rng(0)
    for floors in (rng.uniform(0.2, 0.25, 800), rng.lognormal(-1, 2, 800), np.repeat([0.0, 0.3], 400), np.array([0.1])):
        floors = np.sort(floors)
        found = list(grouped(floors))
        assert [first for first, _ in found] == [0, *(end for _, end in found[:-1])], "one begins where another ends"
        assert found[-1][1] == len(floors)
        for first, end in found:
            assert floors[end - 1] <= WIDEST * floors[first]
            assert len(np.unique(floors[first:end])) == 1 or end - first <= -(-len(floors) // GROUPS)
    assert len(list(grouped(np.sort(rng.uniform(0.2, 0.25, 800))))) == GROUPS
    assert len(list(grouped(np.repeat([0.0, 0.3], 400)))) == 2


def test_a_row_of_much_more_noise_than_the_others_silences_none_of_them():
    floors = np.append(np.full(999, 0.2), 30.0)
    assert [(floors[first:end].min(), floors[end - 1]) for first, end in grouped(floors)] == [(0.2, 0.2), (30.0, 30.0)]


def test_what_has_no_position_is_refused_unless_it_may_be_left_out(caplog):
    lone = Allowed(low=30.0, weight=1e-3)
    with pytest.raises(ValueError, match="from 30 to inf only, where next to nothing"):
        cells([CLEAN, lone], LEVELS)
    sets = [(rows("clean", 9), 0.0, CLEAN), (rows("loud", 2), 25.0, replace(lone, spare=True))]
    assert heard(sets, LEVELS) == sets[:1]
    _, floor, ids = drawn(sets, LEVELS, steps=20)
    assert set(floor) == {0.0}
    assert all(name.startswith("clean") for name in ids)
    assert "2 rows, such as loud-0, teach from σ = 30 only" in caplog.text
    assert caplog.records[0].name == "kintsugi", "or workers say it to nobody"


def test_cells_have_the_mass_of_their_band_shared_by_the_weights_of_those_who_may_teach():
    found = cells([CLEAN, NOISY, RESTORED], LEVELS)
    below, total = LEVELS.share_below(math.log(0.7)), sum(cell.count for cell in found)
    share = {(cell.set, cell.low > 0): cell.count / total for cell in found}
    want = {
        (0, False): below / 10,
        (2, False): below * 9 / 10,
        (0, True): (1 - below) / 10,
        (1, True): (1 - below) * 9 / 10,
    }
    assert share == pytest.approx(want, abs=2e-4)


def test_sigma_keeps_its_law_and_no_row_is_seen_below_its_floor():
    """20,000 draws of mean −1.2 and variance 1.44, though nine rows in ten may teach above 0.7 only."""
    sets = [(rows("clean", 20), 0.0, CLEAN), (rows("noisy", 180), 0.6, NOISY)]
    sigma, floor, ids = drawn(sets, LEVELS)
    logs = sigma.log()
    assert abs(logs.mean() + 1.2) < 4 * 1.2 / len(logs) ** 0.5
    assert abs(logs.var() - 1.44) < 4 * 1.44 * (2 / len(logs)) ** 0.5
    assert (sigma.numpy()[floor > 0] >= 0.7 - 1e-6).all()
    assert all((name.startswith("noisy")) == (held > 0) for name, held in zip(ids, floor))
    high = sigma.numpy() >= 0.7
    assert np.mean(floor[high] > 0) == pytest.approx(0.9, abs=0.01)


def test_levels_at_which_nobody_may_teach_are_left_out():
    sigma, *_ = drawn([(rows("noisy", 9), 0.6, NOISY)], LEVELS, steps=40)
    above = LEVELS.share_below(math.log(0.7))
    u = torch.tensor([LEVELS.share_below(math.log(s)) for s in sigma[:500].tolist()])
    assert u.min() >= above - 1e-6
    assert abs(float(u.mean()) - (1 + above) / 2) < 4 * (1 - above) / math.sqrt(12 * 500)


def test_workers_together_see_what_one_sees():
    sets = [(rows("clean", 20), 0.0, CLEAN), (rows("noisy", 30), 0.6, NOISY)]
    one, two = (drawn(sets, Stratified(), batch=10, steps=20, world=world) for world in (1, 2))
    assert torch.equal(one[0], two[0])
    assert one[2] == two[2]


def test_rows_may_each_have_their_own_floor():
    floors = np.linspace(0.1, 0.5, 9)
    mixed = banded([(rows("noisy", 9), floors, Allowed(low=0.6))], LEVELS)
    for part in itertools.islice(mixed.batches(4, 0), 9):
        assert part.columns[FLOOR].tolist() == [floors[int(name.split("-")[1])] for name in mixed.ids(part.index)]


@pytest.mark.parametrize("bad", [{"low": -1.0}, {"low": 1.0, "high": 0.5}, {"weight": 0.0}, {"weight": math.inf}])
def test_ranges_and_weights_make_sense(bad):
    with pytest.raises(ValueError, match="range of noise levels"):
        Allowed(**bad)


def test_noise_above_all_levels_leaves_nothing_to_learn():
    with pytest.raises(ValueError, match="more noise"):
        cells([Allowed(low=9.0)], Tabulated(0.05, 5.0, (1.0, 1.0)))
