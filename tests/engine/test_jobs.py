"""`kintsugi submit` to a cluster of two machines that `cluster/several.sh` starts here, behind a token."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from pipeline.store import Store

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.ray, pytest.mark.slow]


def free() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    """The environment of who may use the cluster."""
    from ray._private.utils import get_dashboard_dependency_error

    if get_dashboard_dependency_error() is not None:
        pytest.skip("jobs need ray[default]: pip install 'kintsugi[cluster]'")
    if not sys.platform.startswith("linux"):
        pytest.skip("several loopback addresses need Linux")
    short, home, ports = tempfile.mkdtemp(prefix="k", dir="/tmp"), tmp_path_factory.mktemp("home"), (free(), free())
    folders = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))}
    environment |= {"HOME": str(home), "PATH": folders, "RAY_TMPDIR": short, "RAY_worker_niceness": "0"}
    started = {"RAY_PORT": str(ports[0]), "RAY_DASHBOARD_PORT": str(ports[1]), "RAY_OBJECT_STORE": "100000000"}
    with open(home / "said", "w+") as said:
        script = subprocess.Popen(
            [str(ROOT / "cluster/several.sh"), "2", "3"],
            env=environment | started,
            stdout=said,
            stderr=subprocess.STDOUT,
        )
        try:
            until = time.monotonic() + 120
            while "kintsugi submit" not in (home / "said").read_text():
                assert script.poll() is None, (home / "said").read_text()
                assert time.monotonic() < until, (home / "said").read_text()
                time.sleep(0.2)
            assert (home / ".ray/several_token").stat().st_mode & 0o077 == 0
            token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(home / ".ray/several_token")}
            yield environment | token | {"RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{ports[1]}"}
        finally:
            script.send_signal(signal.SIGTERM)
            script.wait(timeout=60)
            shutil.rmtree(short, ignore_errors=True)


def kintsugi(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "stages", *words], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )


def test_a_recipe_runs_there_and_leaves_its_results_in_the_shared_store(there, tmp_path):
    store = str(tmp_path / "runs")
    command = ("run", "corrupted", "--store", store, "--json")
    ended = kintsugi(there, "submit", "--name", "first", "--", *command)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "preflight: 2 machines with 6 CPUs and 0 GPUs" in ended.stdout
    assert "versions match, all write and read the store, MLflow at sqlite:" in ended.stdout
    said = json.loads(ended.stdout.splitlines()[-1])
    assert said["recipe"] == "corrupted"
    assert said["steps"]["run"] == len(Store(store).addresses()) > 1
    assert not list(tmp_path.glob("runs/preflight*"))
    again = kintsugi(there, "submit", "--name", "first", "--", *command)
    assert again.returncode == 2
    assert "has a job 'first' already" in again.stderr


def test_a_store_that_is_not_shared_is_refused_and_the_jobs_own_exit_code_comes_back_to_who_watches_later(there):
    left = kintsugi(there, "submit", "--no-wait", "--", "run", "corrupted", "--store", "memory://runs")
    assert left.returncode == 0, left.stderr
    ended = kintsugi(there, "submit", "--follow", left.stdout.strip())
    assert ended.returncode == 2, ended.stdout + ended.stderr
    last = ended.stdout.splitlines()[-1]
    assert last.startswith("kintsugi: the store memory://runs is not shared: 127.0.0.")
    assert "127.0.0.2" in last
    assert "127.0.0.3" in last


@pytest.mark.parametrize(
    ("token", "said"),
    [
        ({"RAY_AUTH_MODE": "disabled"}, "asks for a token: set RAY_AUTH_MODE=token"),
        ({"RAY_AUTH_TOKEN": "0123456789abcdef0123456789abcdef"}, "refuses this token"),
        ({"RAY_AUTH_TOKEN_PATH": "/nowhere/token"}, "no token is found"),
    ],
)
def test_nobody_comes_in_without_the_token(there, token, said):
    refused = kintsugi(there | token, "submit", "--", "ls", "--store", "/tmp")
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert said in refused.stderr
