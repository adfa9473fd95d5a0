"""Ray Tune's seam: trials that lag are stopped and said so, one that fails costs itself alone, none is done twice."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest
import ray

from pipeline.engine import cluster, sharing, tune
from pipeline.engine.draws import Plan, searcher
from pipeline.engine.ledger import FAILED, FINISHED, RUNNING, STOPPED, Ledger, Trial
from pipeline.engine.spaces import read
from pipeline.engine.tune import sweep
from pipeline.place import Place

SPACES = {"x": read("choice(0, 1, 2, 3, 4)")}


@pytest.fixture
def home(tmp_path):
    return Place(f"file://{tmp_path}/sweep")


@pytest.mark.ray
@pytest.mark.slow
def test_what_lags_is_stopped_what_fails_is_alone_and_nothing_is_done_twice(one_ray, home):
    plan = Plan(SPACES, None, "grid", "asha")
    driven, heard = [], []

    def drive(turn):
        x = turn.trial.options["x"]
        driven.append(x)
        if x == 1:
            raise RuntimeError("the network exploded")
        for percent in range(10, 101, 10):
            turn.post(percent, float(x))
            if x == 4 and turn.stopped.wait(60):
                turn.check()
        return 10.0 - x

    sweep(plan, Ledger(home), drive, lambda trial: heard.append((trial.number, trial.status)), str)
    trials = {trial.options["x"]: trial for trial in Ledger(home).trials.values()}  # as another process reads it
    assert sorted(driven) == [0, 1, 2, 3, 4]
    assert (trials[1].status, trials[1].reason) == (FAILED, "the network exploded")
    assert (trials[4].status, trials[4].value) == (STOPPED, None)
    assert trials[4].history[0] == (10.0, 4.0)
    assert (trials[0].status, trials[0].value) == (FINISHED, 10.0)
    assert {number for number, status in heard if status == RUNNING} == {0, 1, 2, 3, 4}
    best = min((t for t in trials.values() if t.status == FINISHED), key=lambda t: t.value)
    assert Ledger(home).ranked("min")[0] == best

    sweep(plan, Ledger(home), lambda turn: driven.append("again") or 0.5, lambda trial: None, str)
    assert driven[5:] == ["again"], "only what failed is tried again"
    assert Ledger(home).trials[1].value == 0.5
    sweep(plan, Ledger(home), lambda turn: driven.append("never") or 0.0, lambda trial: None, str)
    assert "never" not in driven


def test_what_was_interrupted_comes_first_with_the_options_it_had(home):
    ledger = Ledger(home)
    ledger.write(Trial(0, {"x": 3}, FINISHED, 1.0))
    ledger.write(Trial(1, {"x": 99}, RUNNING, history=[(10.0, 1.0)]))
    source = searcher(Plan(SPACES, 4), Ledger(home))
    assert [source.suggest(name)["number"] for name in "abc"] == [1, 2, 3]
    assert Ledger(home).trials[1] == Trial(1, {"x": 99})
    assert source.suggest("d") == "FINISHED"


def test_optuna_is_told_what_is_known_and_draws_nothing_twice(home):
    pytest.importorskip("optuna")
    plan = Plan({"x": read("uniform(-4, 4)"), "y": read("choice(a, b)")}, 60, "optuna")
    for _ in range(2):  # the second source is that of a process that goes on
        ledger = Ledger(home)
        source = searcher(plan, ledger)
        for i in range(25):
            number = source.suggest(f"{len(ledger.trials)} {i}")["number"]
            trial = ledger.trials[number]
            trial.status, trial.value = FINISHED, (trial.options["x"] - 1) ** 2 + (trial.options["y"] == "a")
            ledger.write(trial)
            source.on_trial_complete(f"{len(ledger.trials) - 1} {i}", {"value": trial.value})
    xs = [trial.options["x"] for trial in Ledger(home).trials.values()]
    assert len(set(xs)) == len(xs) == 50
    late = [t for t in Ledger(home).trials.values() if t.number >= 35]
    assert sum(t.options["y"] == "b" for t in late) > len(late) / 2
    assert sum(abs(t.options["x"] - 1) < 2 for t in late) > len(late) / 2, "it learns where the metric is small"


def test_others_get_their_part_of_the_cluster_and_nobody_nothing(home):
    room = [3]
    source = searcher(Plan(SPACES, 5), Ledger(home), lambda: room[0])
    assert [bool(source.suggest(name)) for name in "abcd"] == [True, True, True, False]
    room[0] = 1  # another sweep came
    source.on_trial_complete("a", {"value": 1.0})
    assert source.suggest("e") is None
    source.on_trial_complete("b", {"value": 1.0})
    assert source.suggest("f") is None
    room[0] = 0  # and more than there is room for
    source.on_trial_complete("c", None, error=True)
    assert source.suggest("g")["number"] == 3
    room[0] = 2
    assert source.suggest("h")["number"] == 4
    assert Ledger(home).trials.keys() == {0, 1, 2, 3, 4}


def test_a_trial_that_fails_when_the_time_is_over_failed_and_was_not_stopped(home, monkeypatch):
    monkeypatch.setattr(tune.Turn, "send", lambda self, content: None)
    ledger = Ledger(home)
    ledger.write(Trial(0, {"x": 0}))

    def drive(turn):
        turns.look()
        assert turn.stopped.is_set()
        raise RuntimeError("the network exploded")

    turns = tune._Turns(ledger, drive, lambda trial: None, str, until=0.0)
    turns.begin(0, "topic")
    turns.join()
    assert (ledger.trials[0].status, ledger.trials[0].reason) == (FAILED, "the network exploded")


def test_when_the_time_is_over_no_trial_begins(home):
    late = [False]
    source = searcher(Plan(SPACES, 5), Ledger(home), late=lambda: late[0])
    assert source.suggest("a")["number"] == 0
    late[0] = True
    assert source.suggest("b") == "FINISHED"
    assert [trial.status for trial in Ledger(home).trials.values()] == [RUNNING]


@pytest.mark.ray
@pytest.mark.slow
def test_what_may_be_stopped_is_interrupted_when_the_time_is_over_and_goes_on(one_ray, home, monkeypatch):
    clock = SimpleNamespace(at=0.0)
    monkeypatch.setattr(tune, "time", SimpleNamespace(monotonic=lambda: clock.at, sleep=time.sleep))
    counted = []

    def drive(turn):
        counted.append(sharing.Boards().count())
        if turn.trial.number == 1:
            clock.at = 200.0
        turn.post(10, 1.0)
        if clock.at and turn.stopped.wait(60):
            turn.check()
        return 1.0

    plan = Plan(SPACES, None, "grid", "asha")
    sweep(plan, Ledger(home), drive, lambda trial: None, str, until=100.0)
    known = Ledger(home).trials
    assert {number: trial.status for number, trial in known.items()} == {0: FINISHED, 1: RUNNING}
    assert counted == [1, 1]
    assert sharing.Boards().count() == 0
    other = cluster.board.__wrapped__()  # as another process has one
    ray.get(other.sweeps.remote(2))
    with sharing.sweeping() as count:
        assert count() == 3
        ray.kill(other)
        until = time.monotonic() + 60
        while sharing.Boards().count() != 1 and time.monotonic() < until:
            time.sleep(0.05)
        assert sharing.Boards().count() == 1, "who died is counted"
    sweep(plan, Ledger(home), lambda turn: 2.0, lambda trial: None, str, until=300.0)
    after = Ledger(home).trials
    assert [trial.value for _, trial in sorted(after.items())] == [1.0, 2.0, 2.0, 2.0, 2.0]
    assert after[1].options == known[1].options
