"""How long steps take together, if each takes as long as is said: between the longest path and the sum."""

from __future__ import annotations

import math
import uuid
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.graph import Context, Scale, Stage, Step, step, walk
from pipeline.schedule import Schedule
from pipeline.store import Store


@dataclass(frozen=True)
class Work(Stage):
    name: str
    needs: tuple[Step, ...] = ()

    def run(self, at: Context) -> None:
        raise AssertionError("nothing is to be run")


def span(target: Step, seconds: dict[str, float], capacity: tuple[float, float]) -> float:
    return Schedule(walk(target), Store(f"memory://{uuid.uuid4().hex}"), capacity).span(seconds)


@st.composite
def works(draw: Any) -> tuple[Step, dict[str, float]]:
    nodes: list[Step] = []
    for i in range(draw(st.integers(1, 8))):
        below = tuple(draw(st.lists(st.sampled_from(nodes), unique=True, max_size=3))) if nodes else ()
        sooner = tuple(draw(st.lists(st.sampled_from(nodes), unique=True, max_size=2))) if nodes else ()
        nodes.append(step(Work(str(i), below), "", Scale(draw(st.integers(1, 3))), sooner))
    target = step(Work("target", tuple(nodes)))
    return target, {node.address: float(draw(st.integers(0, 9))) for node in nodes}


@given(works())
def test_a_wide_cluster_takes_the_longest_path_and_a_narrow_one_no_more_than_the_sum(work):
    target, seconds = work
    ends: dict[str, float] = {}
    for node in walk(target):
        ends[node.address] = max([ends[n.address] for n in node.before], default=0.0) + seconds.get(node.address, 0.0)
    longest, total = ends[target.address], sum(seconds.values())
    area = sum(seconds.get(node.address, 0.0) * node.scale.workers for node in walk(target))
    assert span(target, seconds, (100, 0)) == longest
    for cores in (3, 4, 5):
        assert max(longest, area / cores) <= span(target, seconds, (cores, 0)) <= total


def test_steps_that_do_not_fit_side_by_side_wait_for_each_other():
    a, b, c = (step(Work(name), name, Scale(workers)) for name, workers in (("a", 2), ("b", 1), ("c", 1)))
    last = step(Work("last", (a, b, c)))
    seconds = {a.address: 5.0, b.address: 3.0, c.address: 4.0, last.address: 1.0}
    assert [span(last, seconds, (cores, 0)) for cores in (2, 3, 4)] == [10, 8, 6]
    assert span(last, {b.address: 3.0}, (2, 0)) == 3, "what nothing is known of takes no time"
    assert math.isclose(span(b, {b.address: 0.5}, (1, 0)), 0.5)
    with pytest.raises(ValueError, match="wants 2 CPUs"):
        span(last, seconds, (1, 0))
