"""Ray Tune's seam: trials that lag are stopped and said so, one that fails costs itself alone, none is done twice."""

from __future__ import annotations

import pytest

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
