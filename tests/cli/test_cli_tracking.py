"""MLflow: away or not, a step runs; what it said arrives once, in order, without passwords."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from types import SimpleNamespace

import mlflow
import pytest

from pipeline.data.sources import Folder
from pipeline.engine import track
from pipeline.engine.track import Tracking
from pipeline.graph import step
from pipeline.store import Store
from stages.ingest import Ingest

STEP = step(Ingest(Folder("http://user:secret@host/x?sig=secret"), (1, 8, 8)), "ingest")


class Server:
    """What MlflowClient asks of a server, in memory; `away` makes every call fail."""

    def __init__(self):
        self.away, self.calls, self.params = False, 0, {}
        self.points: list[tuple[str, float, int]] = []
        self.files: dict[str, bytes] = {}
        self.tags: dict[str, str] = {}
        self.runs: list[str] = []
        self.status = ""

    def __getattribute__(self, name):
        call = object.__getattribute__(self, name)
        if callable(call) and not name.startswith("_"):
            self.calls += 1
            if self.away:
                raise ConnectionError("no answer from http://user:secret@host")
        return call

    def get_experiment_by_name(self, name):
        return None

    def create_experiment(self, name, artifacts):
        return "1"

    def search_runs(self, experiments, text, max_results):
        found = SimpleNamespace(params={"a": 1})
        return [SimpleNamespace(info=SimpleNamespace(run_id=run), data=found) for run in self.runs]

    def update_run(self, run, status):
        self.status = status

    set_terminated = update_run

    def create_run(self, experiment, run_name, tags):
        self.runs.append("run-1")
        return SimpleNamespace(info=SimpleNamespace(run_id="run-1"))

    def log_batch(self, run, metrics=(), params=()):
        assert len(metrics) <= 1000
        assert len(params) <= 100
        self.params |= {param.key: param.value for param in params}
        self.points += [(metric.key, metric.value, metric.step) for metric in metrics]

    def log_artifact(self, run, path):
        with open(path, "rb") as file:
            self.files[path.split("/")[-1]] = file.read()

    def get_run(self, run):
        return SimpleNamespace(data=SimpleNamespace(metrics={key: 0.0 for key, _, _ in self.points}, tags=self.tags))

    def set_tag(self, run, key, value):
        self.tags[key] = value

    def get_metric_history(self, run, key):
        return [SimpleNamespace(key=k, step=at) for k, _, at in self.points if k == key]


@pytest.fixture
def server(monkeypatch):
    made = Server()
    monkeypatch.setattr(mlflow, "MlflowClient", lambda tracking_uri: made)
    monkeypatch.setattr(track, "FLUSH_SECONDS", 0.0)
    monkeypatch.setattr(track, "AWAY_SECONDS", 0.0)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@host")
    return made


@pytest.fixture
def tracking(server, tmp_path):
    return lambda: Tracking(Store(str(tmp_path)), "recipe").run


def test_a_step_is_one_run_with_flat_parameters_and_no_password(server, tracking):
    with tracking()(STEP) as run:
        run.metrics({"loss": 2.0}, at=10)
        run.picture("a/b.png", b"png")
        run.card("card.json", {"x": 1})
    assert (server.runs, server.status) == (["run-1"], "FINISHED")
    assert server.points == [("loss", 2.0, 10)]
    assert server.files["b.png"] == b"png"
    assert json.loads(server.files["card.json"]) == {"x": 1}
    assert server.params["source.url"] == "http://host/x"
    assert "secret" not in str(server.params)


@pytest.mark.parametrize("away", [(0,), (0, 1), (1, 2), (3,), ()])
def test_a_server_that_is_away_for_a_while_loses_nothing(server, tracking, away, caplog):
    server.away = 0 in away
    with caplog.at_level(logging.WARNING), tracking()(STEP) as run:
        for at in range(1, 5):
            server.away = at in away
            run.metrics({"loss": float(at)}, at=at)
            run.picture(f"{at}.png", bytes([at]))
        server.away = False
    assert server.points == [("loss", float(at), at) for at in range(1, 5)]
    assert server.files == {f"{at}.png": bytes([at]) for at in range(1, 5)}
    assert server.status == "FINISHED"
    assert len(caplog.records) == bool(away), "said once"
    assert "secret" not in caplog.text


def test_warnings_are_a_tag_to_which_a_later_attempt_adds(server, tracking):
    for attempt in ("first", "second"):
        with tracking()(STEP) as run:
            run.warn(f"{attempt}: http://user:secret@host is odd")
            server.away = True
            run.metrics({"loss": 1.0}, at=1)
            run.warn(f"{attempt}: again")
            server.away = False
    lines = [f"{name}: {what}" for name in ("first", "second") for what in ("http://host is odd", "again")]
    assert server.tags == {"kintsugi.warnings": "\n".join(lines)}


def test_a_server_that_never_answers_stops_nothing(server, tracking):
    server.away = True
    with tracking()(STEP) as run:
        run.metrics({"loss": 1.0}, at=1)
    assert server.points == []


def test_more_metrics_than_one_delivery_holds_all_arrive(server, tracking, monkeypatch):
    monkeypatch.setattr(track, "FLUSH_SECONDS", 100.0)
    with tracking()(STEP) as run:
        for at in range(1, 2501):
            run.metrics({"loss": 0.0}, at=at)
    assert [at for _, _, at in server.points] == list(range(1, 2501))


@pytest.mark.parametrize("away", [False, True])
def test_a_restarted_step_continues_its_run_and_never_goes_back(server, tracking, away):
    with contextlib.suppress(RuntimeError), tracking()(STEP) as run:
        run.metrics({"loss": 1.0}, at=10)
        run.metrics({"loss": 2.0, "rate": 5.0}, at=20)
        raise RuntimeError
    assert server.status == "FAILED"
    server.away = away
    with tracking()(STEP) as run:
        run.metrics({"loss": 9.0, "rate": 9.0, "new": 9.0}, at=20)
        server.away = False
        run.metrics({"loss": 3.0}, at=30)
    assert server.runs == ["run-1"]
    assert server.status == "FINISHED"
    losses = [("loss", 1.0, 10), ("loss", 2.0, 20), ("loss", 3.0, 30)]
    assert sorted(server.points) == sorted([*losses, ("rate", 5.0, 20), ("new", 9.0, 20)])


def test_a_remote_store_needs_a_server_by_name(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ValueError, match="name an MLflow server in MLFLOW_TRACKING_URI"):
        track.default_uri(Store("memory://x"))


@pytest.mark.slow
def test_the_database_of_a_local_store_is_quiet_and_keeps_the_run(tmp_path, monkeypatch, capfd):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    store = Store(str(tmp_path))
    for values in ({"loss": 2.0}, {"loss": 1.0}):
        with Tracking(store, "recipe").run(STEP) as run:
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
