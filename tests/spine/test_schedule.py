"""A step that another run is making is waited for without a core, and made here if that run does not."""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from pipeline import schedule
from pipeline.graph import Context, Event, Stage, Step, StepFailed, run, step
from pipeline.lease import LEASE, Lease
from pipeline.place import Place
from pipeline.store import Store


@dataclass(frozen=True)
class Name(Stage):
    name: str
    needs: tuple[Step, ...] = ()

    def run(self, at: Context) -> None:
        if self.name == "bad":
            raise ValueError("no")
        at.out.write("name", self.name)


@contextlib.contextmanager
def quiet(node: Step) -> Iterator[None]:
    """A tracker that keeps nothing."""
    yield


@pytest.fixture(params=["local", "memory"])
def store(request, tmp_path, monkeypatch):
    monkeypatch.setattr(schedule, "POLL", 0.02)
    return Store(str(tmp_path / "runs") if request.param == "local" else f"memory://{uuid.uuid4().hex}")


LEFT, RIGHT = step(Name("left"), "left"), step(Name("right"), "right")
TOP = step(Name("top", (LEFT, RIGHT)), "top")


def seen(target: Step, store: Store, then: Callable[[], None]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """What a run on one core counts and says; `then` happens once it waits and everything else is done."""
    events: list[tuple[str, str]] = []
    idle, left = threading.Event(), threading.Thread(target=lambda: (idle.wait(20), then()))
    left.start()

    def listen(event: Event) -> None:
        events.append((event.step.label, event.what))
        if event.what == "waiting":
            assert event.since[:2] == "20"
        if ("left", "waiting") in events and ("right", "done") in events:
            idle.set()

    counts = run(target, store, quiet, (1, 0), listen)
    left.join()
    return counts, events


def elsewhere(store: Store, node: Step) -> Lease:
    lease = store.claim(node)
    assert lease
    assert lease.ours
    return lease


BEFORE = [("left", "waiting"), ("right", "start"), ("right", "done")]


def test_what_another_run_makes_is_waited_for_and_cached_while_the_only_core_does_the_rest(store):
    lease = elsewhere(store, LEFT)

    def publish() -> None:
        with lease, store.writing(LEFT, lease) as out:
            out.write("name", "by the other")

    counts, events = seen(TOP, store, publish)
    assert events == [*BEFORE, ("left", "cached"), ("top", "start"), ("top", "done")]
    assert counts == {"run": 2, "cached": 1}
    assert store.artifact(LEFT.address).read("name") == b"by the other"


def test_what_another_run_gave_up_is_made_here(store):
    counts, events = seen(TOP, store, elsewhere(store, LEFT).release)
    assert events == [*BEFORE, ("left", "start"), ("left", "done"), ("top", "start"), ("top", "done")]
    assert counts == {"run": 3, "cached": 0}


def test_what_was_made_since_the_run_began_is_not_made_again(store):
    def tracker(node: Step) -> contextlib.AbstractContextManager[None]:
        if node is LEFT:  # another run makes RIGHT meanwhile
            with store.writing(RIGHT) as out:
                out.write("name", "by the other")
        return quiet(node)

    events: list[tuple[str, str]] = []
    counts = run(TOP, store, tracker, (1, 0), lambda event: events.append((event.step.label, event.what)))
    assert counts == {"run": 2, "cached": 1}
    assert ("right", "cached") in events
    assert ("right", "start") not in events


def test_a_failure_waits_for_no_other_run(store):
    elsewhere(store, LEFT)
    with pytest.raises(StepFailed, match="bad failed: no"):
        run(step(Name("top", (LEFT, step(Name("bad"), "bad")))), store, quiet)


@pytest.mark.parametrize("call", ["claim", "alive"])
def test_a_store_that_is_away_fails_the_step_and_lets_its_neighbour_finish(store, monkeypatch, call):
    lease, real = elsewhere(store, LEFT), Store.claim

    def away(*of: object) -> None:
        raise OSError(5, "the store is away")

    def slow(node: Step) -> contextlib.AbstractContextManager[None]:
        if call == "alive":
            monkeypatch.setattr(Lease, "alive", away)
        time.sleep(0.2)
        return quiet(node)

    if call == "claim":
        monkeypatch.setattr(Store, "claim", lambda self, node: away() if node is LEFT else real(self, node))
    first = step(Name("top", (RIGHT, LEFT)))
    with pytest.raises(StepFailed, match=r"left failed: .*the store is away"):
        run(first, store, slow, (2, 0))
    assert store.has(RIGHT)
    lease.release()


def test_what_was_made_between_two_looks_is_not_claimed(store, monkeypatch):
    claim = Lease.claim

    def late(home: Place) -> Lease:
        with store.writing(LEFT) as out:
            out.write("name", "by the other")
        return claim(home)

    monkeypatch.setattr(Lease, "claim", late)
    assert store.claim(LEFT) is None
    home = store.place / f"objects/{LEFT.address}"
    assert not any(Lease(home, name.split("/")[0]).alive() for name in home.names() if name.endswith(LEASE))
