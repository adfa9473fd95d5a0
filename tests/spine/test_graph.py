"""A graph makes what is missing, each step once, needs first, as wide as the capacity and no wider."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.artifact import sealed
from pipeline.graph import Context, Enough, Event, Scale, Stage, Step, StepFailed, plan, run, step, walk
from pipeline.lease import LEASE, WORK
from pipeline.store import Store, StoreError


@contextlib.contextmanager
def quiet(node: Step) -> Iterator[None]:
    """A tracker that keeps nothing."""
    yield


@dataclass(frozen=True)
class Inner:
    needs: tuple[Step, ...] = ()
    rate: float = 0.5


@dataclass(frozen=True)
class Add(Stage):
    name: str
    needs: tuple[Step, ...] = ()
    table: dict[str, Step] | None = None
    inner: Inner = Inner()
    amount: int = 1

    def run(self, at: Context) -> None:
        needs = [*self.needs, *(self.table or {}).values(), *self.inner.needs]
        below = [at.open(need).json("sum.json") for need in needs]
        at.out.write("sum.json", json.dumps(self.amount + sum(below)))


@dataclass(frozen=True)
class Meet(Stage):
    """Ends only if another such stage runs beside it."""

    name: str
    door: ClassVar[threading.Barrier] = threading.Barrier(2)

    def run(self, at: Context) -> None:
        self.door.wait(20)
        at.out.write("sum.json", b"1")


@dataclass(frozen=True)
class Break(Stage):
    name: str
    started: ClassVar[threading.Event] = threading.Event()

    def run(self, at: Context) -> None:
        at.out.write("half", b"")
        self.started.set()
        raise ValueError("the disk of Theseus")


@dataclass(frozen=True)
class Slow(Stage):
    """Ends well after `Break` has failed."""

    name: str

    def run(self, at: Context) -> None:
        Break.started.wait(20)
        time.sleep(0.1)
        at.out.write("done", b"")


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "runs"))


def diamond(amount: int = 1, scale: Scale | None = None) -> Step:
    root = step(Add("root", amount=amount), "root")
    left = step(Add("left", needs=(root,)), "left")
    right = step(Add("right", table={"r": root}), "right")
    return step(Add("top", needs=(left,), inner=Inner(needs=(right,))), "top", scale)


def test_a_second_run_has_nothing_to_do(store):
    events: list[Event] = []
    assert run(diamond(), store, quiet, listen=events.append) == {"run": 4, "cached": 0}
    assert store.artifact(diamond().address).json("sum.json") == 5  # 1 + (1 + 1) + (1 + 1)
    assert Counter(event.what for event in events) == {"start": 4, "done": 4}
    before = store.place.names()
    events.clear()
    assert run(diamond(), store, quiet, listen=events.append) == {"run": 0, "cached": 4}
    assert [event.what for event in events] == ["cached"] * 4
    assert store.place.names() == before
    assert [(line.cached, line.why) for line in plan(diamond(), store)] == [(True, "cached")] * 4


def test_no_label_scale_or_order_bears_identity_but_everything_upstream_does():
    assert diamond(scale=Scale(9, 9, 9)).address == diamond().address
    assert replace(diamond(), after=(step(Add("other")),)).address == diamond().address
    assert replace(diamond(), label="other").address == diamond().address
    assert {n.address for n in walk(diamond())}.isdisjoint(n.address for n in walk(diamond(2)))


def test_needs_are_found_wherever_they_are_nested():
    top = diamond()
    assert list(top.needs) == ["needs.0", "inner.needs.0"]
    assert list(top.needs["inner.needs.0"].needs) == ["table.r"]
    assert top.config["needs"] == [{"step": top.needs["needs.0"].address}]
    assert [node.label for node in walk(top)] == ["root", "left", "right", "top"]


def test_a_chain_may_be_longer_than_the_stack_is_deep():
    node = step(Add("0"))
    for i in range(1, 1500):
        node = step(Add(str(i), needs=(node,)))
    assert [n.stage.name for n in walk(node)] == [str(i) for i in range(1500)]


def test_the_plan_says_which_field_moved(store):
    def recipe(**fields: Any) -> Step:
        return step(Add("top", needs=(step(Add("root"), "root"),), **fields), "my top")

    first = recipe()
    assert [(line.cached, line.why) for line in plan(first, store, "r 1")] == [(False, "never made")] * 2
    run(first, store, quiet)
    store.point("r 1", {node.label: node.address for node in walk(first)})

    def why(**fields: Any) -> list[str]:
        return [line.why for line in plan(recipe(**fields), store, "r 1")]

    assert why() == ["cached", "cached"]
    assert why(amount=7) == ["cached", "changed amount: 1 → 7"]
    assert why(inner=Inner(rate=0.25), amount=2) == ["cached", "changed inner.rate: 0.5 → 0.25, amount: 1 → 2"]
    assert why(table={"x": step(Add("root"))})[1].startswith("changed table: nothing → nothing, table.x.step: nothing")
    moved = [line.why for line in plan(diamond(3), store, "r 1")]
    assert moved[0] == "changed amount: 1 → 3"
    assert [line.why for line in plan(recipe(amount=7), store)] == ["cached", "never made"]


def test_a_new_version_of_a_stage_says_so(store, monkeypatch):
    run(step(Add("a"), "a"), store, quiet)
    store.point("r", {"a": step(Add("a")).address})
    monkeypatch.setattr(Add, "version", 2)
    assert [line.why for line in plan(step(Add("a"), "a"), store, "r")] == ["a new version of the stage"]


def test_a_changed_default_is_refused_by_plan_and_run(store, monkeypatch):
    run(step(Add("a")), store, quiet)
    manifest = f"objects/{step(Add('a')).address}/manifest.json"
    text = json.loads(store.place.read(manifest))
    text["config"]["inner"]["rate"] = 0.75
    store.place.write(manifest, sealed(text))
    for act in (lambda: plan(step(Add("a")), store), lambda: run(step(Add("a")), store, quiet)):
        with pytest.raises(StoreError, match=r"same address, other recipe: .* inner.rate = 0.75, not 0.5"):
            act()


@pytest.mark.parametrize("seed", [2**63, -(2**63) - 1, 10**30])
def test_a_seed_beyond_64_bits_makes_no_step(seed):
    @dataclass(frozen=True)
    class Seeded(Stage):
        seed: int

        def run(self, at):
            raise AssertionError

    with pytest.raises(ValueError, match=r"seed is -?\d+: use an integer from"):
        step(Seeded(seed))
    assert step(Seeded(2**63 - 1)).fingerprint != step(Seeded(-(2**63))).fingerprint


def test_independent_steps_run_side_by_side(store):
    both = step(Add("top", table={"a": step(Meet("a")), "b": step(Meet("b"))}))
    assert run(both, store, quiet, capacity=(2, 0)) == {"run": 3, "cached": 0}
    assert store.artifact(both.address).json("sum.json") == 3


# Capacity: random graphs of random widths.


@dataclass(frozen=True)
class Wide(Stage):
    name: int
    run_id: str
    needs: tuple[Step, ...] = ()
    ran: ClassVar[list[tuple[str, int]]] = []

    def run(self, at: Context) -> None:
        for need in self.needs:
            at.open(need)
        time.sleep(0.001)
        Wide.ran.append((self.run_id, self.name))


@st.composite
def graphs(draw: Any) -> tuple[Step, tuple[int, int]]:
    run_id, nodes = uuid.uuid4().hex, []
    capacity = (draw(st.integers(1, 4)), draw(st.integers(0, 2)))
    for i in range(draw(st.integers(1, 7))):
        below = draw(st.lists(st.sampled_from(nodes), unique=True, max_size=3)) if nodes else []
        workers = draw(st.integers(1, capacity[0]))
        gpus = draw(st.integers(0, capacity[1] // workers))
        sooner = draw(st.lists(st.sampled_from(nodes), unique=True, max_size=2)) if nodes else []
        nodes.append(step(Wide(i, run_id, tuple(below)), "", Scale(workers, 1, gpus), tuple(sooner)))
    used = {id(need) for node in nodes for need in node.needs.values()}
    top = tuple(node for node in nodes if id(node) not in used)
    return step(Wide(99, run_id, top)), capacity


@pytest.mark.slow
@settings(max_examples=30)
@given(graphs())
def test_capacity_is_never_exceeded_and_every_step_runs_once_after_its_needs(graph):
    target, capacity = graph
    store, events, now = Store(f"memory://{uuid.uuid4().hex}"), [], {}
    done: set[str] = set()

    def listen(event: Event) -> None:
        events.append(event.what)
        if event.what == "start":
            assert {need.address for need in (*event.step.needs.values(), *event.step.after)} <= done
            now[event.step.address] = event.step.scale.total
        else:
            del now[event.step.address]
            done.add(event.step.address)
        assert all(sum(total[i] for total in now.values()) <= capacity[i] for i in range(2))

    count = len(walk(target))
    assert run(target, store, quiet, capacity, listen) == {"run": count, "cached": 0}
    ran = [name for run_id, name in Wide.ran if run_id == target.stage.run_id]
    assert sorted(ran) == sorted(node.stage.name for node in walk(target))
    assert run(target, store, quiet, capacity) == {"run": 0, "cached": count}


@settings(max_examples=15)
@given(st.integers(1, 4), st.integers(2, 6))
def test_a_free_slot_is_used(cores, width):
    peak, running, lock = 0, 0, threading.Lock()
    door = threading.Barrier(min(cores, width))

    @contextlib.contextmanager
    def tracker(node: Step) -> Iterator[None]:
        nonlocal peak, running
        with lock:
            running += 1
            peak = max(peak, running)
            order = int(node.stage.name)
        if order < min(cores, width):
            door.wait(20)
        yield
        with lock:
            running -= 1

    parts = {str(i): step(Add(str(i))) for i in range(width)}
    run(step(Add("99", table=parts)), Store(f"memory://{uuid.uuid4().hex}"), tracker, (cores, 0))
    assert peak == min(cores, width)


@pytest.mark.parametrize(
    ("scale", "sentence"),
    [
        (Scale(workers=3), "top wants 3 CPUs and 0 GPUs but there are 2 and 0: lower its workers or join a larger"),
        (Scale(gpus=0.5), "top wants 1 CPUs and 0.5 GPUs but there are 2 and 0"),
    ],
)
def test_a_step_wider_than_the_cluster_is_refused_before_anything_runs(store, scale, sentence):
    with pytest.raises(ValueError, match=sentence):
        run(diamond(scale=scale), store, quiet, (2, 0))
    assert store.addresses() == []
    run(diamond(), store, quiet, (2, 0))
    assert run(diamond(scale=scale), store, quiet, (2, 0)) == {"run": 0, "cached": 4}  # what is there needs no cluster


def test_a_failure_lets_its_neighbour_finish_and_keeps_it(store):
    Break.started.clear()
    bad, slow = step(Break("b"), "bad"), step(Slow("s"), "slow")
    later = step(Add("later", needs=(slow,)), "later")
    top = step(Add("top", needs=(bad, later)), "top")
    events: list[tuple[str, str]] = []
    with pytest.raises(StepFailed, match="bad failed: the disk of Theseus") as caught:
        run(top, store, quiet, (2, 0), lambda event: events.append((event.step.label, event.what)))
    assert isinstance(caught.value.__cause__, ValueError)
    assert caught.value.step is bad
    assert store.addresses() == [slow.address]
    assert events == [("bad", "start"), ("slow", "start"), ("bad", "failed"), ("slow", "done")]


# A killed step continues where it was.


@dataclass(frozen=True)
class Count(Stage):
    to: int = 6

    def run(self, at: Context) -> None:
        for i in range(self.to):
            if at.out.exists(f"{WORK}/{i}"):
                continue
            if os.environ.get("DIES_AT") == str(i):
                os.kill(os.getpid(), signal.SIGKILL)
            at.out.write(f"part-{i}", str(os.getpid()))
            at.out.write(f"{WORK}/{i}", b"")


@pytest.mark.slow
def test_a_killed_step_continues(store, background):
    code = "import sys, test_graph as t; t.run(t.step(t.Count()), t.Store(sys.argv[1]), t.quiet)"
    pids = []
    for dies_at in ("2", "4"):
        child = background(code, store.url, DIES_AT=dies_at)
        assert child.wait(60) == -signal.SIGKILL
        pids.append(str(child.pid))
        assert store.addresses() == []
    (attempt,) = {name.split("/")[3] for name in store.place.names() if name.endswith(LEASE)}
    run(step(Count()), store, quiet)
    artifact = store.artifact(step(Count()).address)
    assert artifact.manifest["attempt"] == attempt
    assert artifact.names() == [f"part-{i}" for i in range(6)]
    pids.append(str(os.getpid()))
    assert [artifact.read(f"part-{i}").decode() for i in range(6)] == [pid for pid in pids for _ in range(2)]


def test_a_stage_without_canonical_form_is_refused_when_the_graph_is_built():
    with pytest.raises(TypeError, match=r"Add\.amount is of type builtins\.set"):
        step(Add("a", amount={1}))  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [{"workers": 0}, {"workers": -3}, {"cpus": 0}, {"gpus": -1}, {"cpus": float("nan")}])
def test_a_scale_of_nothing_is_refused(wrong):
    with pytest.raises(ValueError, match="give at least one"):
        Scale(**wrong)


def test_a_step_that_nobody_wants_any_more_is_said_to_be_stopped_not_failed(store):
    events: list[tuple[str, str]] = []

    @contextlib.contextmanager
    def enough(node: Step) -> Iterator[None]:
        raise Enough
        yield

    with pytest.raises(StepFailed) as caught:
        run(step(Add("one"), "one"), store, enough, listen=lambda e: events.append((e.step.label, e.what)))
    assert isinstance(caught.value.__cause__, Enough)
    assert events == [("one", "start"), ("one", "stopped")]
