"""What the overseer decides, without a cluster: how many workers there are, and when they hang."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.engine import cluster, machines, pulse, relay
from pipeline.graph import Scale

oversee = pytest.importorskip("pipeline.engine.oversee")
pytestmark = pytest.mark.slow  # the import of ray.train


class Board:
    """Keeps what is said."""

    def __init__(self):
        self.said = []
        self.post = SimpleNamespace(remote=lambda topic, post: self.said.append(post["said"]))
        self.ended = SimpleNamespace(remote=lambda topic: lambda: False)


class Worker:
    """Answers at once, as in its place would be answered."""

    def __init__(self, silence):
        self.silence = silence

    def execute_async(self, question):
        return {pulse.silence: lambda: self.silence, pulse.stacks: lambda: f"asleep for {self.silence}"}[question]


@pytest.fixture
def now(monkeypatch):
    """A clock and a Ray whose references are functions; `set` moves the clock."""
    clock = SimpleNamespace(at=1000.0)
    monkeypatch.setattr(oversee, "time", SimpleNamespace(monotonic=lambda: clock.at))
    monkeypatch.setattr(oversee.ray, "wait", lambda refs, **how: (refs, []))
    monkeypatch.setattr(oversee.ray, "get", lambda ref, **how: ref())
    return clock


def overseer(scale, worlds=(1,)):
    return oversee.Overseer(scale, worlds, Board(), "topic")


class Group(list):
    def get_workers(self):
        return self

    def execute(self, function):
        assert function is pulse.listen


QUIET = SimpleNamespace(get_preemption_info=lambda: None)


@given(st.integers(1, 12), st.integers(0, 12), st.sampled_from([(1, 2, 4, 8), (2, 3, 4, 6, 12), (3,)]))
def test_as_many_as_divide_a_batch_and_have_room(proposed, room, worlds):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(oversee, "places", lambda scale: room)
        decision = SimpleNamespace(num_workers=proposed)
        overseer(Scale(1, most=12), worlds).before_controller_execute_resize_decision(decision)
    assert decision.num_workers in worlds
    fit = [n for n in worlds if n <= min(proposed, room)]
    assert decision.num_workers == (max(fit) if fit else worlds[0])


def test_a_fixed_number_stays():
    decision = SimpleNamespace(num_workers=3)
    overseer(Scale(3), (3,)).before_controller_execute_resize_decision(decision)
    assert decision.num_workers == 3


@pytest.mark.parametrize(
    ("scale", "room"),
    [
        (Scale(1), 10),
        (Scale(1, cpus=2), 5),
        (Scale(1, cpus=2.5), 3),  # one a machine
        (Scale(1, cpus=0.1), 100),  # in floating point, 10 // 0.1 is 99
        (Scale(1, cpus=1, gpus=1), 2),
        (Scale(1, cpus=1, gpus=0.5), 4),
        (Scale(1, cpus=5), 0),
    ],
)
def test_places_are_those_of_machines_that_live_and_stay_but_for_two_cores(monkeypatch, scale, room):
    nodes = [
        {"NodeID": "a", "Alive": True, "Resources": {"CPU": 4.0, "GPU": 2.0}},
        {"NodeID": "b", "Alive": True, "Resources": {"CPU": 4.0}},
        {"NodeID": "c", "Alive": True, "Resources": {"CPU": 4.0}},
        {"NodeID": "d", "Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}},
        {"NodeID": "e", "Alive": True, "Resources": {"CPU": 64.0, "GPU": 8.0}},
    ]
    monkeypatch.setattr(oversee.ray, "nodes", lambda: nodes)
    monkeypatch.setattr(machines.state, "get_draining_nodes", lambda: {"e": 0})
    monkeypatch.setattr(oversee.ray, "cluster_resources", lambda: {"CPU": 12.0, "GPU": 2.0})
    assert cluster.capacity() == (10.0, 2.0)
    assert oversee.places(scale) == room


def hung_after(now, silences, until=400, hang_after=20.0, training=True):
    """Seconds until the overseer gives a group up (None: it does not), and what it says."""
    now.at, watched = 1000.0, overseer(Scale(2, hang_after=hang_after))
    group = Group(Worker(None) for _ in range(2))
    watched.after_worker_group_start(group)
    for second in range(until):
        now.at = 1000.0 + second
        for worker, silence in zip(group, silences, strict=True):
            worker.silence = (*silence(second), training)
        try:
            watched.after_worker_group_poll_status(QUIET)
        except oversee.WorkerGroupError:
            return second, watched.board.said
    return None, watched.board.said


def test_a_group_hangs_when_all_its_workers_have_been_silent_for_long(now):
    stuck = lambda second: (max(0.0, second - 30.0), 0.5)  # noqa: E731
    found, said = hung_after(now, [stuck, stuck])
    assert 50 < found <= 56
    assert "starts again from its last checkpoint" in said[0]
    assert [text.split(":")[0] for text in said[1:]] == ["worker 0", "worker 1"]
    assert all("asleep for" in text for text in said[1:])


def test_slow_steps_long_preparations_and_one_who_moves_are_no_hang(now):
    slow = lambda second: (second % 100, 99.0)  # noqa: E731
    assert hung_after(now, [slow, slow])[0] is None, "ten times the slowest step had not passed"
    assert hung_after(now, [lambda second: (second % 110, 0.5)] * 2, training=False)[0] is None, "data were opened"
    stuck, moves = lambda second: (float(second), 0.5), lambda second: (0.5, 0.5)
    assert hung_after(now, [stuck, moves])[0] is None, "a worker moved"
    assert hung_after(now, [moves, stuck])[0] is None, "a worker moved"


def test_what_opens_data_or_saves_may_take_six_times_as_long_and_no_longer(now):
    stuck = lambda second: (float(second), 0.0)  # noqa: E731
    found, said = hung_after(now, [stuck, stuck], training=False)
    assert 120 < found <= 126
    assert said[0].startswith("no step was begun for 12")


def test_an_alarm_rings_so_long_after_it_was_set_or_rang(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(pulse.time, "monotonic", lambda: clock[0])
    alarm, rings = pulse.Alarm(3), []
    for second in range(12):
        clock[0] = second
        if second == 7:
            alarm.set()
        rings += [second] if alarm() else []
    assert rings == [3, 6, 10]


def test_a_sentence_is_new_as_often_as_the_one_who_says_it_most_often_says_it():
    news = relay.News()
    said = [("a", "x"), ("b", "x"), ("b", "y"), ("a", "x"), ("b", "x"), ("b", "x"), (None, "x"), ("a", "x")]
    assert [news.is_new(text, who) for who, text in said] == [True, False, True, True, False, True, True, False]


def test_a_pulse_knows_how_long_ago_and_how_slow():
    assert pulse.silence()[2] is False
    with pulse.PULSE:
        time.sleep(0.02)
        told = iter([pulse.END, pulse.SAVE, 0])
        order = pulse.Order(pulse.PULSE, lambda: next(told))
        assert [(order(), order.saves()) for _ in range(3)] == [(True, False), (False, True), (False, False)]
        silence, slowest, training = pulse.silence()
        assert training
        assert silence < slowest
        assert slowest >= 0.02
    assert pulse.silence()[0] < slowest
    assert pulse.silence()[2] is False
    assert "test_oversee" not in pulse.stacks(), "the stack of who asks says nothing"


@pytest.mark.parametrize(
    ("scale", "workers", "spares"),
    [
        (Scale(), 3, True),
        (Scale(cpus=0.1), 30, True),  # in floating point, 3 // 0.1 is 29
        (Scale(), 4, False),
        (Scale(cpus=2), 2, False),  # 2 + 1 free: one fits
        (Scale(gpus=0.5), 1, False),
    ],
)
def test_who_needs_no_device_keeps_off_them_while_others_have_room_now(monkeypatch, scale, workers, spares):
    nodes = [
        {"NodeID": "a", "Alive": True, "Resources": {"CPU": 4.0, "GPU": 2.0}},
        {"NodeID": "b", "Alive": True, "Resources": {"CPU": 4.0}},
        {"NodeID": "c", "Alive": True, "Resources": {"CPU": 64.0, "GPU": 1.0}},
        {"NodeID": "d", "Alive": True, "Resources": {"CPU": 8.0}},
        {"NodeID": "e", "Alive": True, "Resources": {"CPU": 64.0}},
    ]
    free = {"a": {"CPU": 4.0}, "b": {"CPU": 2.0}, "c": {"CPU": 64.0}, "d": {"CPU": 1.0}, "e": {"CPU": 64.0}}
    monkeypatch.setattr(machines.ray, "nodes", lambda: nodes)
    monkeypatch.setattr(machines.state, "get_draining_nodes", lambda: {"e": 0})
    monkeypatch.setattr(machines, "available_resources_per_node", lambda: free)
    selector = overseer(scale).on_controller_start_worker_group(scaling_config=None, num_workers=workers)
    assert selector == ({"ray.io/node-id": "!in(a,c)"} if spares else None)


@pytest.mark.parametrize(("gone", "want"), [("", "DEFAULT"), ("cd", "SPREAD"), ("ab", "SPREAD")])
def test_only_where_machines_differ_is_data_not_spread_over_all(monkeypatch, gone, want):
    nodes = [
        {"NodeID": name, "Alive": name not in gone, "Resources": {"CPU": 4.0} | ({"GPU": 1.0} if name in "ab" else {})}
        for name in "abcd"
    ]
    monkeypatch.setattr(machines.ray, "nodes", lambda: nodes)
    monkeypatch.setattr(machines.state, "get_draining_nodes", lambda: {})
    assert machines.strategy(Scale()).get("scheduling_strategy", "SPREAD") == want
    assert machines.strategy(Scale(gpus=1)) == {}
