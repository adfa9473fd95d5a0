"""Augmentation: only places change, everything moves together, and nothing is seen that was not observed."""

from __future__ import annotations

import itertools

import pytest
import torch

from pipeline.data.augment import Augment
from pipeline.data.reader import order

KINDS = [Augment(), Augment(False, 2), Augment(True, 1), Augment(True, 3)]
SIDES = [(6, 6), (4, 7)]


def pixels(count: int, height: int, width: int) -> torch.Tensor:
    """Images (count, 1, H, W) whose every pixel is a number of its own, from 1."""
    return torch.arange(1, count * height * width + 1).view(count, 1, height, width)


@pytest.mark.slow
@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_pixels_exposed_in_all_epochs_are_exactly_those_observed(kind, sides):
    rows, hidden = 5, -1
    ids = pixels(rows, *sides)
    seen = torch.rand(ids.shape, generator=torch.Generator().manual_seed(0)) < 0.6
    images = torch.where(seen, ids, hidden)
    exposed: set[int] = set()
    for epoch in range(150):
        index = torch.from_numpy(order(rows, 1, epoch * rows, rows))
        out = kind({"x": images[index], "mask": seen[index], "id": ids[index]}, 1, epoch * rows)
        assert torch.equal(out["x"][out["mask"]], out["id"][out["mask"]])
        now = out["x"][out["mask"]].tolist()
        assert len(now) == len(set(now))
        exposed |= set(now)
    assert exposed == set(ids[seen].tolist())


@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("kind", KINDS)
def test_values_are_never_made_only_moved_or_hidden(kind, sides):
    ids = pixels(40, *sides)
    out = kind({"x": ids.double()}, 0, 0)
    seen = out.get("mask", torch.ones(ids.shape, dtype=torch.bool))
    for before, after, mask in zip(ids, out["x"], seen):
        assert set(after[mask].tolist()) <= set(before.flatten().tolist())
        assert not after[~mask].any()
        assert mask.sum() >= (sides[0] - kind.shift) * (sides[1] - kind.shift)
    assert ("mask" in out) is (kind.shift > 0)


def test_all_columns_on_the_pixels_move_together_and_the_others_stay():
    x = torch.randn(30, 3, 2, 8, 8)
    columns = {"x": x, "mask": x[:, :1] > 0, "flow": x[:, :2, 0], "plane": x[:, 0, 0], "label": torch.arange(30)}
    out = Augment(True, 2)(columns, 3, 17)
    there = Augment(True, 2)({"x": torch.ones_like(x)}, 3, 17)["x"]
    assert torch.equal(out["mask"], (out["x"][:, :1] > 0) & (there[:, :1] > 0))
    assert torch.equal(out["flow"], out["x"][:, :2, 0])
    assert torch.equal(out["plane"], out["x"][:, 0, 0])
    assert out["label"] is columns["label"]
    assert columns["x"] is x, "the caller's columns were changed"


@pytest.mark.parametrize("shape", [(20, 4, 5), (20, 3, 4, 5), (20, 3, 2, 4, 5)])
def test_the_mask_of_what_moved_in_lies_on_every_image(shape):
    out = Augment(True, 2)({"x": torch.ones(shape)}, 0, 0)
    assert torch.equal(out["mask"].expand(shape), out["x"] > 0)


def test_without_turns_an_image_is_moved_and_nothing_else():
    ids = pixels(50, 5, 5)
    out = Augment(False, 2)({"x": ids}, 0, 0)
    for before, after, seen in zip(ids[:, 0], out["x"][:, 0], out["mask"][:, 0]):
        i, j = seen.nonzero().T
        step = after[i, j] - before[i, j]  # pixels are numbered row by row
        assert (step == step[0]).all()


@pytest.mark.parametrize(("sides", "many"), [((3, 3), 8), ((2, 3), 4)])
def test_all_turns_and_mirrors_come_equally_often(sides, many):
    ids = torch.arange(sides[0] * sides[1]).view(1, 1, *sides).expand(4000, -1, -1, -1)
    out = Augment()({"x": ids}, 0, 0)["x"].flatten(1)
    kinds, counts = out.unique(dim=0, return_counts=True)
    assert len(kinds) == many
    whole = ids[0, 0]
    group = {tuple(torch.rot90(m, k).flatten().tolist()) for m in (whole, whole.T, whole.flip(0)) for k in range(4)}
    assert {tuple(kind.tolist()) for kind in kinds} <= group
    assert ((counts - 4000 / many) ** 2 / (4000 / many)).sum() < 30


def test_all_moves_come_equally_often_and_in_both_ways():
    x = torch.zeros(5000, 1, 9, 9)
    x[:, :, 4, 4] = 1
    places = Augment(False, 2)({"x": x}, 0, 0)["x"].flatten(1).argmax(1)
    counts = torch.bincount(places, minlength=81).view(9, 9)
    inner = counts[2:7, 2:7]
    assert inner.sum() == 5000
    assert ((inner - 200.0) ** 2 / 200).sum() < 24 + 5 * 7


def test_the_draw_of_an_image_depends_on_its_number_and_the_seed_alone():
    kind, x = Augment(True, 1), torch.randn(40, 1, 5, 5)
    together = kind({"x": x}, 2, 1010)
    for size in (1, 7):
        parts = [kind({"x": x[at : at + size]}, 2, 1010 + at) for at in range(0, 40, size)]
        for name in ("x", "mask"):
            assert torch.equal(torch.cat([part[name] for part in parts]), together[name])
    for other in (kind({"x": x}, 3, 1010), kind({"x": x}, 2, 1011)):
        assert not torch.equal(other["x"], together["x"])


def test_white_noise_stays_white():
    z = torch.randn(20_000, 1, 3, 3, generator=torch.Generator().manual_seed(1))
    out = Augment(True, 1)({"x": z}, 0, 0)
    assert out["x"][out["mask"]].var().item() == pytest.approx(1, abs=0.02)
    for (i, j), (k, l) in itertools.combinations(itertools.product(range(3), repeat=2), 2):
        both = out["mask"][:, 0, i, j] & out["mask"][:, 0, k, l]
        assert abs((out["x"][both, 0, i, j] * out["x"][both, 0, k, l]).mean().item()) < 0.05


def test_what_moving_would_falsify_is_refused(refused):
    x = torch.zeros(2, 1, 5, 5)
    for name, column in {
        "box": torch.zeros(2, 4),
        "at": torch.zeros(2, 1, 2),
        "small": torch.zeros(2, 1, 4, 5),
    }.items():
        with refused(repr(name), "turn it into a mask first"):
            Augment()({"x": x, name: column}, 0, 0)
    with refused("'row'", "turn it into a mask first"):
        Augment()({"x": torch.zeros(5, 1, 5, 5), "row": torch.zeros(5, 5)}, 0, 0)
    with refused("shift is 5 and images are 5x5"):
        Augment(shift=5)({"x": x}, 0, 0)
    for sides in ((5, 7), (7, 5)):
        with refused("shift is 5 and images are {}x{}".format(*sides)):
            Augment(shift=5)({"x": torch.zeros(2, 1, *sides)}, 0, 0)
    with refused("shift is -1"):
        Augment(shift=-1)
