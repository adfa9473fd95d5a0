"""`kintsugi submit` and `preflight`: what cannot be sent is refused in one sentence before anybody is asked."""

from __future__ import annotations

import json
import os
import shlex
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
from ray.exceptions import AuthenticationError

from pipeline.config import ConfigError
from pipeline.engine import submission
from stages.verb_submit import ending, variables

COMMAND = ("--", "run", "plain", "--store", "s3://bucket/runs")


@pytest.fixture
def sends(kintsugi, monkeypatch):
    """The command line without a cluster's address; what is set for one is put back."""
    for name in submission.ADDRESSES:
        monkeypatch.setenv(name, "")  # and what `connect` sets is undone
    return kintsugi


@pytest.fixture
def answering():
    """`answering(status, body)`: the URL of a server that says this to whatever it is asked."""
    servers = []

    def start(status: int, body: str) -> str:
        class Answer(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, format, *args):
                pass

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Answer))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "there is no command to send"),
        (("--",), "there is no command to send"),
        (("--", "rnu", "plain"), "did you mean 'run'?"),
        (("--", "submit", "--", "run"), "submit runs here"),
        (("--wiat", *COMMAND), "did you mean '--"),
        (("--address", "http://head:8265", "run", "plain", "--store", "/a"), "no option 'run': put ` -- ` before"),
        (("--", "run", "plain"), "--store runs would be a folder of the job"),
        (("--", "run", "plain", "--store", "here"), "give an absolute path that all machines mount"),
        (("--", "run", "plain", "--store=/a", "--store=./b"), "--store ./b would be"),
        (("--", "data", "digits"), "--store runs would be a folder of the job"),
        (("--", "gc"), "--store runs would be a folder of the job"),
        (("--", "sample", "a/model", "--store", "/s"), "--out samples.png would be a file of the job"),
        (("--", "report", "a/model", "--store", "/s"), "--out story.html would be a file of the job"),
        (("--", "export", "a/model", "--store", "/s", "--out", "m.onnx"), "--out m.onnx would be a file of the job"),
        (("--address", "head:6379", *COMMAND), "port 6379 is where machines join"),
        (("--address", "ray://head", *COMMAND), "is no job server"),
        (("--env", "NOBODY_SET_THIS", *COMMAND), "is not set here"),
        (("--env", "a b=c", *COMMAND), "is no name of a variable"),
        (("--working-dir", "nowhere", *COMMAND), "--working-dir nowhere is no folder"),
        ((*COMMAND, "--config", "/etc/hosts"), "is not below"),
        ((*COMMAND, "--config", "nowhere.yaml"), "is no file below"),
    ],
)
def test_what_cannot_be_sent_is_refused(sends, words, said):
    sends("submit", *words).refused(said)


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("file:///runs", "MLFLOW_TRACKING_URI is a folder"),
        ("./mlruns", "MLFLOW_TRACKING_URI is a folder"),
        ("sqlite:///mlflow.db", "would be a file of the job"),
    ],
)
def test_a_folder_for_mlflow_or_a_file_of_the_job_is_refused(sends, monkeypatch, tmp_path, uri, said):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    words = ("submit", "--dry-run", "--", "run", "plain", "--store", str(tmp_path))
    sends(*words).refused(said, "name a server")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    assert sends(*words).code == 0


def test_a_package_over_the_limit_names_its_largest_files(sends, monkeypatch, tmp_path):
    (tmp_path / "sent").mkdir()
    for name, size in {"small": 10, "large.npy": 3 << 20, "larger.npy": 4 << 20}.items():
        (tmp_path / "sent" / name).write_bytes(bytes(size))
    monkeypatch.setattr(submission, "limit", lambda: 5 << 20)
    words = ("submit", "--dry-run", "--working-dir", "sent")
    sends(*words, *COMMAND).refused("packs to 7.0 MiB", "takes 5 MiB", "larger.npy 4.0 MiB, large.npy 3.0 MiB, small")
    assert sends(*words, "--exclude", "larger.npy", *COMMAND).code == 0


def test_nothing_answers(sends):
    sends("submit", "--address", "http://127.0.0.1:9", *COMMAND).refused(
        "no Ray cluster answers at 127.0.0.1:9", "start it"
    )


VERSION = json.dumps({"version": "4", "ray_version": "1.13.0", "ray_commit": "", "session_name": ""})


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (401, "Unauthorized", "asks for a token: set RAY_AUTH_MODE=token"),
        (403, "Forbidden", "refuses this token"),
        (404, "", "is no Ray job server"),
        (500, "", "is no Ray job server"),
        (200, "<p>hello</p>", "is no Ray job server"),
        (200, "{}", "is no Ray job server"),
        (200, VERSION.replace("1.13.0", "2.9.0"), "runs Ray 2.9.0 and this machine"),
    ],
)
def test_what_answers_and_is_no_cluster_of_ours_is_refused(sends, answering, status, body, said):
    url = answering(status, body)
    sends("submit", "--address", url, *COMMAND).refused(said, url)


@pytest.mark.parametrize(
    "said",
    [
        "RAY_AUTH_TOKEN_PATH is set but file cannot be opened or is empty: /home/me/none. Ensure that",
        "Token authentication is enabled but no authentication token was found. Ensure that",
    ],
)
def test_a_token_that_is_not_there_is_not_taken_for_a_wrong_server(monkeypatch, said):
    """Ray's own words for a file that is missing or empty, and for none named."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    found = submission.refusal("http://h:8265", AuthenticationError(said))
    assert "no token is found" in found
    assert "set RAY_AUTH_TOKEN_PATH to its file" in found


def test_a_dry_run_asks_nobody_and_prints_one_command(sends, monkeypatch):
    monkeypatch.setenv("KINTSUGI_DEBUG", "1")
    monkeypatch.setenv("HUSH", "hush")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "a secret")
    said = sends("submit", "--address", "http://127.0.0.1:9", "--dry-run", "--env", "API_KEY=1", *COMMAND)
    assert said.code == 0
    words = shlex.split(said.out)
    assert said.out.count("\n") == 1
    assert words[words.index("--") + 1 :] == ["python", "-m", "stages", "preflight", *COMMAND]
    environment = json.loads(words[words.index("--runtime-env-json") + 1])
    sent = environment["env_vars"].keys()
    assert {"KINTSUGI_DEBUG", "KINTSUGI_VERSIONS", "RAY_JOB_STOP_WAIT_TIME_S", "API_KEY"} <= sent
    assert not {"HUSH", "MLFLOW_TRACKING_TOKEN", "PATH", "HOME"} & sent
    assert environment["env_vars"]["API_KEY"] == "***"
    assert "put the values of API_KEY where ***" in said.err


def test_a_recipe_that_is_not_in_what_is_sent_is_refused_before_it_is(sends, tmp_path):
    at = ("submit", "--address", "http://127.0.0.1:9", "--dry-run")
    sends(*at, "--", "run", "partial_veiws", "--store", "/s").refused("no recipe 'partial_veiws'", "'partial_views'")
    recipes = tmp_path / "stages" / "recipes"
    recipes.mkdir(parents=True)
    (recipes / "mine.py").write_text("")
    there = (*at, "--working-dir", str(tmp_path), "--")
    assert sends(*there, "run", "mine", "--store", "/s").code == 0, "a recipe of another checkout"
    sends(*there, "run", "plain", "--store", "/s").refused("no recipe 'plain'")
    sends(*at, "--env", "KINTSUGI_VERSIONS={}", *COMMAND).refused("KINTSUGI_VERSIONS", "--any-version")


def test_secrets_are_sent_if_they_are_asked_for_and_not_otherwise():
    here = {"MLFLOW_TRACKING_URI": "http://h", "MLFLOW_TRACKING_PASSWORD": "p", "KINTSUGI_A": "1", "RAY_TRAIN_B": "2"}
    here |= {"AWS_SECRET_ACCESS_KEY": "s", "RAY_AUTH_TOKEN": "t", "PATH": "/bin", "KINTSUGI_API_KEY": "k"}
    plain = variables([], here)
    assert plain.keys() - {"RAY_JOB_STOP_WAIT_TIME_S"} == {"MLFLOW_TRACKING_URI", "KINTSUGI_A", "RAY_TRAIN_B"}
    asked = variables(["AWS_SECRET_ACCESS_KEY", "X=a=b", "KINTSUGI_A="], here)
    assert asked == plain | {"AWS_SECRET_ACCESS_KEY": "s", "X": "a=b", "KINTSUGI_A": ""}
    signed = {"MLFLOW_TRACKING_URI": "http://me:hush@h"}
    with pytest.raises(ConfigError, match=r"holds a password, .*--env MLFLOW_TRACKING_URI") as refused:
        variables([], signed)
    assert "hush" not in str(refused.value)
    assert variables(["MLFLOW_TRACKING_URI"], signed)["MLFLOW_TRACKING_URI"] == "http://me:hush@h"


@pytest.fixture
def cluster(monkeypatch) -> Callable:
    """`cluster(follow)`: one that takes every job; `follow` is what becomes of it."""

    def there(follow: Callable) -> SimpleNamespace:
        client = SimpleNamespace(submit_job=lambda **what: "raysubmit_1")
        monkeypatch.setattr(submission, "connect", lambda url: client)
        monkeypatch.setattr(submission, "follow", follow)
        return client

    return there


def test_the_log_is_shown_and_the_exit_code_is_the_jobs(sends, cluster):
    def follow(client, job, write):
        write("said by the job\n")
        return 3, "failed with exit code 3, last available logs (truncated):\nsaid by the job"

    cluster(follow)
    said = sends("submit", *COMMAND)
    assert (said.code, said.out) == (3, "said by the job\n")
    assert "job raysubmit_1 ended with exit code 3: failed with exit code 3\n" in said.err
    assert sends("submit", "--follow", "raysubmit_1").code == 3
    said = sends("submit", "--no-wait", *COMMAND)
    assert (said.code, said.out) == (0, "raysubmit_1\n")


def test_an_interrupt_ends_the_watching_and_says_how_to_end_the_job(sends, cluster):
    def follow(client, job, write):
        raise KeyboardInterrupt

    cluster(follow)  # its client has no stop_job
    said = sends("submit", "--address", "http://head:1", *COMMAND)
    assert said.code == 130
    assert "kintsugi submit --address http://head:1 --follow raysubmit_1" in said.err
    assert "ray job stop --address http://head:1 raysubmit_1" in said.err
    assert "the same command" not in said.err, "which would send it again"


def test_a_python_without_our_packages_is_named():
    said = "exit code 1, last available logs:\nModuleNotFoundError: No module named 'fsspec'"
    assert ending(said) == "exit code 1, as its python has no fsspec: name one that has, by --python"
    assert ending("") == "Ray does not say why"


def test_a_preflight_elsewhere_compares_with_the_machine_that_submitted(sends, monkeypatch):
    monkeypatch.setenv("KINTSUGI_VERSIONS", json.dumps({"python": "2.7", "ray": "2.60.0"}))
    sends("preflight", "--", "ls").refused("versions differ: python is 2.7 here and 3.")
    monkeypatch.setenv("KINTSUGI_VERSIONS", "[")
    sends("preflight", "--", "ls").refused("KINTSUGI_VERSIONS is not a JSON object")
    monkeypatch.delenv("KINTSUGI_VERSIONS")
    sends("preflight", "run", "plain").refused("no option 'run': put ` -- ` before the command")
    sends("preflight", "--", "preflight").refused("preflight runs here, not on the cluster")
    assert "RAY_ADDRESS" in os.environ
