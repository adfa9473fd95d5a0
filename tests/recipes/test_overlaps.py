"""Overlaps of windows: all intersections, each with the rows of every view that shows it, cut to the same pixels."""

from __future__ import annotations

import pytest
import torch

from pipeline import graph
from pipeline.diffusion.combine import Mode, counting
from pipeline.physics.views import Crop, Pool
from stages.overlaps import common, overlaps
from stages.recipes.partial_views import Named, partial_views
from stages.views_page import verdict

SHAPE = (1, 8, 8)
CHAIN = [Crop(SHAPE, 0, at, 8, 4) for at in (0, 2, 4)]
SIDES = [Crop(SHAPE, 2, 0, 6, 8), Crop(SHAPE, 0, 0, 6, 8), Crop(SHAPE, 0, 2, 8, 6), Crop(SHAPE, 0, 0, 8, 6)]
CORNERS = [Crop(SHAPE, top, left, 5, 5) for top in (0, 3) for left in (0, 3)]


@pytest.mark.parametrize("maps", [CHAIN, CORNERS, SIDES, CHAIN[:1], [Crop(SHAPE, 0, 0, 8, 4), Crop(SHAPE, 0, 4, 8, 4)]])
def test_with_all_overlaps_every_pixel_is_counted_once(maps):
    found = overlaps(maps)
    every = [*maps, *(region.map for region in found)]
    numbers = counting(every)
    assert numbers is not None
    shown = sum(c * A.adjoint(A(torch.ones(1, *SHAPE))) for c, A in zip(numbers, every, strict=True))
    assert set(shown.unique().tolist()) <= {0.0, 1.0}
    assert len(set(every)) == len(every)


def test_what_only_three_or_four_windows_cut_out_together_is_found():
    """Each window moves another side, so no two of them meet in what three or all four do."""
    found = overlaps(SIDES)
    assert [len(region.views) for region in found].count(2) == 6
    assert [len(region.views) for region in found].count(3) == 4
    assert found[-1].map == Crop(SHAPE, 2, 2, 4, 4)
    assert found[-1].views == (0, 1, 2, 3)


def test_a_row_of_a_view_shows_its_overlaps():
    x = torch.rand(3, *SHAPE)
    seen = {k: A(x) for k, A in enumerate(CORNERS)}
    found = overlaps(CORNERS)
    assert [len(region.views) for region in found] == [2, 2, 2, 2, 4]
    for region in found:
        cuts = region.rows(CORNERS, list(seen), lambda k, window: window(seen[k]))
        assert len(cuts) == len(region.views)
        for rows in cuts:
            assert torch.equal(rows, region.map(x))


def test_windows_that_do_not_meet_have_nothing_in_common():
    assert common(Crop(SHAPE, 0, 0, 8, 4), Crop(SHAPE, 0, 4, 8, 4)) is None
    assert common(CHAIN[0], CHAIN[1]) == Crop(SHAPE, 0, 2, 8, 2)
    with pytest.raises(ValueError, match="Pool is none"):
        overlaps([CHAIN[0], Pool(SHAPE, 2)])


def test_the_recipe_trains_the_overlaps_and_refuses_what_gives_views_no_say():
    views = tuple(Named(f"v{k}", A) for k, A in enumerate(CHAIN))
    labels = [node.label for node in graph.walk(partial_views(views=views, joint=False, combine=Mode.BETHE))]
    assert [label for label in labels if label.startswith("overlap/")] == ["overlap/0", "overlap/1"]
    assert labels.count("data/overlap") == 4
    with pytest.raises(ValueError, match="no say"):
        partial_views(views=views, combine=Mode.BETHE)
    assert not [label for label in labels if "overlap" in label and label.startswith("joint")]


@pytest.mark.parametrize(
    ("worth", "seconds", "said"),
    [
        ([0.1, 0.3], [1.0, 2.0], "is b: without it the combination's held-out error would be 30.0% higher, for 67%"),
        ([0.2, 0.3], [1.0, 9.0], "is a: without it the combination's held-out error would be 20.0% higher, for 10%"),
        ([0.2, 0.3], [1.0, 9.0], "b is worth most: without it the error would be 30.0% higher, for 90%"),
        ([0.2, 1e-5], [1.0, 1.0], "b adds least: without it the error would be the same"),
        ([-0.1, 1e-5], [1.0, 1.0], "No view earned its cost: without b"),
        ([0.1, -0.2], [1.0, 1.0], "b adds least: without it the error would be 20.0% lower, for 50%"),
        ([-0.1, -0.2], [1.0, 1.0], "No view earned its cost"),
        ([0.1, 0.0], [0.0, 0.0], "for an unknown cost"),
    ],
)
def test_a_plain_sentence_says_which_view_earned_its_cost(worth, seconds, said):
    assert said in verdict(["a", "b"], worth, seconds)
