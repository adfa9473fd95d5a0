"""MLflow: away or not, a step runs; what it said arrives once, in order, without passwords."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import threading
import time
from types import SimpleNamespace

import mlflow
import pytest
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

from pipeline.data.manifest import Manifest
from pipeline.data.sources import Folder
from pipeline.engine import courier, track
from pipeline.engine.courier import Courier
from pipeline.engine.spool import waiting
from pipeline.engine.track import Subject, Tracking
from pipeline.graph import step
from pipeline.store import Store
from stages.evaluate import Evaluate
from stages.ingest import Ingest

STEP = step(Ingest(Folder("http://user:secret@host/x?sig=secret"), (1, 8, 8)), "ingest")


class Server:
    """What MlflowClient asks of a server, in memory; `away` makes every call fail."""

    def __init__(self):
        self.away, self.calls, self.lost, self.runs = False, 0, 0, {}

    def __getattribute__(self, name):
        call = object.__getattribute__(self, name)
        if callable(call) and not name.startswith("_"):
            self.calls += 1
            if self.away:
                raise ConnectionError("no answer from http://user:secret@host")
        return call

    def get_experiment_by_name(self, name):
        return None

    def create_experiment(self, name, artifacts, tags):
        return "1"

    def search_runs(self, experiments, text, max_results, order_by):
        key = text.split("'")[1]
        found = [name for name, run in self.runs.items() if run["tags"]["kintsugi.address"] == key]
        return [SimpleNamespace(info=SimpleNamespace(run_id=name), data=self._data(name)) for name in found]

    def _data(self, run):
        made = self.runs[run]
        metrics = {key: 0.0 for key, *_ in made["points"]}
        return SimpleNamespace(metrics=metrics, tags=made["tags"], params=made["params"])

    def update_run(self, run, status):
        self.runs[run]["status"] = status

    def set_terminated(self, run, status, end_time):
        self.runs[run] |= {"status": status, "end": end_time}

    def create_run(self, experiment, start_time, run_name, tags):
        name = f"run-{len(self.runs) + 1}"
        self.runs[name] = {"name": run_name, "tags": tags, "start": start_time, "status": "RUNNING"}
        self.runs[name] |= {"points": [], "params": {}, "files": {}, "inputs": []}
        return SimpleNamespace(info=SimpleNamespace(run_id=name))

    def log_batch(self, run, metrics=(), params=()):
        assert len(metrics) <= 1000
        assert len(params) <= 100
        self.runs[run]["params"] |= {param.key: param.value for param in params}
        self.runs[run]["points"] += [(metric.key, metric.value, metric.step) for metric in metrics]
        self.lost -= 1
        if not self.lost:
            raise TimeoutError("the answer was lost")

    def log_inputs(self, run, datasets):
        self.runs[run]["inputs"] += [one.dataset for one in datasets]

    def log_artifact(self, run, path):
        with open(path, "rb") as file:
            self.runs[run]["files"][path.split("/")[-1]] = file.read()

    def get_run(self, run):
        return SimpleNamespace(data=self._data(run))

    def set_tag(self, run, key, value):
        self.runs[run]["tags"][key] = value

    def get_metric_history(self, run, key):
        return [SimpleNamespace(key=k, step=at) for k, _, at in self.runs[run]["points"] if k == key]

    @property
    def run(self):
        (only,) = self.runs.values()
        return only


@pytest.fixture
def server(monkeypatch):
    made = Server()
    monkeypatch.setattr(mlflow, "MlflowClient", lambda tracking_uri: made)
    monkeypatch.setattr(Courier, "start", lambda self: None)  # tests take its turns themselves
    monkeypatch.setattr(track, "_now", itertools.count(1000).__next__)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@host")
    return made


@pytest.fixture
def tracked(server, tmp_path):
    """A tracking of the store, which ends as its process does."""
    return lambda: Tracking(Store(str(tmp_path)), "recipe")


def ended(tracking):
    """The tracking's process ends, with a last attempt to deliver."""
    tracking.courier.turn()
    tracking.__exit__(None, None, None)


def spooled(tmp_path):
    return [name for name in Store(str(tmp_path)).place.names() if name.startswith("tracking/")]


def test_a_step_is_one_run_with_flat_parameters_and_no_password(server, tracked):
    tracking = tracked()
    with tracking.run(STEP) as run:
        run.metrics({"loss": 2.0}, at=10)
        run.picture("a/b.png", b"png")
        run.card("card", {"x": 1})
    ended(tracking)
    made = server.run
    assert (made["name"], made["status"]) == ("ingest", "FINISHED")
    assert made["start"] < made["end"]
    assert made["points"] == [("loss", 2.0, 10)]
    assert made["files"]["b.png"] == b"png"
    assert json.loads(made["files"]["card.json"]) == {"x": 1}
    assert made["params"]["source.url"] == "http://host/x"
    assert made["tags"]["kintsugi.fingerprint"] == STEP.fingerprint
    assert "secret" not in str(server.runs)


def test_a_step_names_what_it_was_made_from_and_the_sets_it_read(server, tracked, tmp_path):
    store = Store(str(tmp_path))
    with store.writing(STEP) as out:
        Manifest.of([3], (1, 8, 8), "uint8").write(out)
    child = step(Evaluate(STEP, STEP), "child")
    tracking = tracked()
    with tracking.run(child):
        pass
    ended(tracking)
    assert server.run["tags"]["kintsugi.needs.model"] == STEP.address
    data = server.run["inputs"][0]
    assert (data.name, data.digest) == ("ingest", STEP.fingerprint)
    assert json.loads(data.profile) == {"rows": 3, "shape": [1, 8, 8], "dtype": "uint8"}


@pytest.mark.parametrize("away", [(0,), (0, 1), (1, 2), (3,), (0, 1, 2, 3, 4), ()])
def test_a_server_that_is_away_for_a_while_loses_nothing(server, tracked, away, caplog, tmp_path):
    tracking = tracked()
    with caplog.at_level(logging.WARNING), tracking.run(STEP) as run:
        for at in range(5):
            server.away = at in away
            run.metrics({"loss": float(at)}, at=at)
            run.picture(f"{at}.png", bytes([at]))
            assert tracking.courier.turn() != server.away
        server.away = False
    ended(tracking)
    assert server.run["points"] == [("loss", float(at), at) for at in range(5)]
    assert server.run["files"] == {f"{at}.png": bytes([at]) for at in range(5)}
    assert server.run["status"] == "FINISHED"
    assert len(caplog.records) == bool(away), "said once"
    assert "secret" not in caplog.text
    assert spooled(tmp_path) == []


def test_an_answer_that_is_lost_makes_no_point_twice(server, tracked):
    tracking = tracked()
    with tracking.run(STEP) as run:
        tracking.courier.turn()
        for at in range(1, 4):
            run.metrics({"loss": float(at)}, at=at)
        server.lost = 1
        assert not tracking.courier.turn()
        run.metrics({"loss": 4.0}, at=4)
    ended(tracking)
    assert server.run["points"] == [("loss", float(at), at) for at in range(1, 5)]


@pytest.mark.parametrize("killed", [False, True])
def test_what_a_dead_process_could_not_say_is_said_by_the_next(server, tracked, tmp_path, killed, caplog):
    """A parent and its child, made while the server was away: parents, times and statuses are those of then."""
    server.away, tracking = True, tracked()
    whole = Subject("search/x", "search")
    with tracking.of(whole) as parent, tracking.of(Subject("search/x/1", "trial 1", parent=parent)) as child:
        child.metrics({"loss": 1.0}, at=1)
        child.picture("a.png", b"png")
        child.warn("odd")
        if killed:  # with letters on disk, and without having said an end
            tracking.courier.turn()
            tracking.courier.spool.close()
            tracking.courier._abandoned = True  # the dead write nothing
        else:
            tracking.courier.turn()
            child.metrics({"loss": 2.0}, at=2)
    if not killed:
        ended(tracking)
        assert "wait in" in caplog.text
    assert waiting(Store(str(tmp_path)).place / "tracking").keys() == {"recipe/search", "recipe/trial 1"}
    server.away, again = False, tracked()
    ended(again)
    search, trial = server.runs["run-1"], server.runs["run-2"]
    assert trial["tags"]["mlflow.parentRunId"] == "run-1"
    assert trial["points"] == [("loss", 1.0, 1), ("loss", 2.0, 2)][: 1 if killed else 2]
    assert trial["files"] == {"a.png": b"png"}
    assert trial["tags"]["kintsugi.warnings"] == "odd"
    assert search["status"] == trial["status"] == ("KILLED" if killed else "FINISHED")
    assert search["start"] <= trial["start"] < trial["end"] < next(track._now.__self__)
    assert spooled(tmp_path) == []
    before = json.dumps(server.runs, default=repr)
    ended(tracked())
    assert json.dumps(server.runs, default=repr) == before


def test_warnings_are_a_tag_to_which_a_later_attempt_adds(server, tracked):
    for attempt in ("first", "second"):
        tracking = tracked()
        with tracking.run(STEP) as run:
            run.warn(f"{attempt}: http://user:secret@host is odd")
            server.away = True
            tracking.courier.turn()
            run.warn(f"{attempt}: again")
            server.away = False
        ended(tracking)
    lines = [f"{name}: {what}" for name in ("first", "second") for what in ("http://host is odd", "again")]
    assert server.run["tags"]["kintsugi.warnings"] == "\n".join(lines)


def test_nobody_waits_for_a_server_that_never_answers(tracked, tmp_path, monkeypatch):
    """One that takes a connection and says nothing: closing gives up on it, and what it was to hear is on disk."""
    monkeypatch.undo()
    monkeypatch.setattr(courier, "FLUSH_SECONDS", 0.0)
    silent, gone = threading.Event(), threading.Event()

    def search(*args, **kwargs):
        silent.set()
        gone.wait()
        raise TimeoutError

    monkeypatch.setattr(
        mlflow, "MlflowClient", lambda tracking_uri: SimpleNamespace(search_runs=None, get_experiment_by_name=search)
    )
    with Tracking(Store(str(tmp_path)), "recipe", patience=0.1) as tracking, tracking.run(STEP) as run:
        assert silent.wait(60)
        run.metrics({"loss": 1.0}, at=1)
    assert waiting(Store(str(tmp_path)).place / "tracking") == {"recipe/ingest": 3}
    gone.set()
    tracking.courier._thread.join(60)
    assert waiting(Store(str(tmp_path)).place / "tracking") == {"recipe/ingest": 3}, "what was given up stays so"


def test_what_mlflow_refuses_is_lost_alone(server, tracked, caplog, monkeypatch):
    tracking = tracked()
    with tracking.run(STEP) as run:
        run.metrics({"loss": 1.0}, at=1)
        run.warn("no")
        run.card("card", {})

        def refuse(*args):
            raise mlflow.MlflowException("no tags here", INVALID_PARAMETER_VALUE)

        monkeypatch.setattr(server, "set_tag", refuse, raising=False)
        assert tracking.courier.turn()
    assert "will not have what run ingest/" in caplog.text
    assert (server.run["points"], list(server.run["files"])) == ([("loss", 1.0, 1)], ["card.json"])


def test_more_metrics_than_one_delivery_holds_all_arrive(server, tracked):
    tracking = tracked()
    with tracking.run(STEP) as run:
        for at in range(1, 2501):
            run.metrics({"loss": 0.0}, at=at)
    ended(tracking)
    assert [at for _, _, at in server.run["points"]] == list(range(1, 2501))


@pytest.mark.parametrize("away", [False, True])
def test_a_restarted_step_continues_its_run_and_never_goes_back(server, tracked, away):
    tracking = tracked()
    with contextlib.suppress(RuntimeError), tracking.run(STEP) as run:
        run.metrics({"loss": 1.0}, at=10)
        run.metrics({"loss": 2.0, "rate": 5.0}, at=20)
        raise RuntimeError
    ended(tracking)
    assert server.run["status"] == "FAILED"
    server.away, tracking = away, tracked()
    with tracking.run(STEP) as run:
        run.metrics({"loss": 9.0, "rate": 9.0, "new": 9.0}, at=20)
        tracking.courier.turn()
        server.away = False
        run.metrics({"loss": 3.0}, at=30)
    ended(tracking)
    assert server.run["status"] == "FINISHED"
    losses = [("loss", 1.0, 10), ("loss", 2.0, 20), ("loss", 3.0, 30)]
    assert sorted(server.run["points"]) == sorted([*losses, ("rate", 5.0, 20), ("new", 9.0, 20)])


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("file:///runs", "is a folder"),
        ("~/mlruns", "is a folder"),
        ("htp://user:secret@host", "is htp://host, which MLflow does not know"),
        ("localhost:5000", "which MLflow does not know"),
        ("http:/host", "no host"),
        ("http://host:port", "no port"),
        ("sqlite:mlflow.db", "names no database"),
    ],
)
def test_an_address_that_is_none_is_refused_in_one_sentence(kintsugi, monkeypatch, uri, said):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    refused = kintsugi("track")
    refused.refused("MLFLOW_TRACKING_URI", said, "name a server, http://HOST:PORT, or a database")
    assert "secret" not in refused.err


def test_a_remote_store_needs_a_server_by_name(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ValueError, match="name an MLflow server in MLFLOW_TRACKING_URI"):
        track.default_uri(Store("memory://x"))


@pytest.mark.slow
def test_the_database_of_a_local_store_is_quiet_and_keeps_the_run(tmp_path, monkeypatch, capfd):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    store = Store(str(tmp_path))
    for values in ({"loss": 2.0}, {"loss": 1.0}):
        with Tracking(store, "recipe") as tracking, tracking.run(STEP) as run:
            run.metrics(values, at=int(10 / values["loss"]))
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    (found,) = client.search_runs([client.get_experiment_by_name("recipe").experiment_id])
    assert found.data.tags["kintsugi.address"] == STEP.address
    assert found.info.status == "FINISHED"
    assert [point.step for point in client.get_metric_history(found.info.run_id, "loss")] == [5, 10]
    assert capfd.readouterr().err == ""


def test_runs_that_begin_together_make_the_database_one_after_the_other(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    inside, met = threading.Lock(), []

    def client(tracking_uri):
        met.append(not inside.acquire(blocking=False))
        time.sleep(0.05)
        inside.release()

    monkeypatch.setattr(mlflow, "MlflowClient", client)
    store = Store(str(tmp_path))
    threads = [threading.Thread(target=Tracking, args=(store, "recipe")) for _ in range(3)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert met == [False] * 3
    assert store.place.names() == []
