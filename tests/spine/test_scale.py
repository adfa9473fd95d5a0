"""How many workers may share a batch: as many as are asked for, evenly, and none without an example."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pipeline.graph import Context, Stage, plan, step
from pipeline.scale import Scale
from pipeline.schedule import Schedule
from pipeline.store import Store

SIZES = st.integers(1, 40)


@given(SIZES, st.none() | st.integers(0, 10), SIZES, st.none() | SIZES)
def test_worlds_are_all_the_numbers_that_divide_a_batch_and_no_others(workers, more, batch, examples):
    most = None if more is None else workers + more
    want = [n for n in range(workers, (most or workers) + 1) if batch % n == 0 and (examples is None or n <= examples)]
    if want:
        assert Scale(workers, most=most).worlds(batch, examples) == want
        return
    with pytest.raises(ValueError, match=r"give .*\(--scale\.workers\)$"):
        Scale(workers, most=most).worlds(batch, examples)


@given(SIZES, SIZES)
def test_what_is_proposed_instead_works(workers, batch):
    assume(workers <= batch and batch % workers)
    with pytest.raises(ValueError) as refused:
        Scale(workers).worlds(batch)
    proposed = [int(word) for word in str(refused.value).split(": give ")[1].split() if word.isdigit()]
    assert proposed
    assert all(Scale(n).worlds(batch) == [n] for n in proposed)


@pytest.mark.parametrize(
    ("scale", "sentence"),
    [
        (Scale(9), "9 workers cannot share 8 images in a batch: give at most 8"),
        (Scale(5, most=7), "5 to 7 workers cannot share 4 examples: give at most 4"),
        (Scale(3), "3 workers cannot share a batch of 8 evenly: give 2 or 4"),
        (Scale(5, most=7), "5 to 7 workers cannot share a batch of 8 evenly: give 4 or 8"),
    ],
)
def test_too_many_workers_are_refused_in_a_sentence(scale, sentence):
    with pytest.raises(ValueError, match=sentence):
        scale.worlds(8, 4 if "examples" in sentence else None)


@pytest.mark.parametrize("wrong", [{"workers": 4, "most": 3}, {"most": 0}, {"hang_after": 0}, {"hang_after": -1.0}])
def test_a_range_without_a_number_is_refused(wrong):
    with pytest.raises(ValueError, match="give "):
        Scale(**wrong)


@dataclass(frozen=True)
class Shared(Stage):
    batch: int = 8

    def suits(self, scale: Scale, store) -> None:
        scale.worlds(self.batch)

    def run(self, at: Context) -> None:
        at.out.write("done", b"")


def test_a_plan_says_that_workers_cannot_share_a_batch_unless_it_is_made():
    store = Store(f"memory://{uuid.uuid4().hex}")
    wrong = step(Shared(), scale=Scale(3))
    with pytest.raises(ValueError, match="evenly"):
        plan(wrong, store)
    with store.claim(wrong) as lease, store.writing(wrong, lease) as out:
        out.write("done", b"")
    assert plan(wrong, store)[0].cached


@pytest.mark.parametrize(
    ("first", "beside"),
    [(Scale(1, most=9), False), (Scale(1, most=3), True), (Scale(1), True), (Scale(1, gpus=1, most=2), True)],
)
def test_what_may_take_all_there_is_runs_alone_and_asks_for_no_more_than_it_must(first, beside):
    capacity = (4, 1)
    steps: list[Any] = [step(Shared(8), scale=first), step(Shared(16), scale=Scale(1))]
    schedule = Schedule(steps, Store(f"memory://{uuid.uuid4().hex}"), capacity)
    started = [found[0] for found in schedule.next()]
    assert started == steps if beside else started == steps[:1]


@pytest.mark.parametrize(
    ("workers", "gpus", "occupied"),
    [(1, 0, 0), (2, 1, 2), (1, 2, 2), (1, 0.5, 0.5), (3, 0.6, 3), (1, 0.4, 0.5), (2, 1 / 3, 2 / 3), (1, 0.1, 0.1)],
)
def test_of_parts_of_a_device_only_whole_ones_fit(workers, gpus, occupied):
    assert Scale(workers, gpus=gpus).occupied == pytest.approx(occupied)


def test_a_device_and_a_half_are_refused():
    with pytest.raises(ValueError, match=r"a part of one device, or whole ones \(--scale.gpus\)"):
        Scale(gpus=1.5)
