"""`kintsugi search`: what there was no time for is left, said, and done the next time; the winner gets its alias."""

from __future__ import annotations

import contextlib
import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import mlflow
import pytest
from doubles import Tracked

from pipeline.engine import track, tune
from pipeline.engine.draws import searcher
from pipeline.engine.track import Tracking, connected
from pipeline.graph import Enough
from pipeline.store import Store

WORDS = ["search", "scored", "--metric", "error", "--over", "error=choice(3.0, 1.0, 2.0)", "--searcher", "grid"]


@pytest.fixture
def searching(alone, monkeypatch):
    """The command line with a Tune that does one trial after the other, and so many of them before time is over."""
    slots = {"left": 100, "before": lambda turn: None}

    class Nested(Tracked):
        def of(self, subject):
            return contextlib.nullcontext(self)

        def tag(self, name, value):
            return None

    def sweep(plan, ledger, drive, listen, say, until):
        source = searcher(plan, ledger, late=lambda: until < float("inf") and slots["left"] <= 0)
        count = 0
        while isinstance(found := source.suggest(str(count)), dict):
            turn = tune.Turn(ledger.trials[found["number"]], found["topic"])
            slots["before"](turn)
            with contextlib.suppress(Enough):
                turn.trial.value, turn.trial.status = drive(turn), "finished"
            ledger.write(turn.trial)
            source.on_trial_complete(str(count), {"value": turn.trial.value or 0.0})
            slots["left"] -= 1
            count += 1

    monkeypatch.setattr(track, "Tracking", Nested)
    monkeypatch.setattr(tune, "sweep", sweep)
    return alone, slots


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """A store with a database of MLflow's, whose tables take seconds to make."""
    made = tmp_path_factory.mktemp("made") / "runs"
    client = connected(Store(str(made)))
    client.create_registered_model("theirs")
    return made


@pytest.fixture
def tracked(searching, database, monkeypatch, tmp_path):
    """`searching`, told to MLflow, and its client; the registry has a model that something else made."""
    monkeypatch.setattr(track, "Tracking", Tracking)
    shutil.copytree(database, tmp_path / "runs")
    return *searching, mlflow.MlflowClient(f"sqlite:///{tmp_path}/runs/mlflow.db")


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


def searched(*classes):
    """A search of models that are told of so many classes; the most win."""
    over = f"classes=choice({','.join(map(str, classes))})"
    return ["search", "scored", "--metric", "error", "--over", over, "--searcher", "grid", "--json"]


@pytest.mark.slow
def test_the_winner_has_the_alias_on_its_trials_run_and_the_next_winner_takes_it(tracked, tmp_path):
    kintsugi, _, client = tracked
    register = ["--register", "digits", "--alias", "champion"]

    def champion(said):
        assert said.json["registered"] == "models:/digits@champion"
        assert "models:/digits@champion" in said.out
        version = client.get_model_version_by_alias("digits", "champion")
        assert version.tags["kintsugi.address"] == said.json["address"]
        assert said.json["address"] == Store(str(tmp_path / "runs")).find("scored/best")
        run = client.get_run(version.run_id)
        trial = f"search/{said.json['sweep']}/{said.json['best']['trial']}"
        assert run.data.tags["kintsugi.address"] == trial
        assert run.data.params == {"classes": str(said.json["best"]["options"]["classes"])}
        assert [output.model_id for output in run.outputs.model_outputs] == [version.source.split("/")[-1]]
        return version.version

    first = champion(kintsugi(*searched(2, 3), *register))
    again = champion(kintsugi(*searched(2, 3), *register))
    assert again == first, "the same model is the same version"
    second = champion(kintsugi(*searched(3, 4), *register))
    assert second != first
    assert len(client.search_model_versions("name = 'digits'")) == 2


@pytest.mark.slow
def test_a_search_whose_winner_the_registry_refuses_tells_what_it_found(tracked):
    kintsugi, _, client = tracked
    shape = {"kintsugi": "true", "kintsugi.shape": "[1, 8, 8]"}
    client.create_registered_model("digits", shape)
    said = kintsugi(*WORDS, "--register", "digits", "--alias", "champion", "--json")
    store = Path(said.json["report"]).parents[4].as_uri()
    assert told(said) == (
        "kintsugi: the winner is not in MLflow's registry (the name digits is another model's, of images [1, 8, 8], "
        "and this one's are [1, 4, 4]: take another name), where `kintsugi register scored/best --name digits "
        f"--alias champion --move --store {store}` puts it later"
    )


def told(said):
    """The only sentence of a search that ended with code 1 after it had told everything else."""
    assert said.code == 1
    assert (said.json["registered"], said.json["best"]["value"]) == (None, 1.0)
    assert "model: scored/best\n" in said.out
    assert Path(said.json["options"]).exists()
    assert f"report: {said.json['report']}" in said.out
    (line,) = (line for line in said.err.splitlines() if line.startswith("kintsugi: "))
    assert "Traceback" not in said.err
    return line


class Dying(BaseHTTPRequestHandler):
    """A tracking server without runs and models."""

    def do_POST(self):
        known = "registered-models" not in self.path
        said = {} if known else {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "there is none"}
        self.send_response(200 if known else 404)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(said).encode())

    do_GET = do_POST

    def log_message(self, *ignored):
        return None


@pytest.mark.slow
def test_a_server_that_dies_before_the_winner_is_known_costs_nothing_of_what_was_found(searching, monkeypatch):
    kintsugi, slots = searching
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with ThreadingHTTPServer(("127.0.0.1", 0), Dying) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:secret@127.0.0.1:{server.server_port}")
        slots["before"] = lambda turn: (server.shutdown(), server.server_close())
        sentence = told(kintsugi(*WORDS, "--register", "digits", "--json"))
    assert f"MLflow at http://127.0.0.1:{server.server_port} cannot be used" in sentence
    assert "`kintsugi register scored/best --name digits --alias best --move --store " in sentence
    assert "secret" not in sentence


@pytest.mark.slow
def test_a_name_that_something_else_has_is_refused_before_anything_starts(tracked, tmp_path):
    tracked[0](*WORDS, "--register", "theirs").refused("theirs is a model in the registry that kintsugi did not make")
    assert not (tmp_path / "runs/objects").exists()


@pytest.mark.slow
def test_only_a_trial_that_was_stopped_early_is_called_stopped_in_mlflow(tracked):
    """A trial that lags, one for which there is no time any more, one that Tune lost, and one that finishes."""
    kintsugi, slots, client = tracked
    ends = [{}, {"late": True}, {"lost": "lost"}, None]

    def before(turn):
        end = ends[turn.trial.number]
        if end is not None:
            turn.stopped.set()
            for name, value in end.items():
                setattr(turn, name, value)

    slots["before"] = before
    words = ["search", "ridge", "--metric", "error", "--over", "penalty=choice(1.0, 2.0, 3.0, 4.0)"]
    assert kintsugi(*words, "--searcher", "grid").code == 0
    runs = client.search_runs([client.get_experiment_by_name("ridge").experiment_id])
    found = {run.info.run_name: (run.info.status, run.data.tags.get("kintsugi.ended")) for run in runs}
    assert {name: found[name] for name in found if name.startswith("trial")} == {
        "trial 0": ("KILLED", "stopped"),
        "trial 1": ("KILLED", None),
        "trial 2": ("KILLED", None),
        "trial 3": ("FINISHED", None),
    }


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--hours", "0"], ["--hours is 0: give more than 0"]),
        (["--hours", "nan"], ["--hours is nan"]),
        (["--register", "a/b"], ["the name 'a/b' cannot be a registry's"]),
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
