"""`kintsugi search`: what there was no time for is left, said, and done the next time; the winner gets its alias."""

from __future__ import annotations

import contextlib
from pathlib import Path

import mlflow
import pytest
from doubles import Tracked

from pipeline.engine import track, tune
from pipeline.engine.draws import searcher
from pipeline.store import Store

WORDS = ["search", "scored", "--metric", "error", "--over", "error=choice(3.0, 1.0, 2.0)", "--searcher", "grid"]


@pytest.fixture
def searching(alone, monkeypatch):
    """The command line with a Tune that does one trial after the other, and so many of them before time is over."""
    slots = {"left": 100}

    class Nested(Tracked):
        def of(self, subject):
            return contextlib.nullcontext(self)

    def sweep(plan, ledger, drive, listen, say, until):
        source = searcher(plan, ledger, late=lambda: until < float("inf") and slots["left"] <= 0)
        count = 0
        while isinstance(found := source.suggest(str(count)), dict):
            turn = tune.Turn(ledger.trials[found["number"]], found["topic"])
            turn.trial.value, turn.trial.status = drive(turn), "finished"
            ledger.write(turn.trial)
            source.on_trial_complete(str(count), {"value": turn.trial.value})
            slots["left"] -= 1
            count += 1

    monkeypatch.setattr(track, "Tracking", Nested)
    monkeypatch.setattr(tune, "sweep", sweep)
    return alone, slots


def test_what_there_was_no_time_for_is_left_and_done_the_next_time(searching):
    kintsugi, slots = searching
    slots["left"] = 0
    said = kintsugi(*WORDS, "--hours", "0.5")
    said.refused("no trial finished within --hours 0.5", code=1)
    slots["left"] = 1
    first = kintsugi(*WORDS, "--hours", "0.5", "--json")
    assert (first.json["left"], first.json["best"]["value"], len(first.json["trials"])) == (2, 3.0, 1)
    assert "2 trials are left" in first.out
    assert "was over before 2 of 3 trials were begun" in Path(first.json["report"]).read_text()
    slots["left"] = 1
    again = kintsugi(*WORDS, "--hours", "0.5", "--json").json
    assert (again["left"], again["best"]["value"], again["steps"]) == (1, 1.0, {"run": 1})
    last = kintsugi(*WORDS, "--json")
    assert (last.json["left"], last.json["best"]["value"], last.json["steps"]) == (0, 1.0, {"run": 1})
    assert "are left" not in last.out
    assert "was over before" not in Path(last.json["report"]).read_text()


def test_the_winner_has_the_alias_and_the_next_winner_takes_it(searching, tmp_path):
    kintsugi, _ = searching
    address = f"sqlite:///{tmp_path}/runs/mlflow.db"
    register = ["--register", "digits", "--alias", "champion"]
    first = kintsugi(*WORDS, *register, "--json")
    assert first.json["registered"] == "models:/digits@champion"
    assert "models:/digits@champion" in first.out
    client = mlflow.MlflowClient(tracking_uri=address)
    version = client.get_model_version_by_alias("digits", "champion")
    assert version.tags["kintsugi.address"] == first.json["address"]
    assert first.json["address"] == Store(str(tmp_path / "runs")).find("scored/best")
    assert kintsugi(*WORDS, *register, "--json").code == 0
    assert len(client.search_model_versions("name = 'digits'")) == 1, "the same model is the same version"


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--hours", "0"], ["--hours is 0: give more than 0"]),
        (["--hours", "nan"], ["--hours is nan"]),
        (["--register", "a/b"], ["--name 'a/b' cannot be a registry's"]),
        (["--register", "a", "--alias", "v1"], ["--alias 'v1' cannot be one"]),
    ],
)
def test_budgets_and_names_that_cannot_be_are_refused_before_anything_starts(searching, tmp_path, words, parts):
    searching[0](*WORDS, *words).refused(*parts)
    assert not (tmp_path / "runs/objects").exists()


def test_what_is_no_model_is_not_registered(searching, tmp_path):
    words = ["search", "ridge", "--metric", "error", "--over", "penalty=choice(1.0, 2.0)", "--register", "a"]
    searching[0](*words).refused("--register a: error is of no model")
    assert not (tmp_path / "runs/objects").exists()
