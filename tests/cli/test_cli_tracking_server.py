"""A real tracking server over HTTP: killed, started again, away from the beginning; a model registered there draws."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException

from pipeline.data.manifest import Manifest
from pipeline.data.sources import Folder
from pipeline.diffusion.sample import Heun, samples
from pipeline.engine import courier, track
from pipeline.engine.spool import waiting
from pipeline.engine.track import Subject, Tracking
from pipeline.graph import step
from pipeline.learning.weights import unpack
from pipeline.store import Store
from stages.evaluate import Evaluate
from stages.ingest import Ingest

pytestmark = pytest.mark.slow
DATA = step(Ingest(Folder("x"), (1, 8, 8)), "data")
STEP = step(Evaluate(DATA, DATA), "child")


class Server:
    """`mlflow server` on loopback, with a database and files of its own, which outlive it."""

    def __init__(self, folder):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.folder, self.process = folder, None
        self.uri = f"http://127.0.0.1:{self.port}"

    def start(self):
        if self.process is not None:
            return
        words = ["--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db", "--artifacts-destination", "files"]
        words += ["--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with open(self.folder / "server.log", "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", *words],
                cwd=self.folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={
                    **os.environ,
                    **quiet,
                    "PATH": f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}",
                },
            )
        until(self.answers, lambda: (self.folder / "server.log").read_text())

    def answers(self):
        with contextlib.suppress(OSError):
            return urllib.request.urlopen(f"{self.uri}/health", timeout=5).status == 200
        return False

    def kill(self):
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    made = Server(tmp_path_factory.mktemp("server"))
    yield made
    made.kill()


@pytest.fixture
def server(started, kintsugi, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:secret@127.0.0.1:{started.port}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(courier, "FLUSH_SECONDS", 0.05)
    monkeypatch.setattr(courier, "AWAY_SECONDS", 0.05)
    return started


def until(holds, said=lambda: "nothing"):
    end = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < end, said()
        time.sleep(0.1)


def store():
    made = Store("runs")
    with made.writing(DATA) as out:
        Manifest.of([3], (1, 8, 8), "uint8").write(out)
    return made


def run_of(client, key):
    experiments = [found.experiment_id for found in client.search_experiments()]
    (found,) = client.search_runs(experiments, f"tags.`kintsugi.address` = '{key}'")
    return found


def steps(client, run):
    return [point.step for point in client.get_metric_history(run.info.run_id, "loss")]


def test_what_no_server_heard_is_replayed_once_with_parent_status_and_times(server, kintsugi):
    server.kill()
    runs, before = store(), track._now()
    with (
        contextlib.suppress(RuntimeError),
        Tracking(runs, "away", patience=1.0) as tracking,
        tracking.of(Subject("parent", "whole")) as whole,
        tracking.of(Subject("child", "part", parent=whole)) as run,
    ):
        for at in range(20):
            run.metrics({"loss": 1.0 / (at + 1)}, at=at)
        run.picture("a.png", b"png")
        raise RuntimeError
    after = track._now()
    assert waiting(runs.place / "tracking").keys() == {"away/whole", "away/part"}
    server.start()
    time.sleep(0.01)
    replayed = kintsugi("track", "replay", "--json")
    assert replayed.json["waiting"] == {}, replayed.err
    assert replayed.json["sent"] > 20
    assert "secret" not in replayed.out + replayed.err
    assert "View run" not in replayed.out + replayed.err
    client = mlflow.MlflowClient(server.uri)
    part = run_of(client, "child")
    assert steps(client, part) == list(range(20))
    assert part.info.status == "FAILED"
    assert before <= part.info.start_time <= part.info.end_time <= after
    assert part.data.tags["mlflow.parentRunId"] == run_of(client, "parent").info.run_id
    assert [file.path for file in client.list_artifacts(part.info.run_id)] == ["a.png"]
    assert kintsugi("track", "replay", "--json").json == {"server": server.uri, "waiting": {}, "sent": 0}
    assert steps(client, run_of(client, "child")) == list(range(20))


def test_a_server_killed_in_the_middle_of_a_step_lacks_no_point_and_has_none_twice(server):
    server.start()
    runs = store()
    with Tracking(runs, "recipe", patience=120) as tracking, tracking.run(STEP) as run:
        for at in range(150):
            if at == 50:
                until(lambda: not tracking.courier._waiting())
                server.kill()
            if at == 100:
                until(lambda: waiting(runs.place / "tracking"))
                server.start()
            run.metrics({"loss": float(at)}, at=at)
            if at % 30 == 0:
                run.picture(f"{at}.png", b"png")
        run.card("card", {"n": 1})
    client = mlflow.MlflowClient(server.uri)
    found = run_of(client, STEP.address)
    assert steps(client, found) == list(range(150))
    files = {file.path for file in client.list_artifacts(found.info.run_id)}
    assert files == {f"{at}.png" for at in range(0, 150, 30)} | {"card.json"}
    assert found.info.status == "FINISHED"
    (data,) = {(one.dataset.name, one.dataset.digest) for one in found.inputs.dataset_inputs}
    assert data == ("data", DATA.fingerprint)
    assert found.data.tags["kintsugi.needs.model"] == DATA.address
    assert waiting(runs.place / "tracking") == {}


def test_a_registered_model_draws_what_sample_draws_and_holds_no_pickle(server, alone, toy, tmp_path):
    server.start()
    assert alone("run", "model", "--classes", "3").code == 0
    words = ("register", "model/model", "--name", "noise")
    said = alone(*words, "--alias", "best", "--json")
    assert (said.json["uri"], said.json["new"]) == ("models:/noise/1", True), said.err
    assert (alone(*words, "--json").json["uri"], alone(*words, "--json").json["new"]) == ("models:/noise/1", False)
    mlflow.set_tracking_uri(server.uri)
    (tmp_path / "model").mkdir()
    drawing = mlflow.pyfunc.load_model("models:/noise@best", dst_path=str(tmp_path / "model"))
    asked = [{"n": 3, "seed": 5, "steps": 2, "label": 1}, {"n": 1, "seed": 0, "steps": 3, "label": 2}]
    images = drawing.predict(pd.DataFrame(asked))
    D = unpack(Store("runs").artifact(said.json["model"]).read)
    drawn = [
        samples(D, Heun(one["steps"]), (1, 8, 8), range(one["n"]), one["seed"], cond=np_labels(one)) for one in asked
    ]
    want = np.concatenate([((x.clamp(-1, 1) + 1) * 127.5).round().byte().numpy() for x in drawn])
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(images, want)
    assert not np.array_equal(images[:3], drawing.predict(pd.DataFrame([{**asked[0], "label": 0}])))
    files = [path for path in (tmp_path / "model").rglob("*") if path.is_file() and path.parent.name != "__pycache__"]
    kinds = {path.suffix for path in files}  # Python has its own beside what it has imported
    assert kinds <= {".py", ".json", ".safetensors", ".yaml", ".txt", ""}
    for wrong in ({"n": 0}, {"n": 5000}):
        with pytest.raises(MlflowException, match="give 1 to 4096 in all"):
            drawing.predict(pd.DataFrame([wrong]))

    assert alone("run", "model", "--side", "16").code == 0
    alone(*words).refused("noise is another model's, of images [1, 8, 8]", "take another name")
    assert alone("run", "model", "--classes", "4").code == 0
    alone(*words, "--alias", "best").refused("best is version 1's of noise", "--move")
    assert alone(*words, "--alias", "best", "--move", "--json").json["uri"] == "models:/noise/2"
    mlflow.MlflowClient(server.uri).create_registered_model("theirs")
    alone("register", "model/model", "--name", "theirs").refused("kintsugi did not make", "take another name")


def np_labels(one):
    import torch

    return torch.full((one["n"],), one["label"])
