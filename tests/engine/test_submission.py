"""What is sent to a cluster is what is shown, no more and no less; a job's log arrives whole, with its exit code."""

from __future__ import annotations

import json
import shlex
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.engine import submission
from pipeline.engine.submission import Job, exit_code, follow, server, submit

ROOT = Path(__file__).resolve().parents[2]
WORD = st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), min_size=1, max_size=12)


class Client:
    """What Ray's client is asked for; `log` is what the job says, in the pieces of each connection."""

    def __init__(self, connections=(("",),), status="SUCCEEDED", code=0, error=RuntimeError("closed")):
        self.connections, self.status, self.code, self.error = list(connections), status, code, error
        self.sent: dict = {}
        self.stopped = False

    def submit_job(self, **what):
        self.sent = what
        return "job"

    def stop_job(self, job):
        self.stopped = True

    def get_job_info(self, job):
        status = "RUNNING" if self.connections else self.status
        return SimpleNamespace(status=status, driver_exit_code=self.code, message="")

    async def tail_job_logs(self, job):
        pieces = self.connections.pop(0)
        for piece in pieces:
            yield piece
        if self.connections and self.error:
            raise self.error


@given(st.lists(WORD, min_size=1), st.dictionaries(st.from_regex(r"[A-Z_]+", fullmatch=True), WORD), WORD)
def test_the_command_that_is_shown_sends_what_is_sent(words, variables, folder):
    from ray.dashboard.modules.job.cli import submit as ray_submit

    job = Job(("python", *words), folder, variables, name="a b")
    assigned, *shell = shlex.split(job.command("http://h:1"))
    assert assigned == "RAY_API_SERVER_ADDRESS=http://h:1"
    assert shell[:3] == ["ray", "job", "submit"]
    shown = ray_submit.make_context("submit", shell[3:]).params
    submit(client := Client(), job)  # pyright: ignore[reportArgumentType]
    assert json.loads(shown["runtime_env_json"]) == client.sent["runtime_env"]
    assert shlex.join(shown["entrypoint"]) == client.sent["entrypoint"]
    assert shown["submission_id"] == client.sent["submission_id"]
    assert shown["working_dir"] is shown["metadata_json"] is None


def test_hidden_values_are_not_in_the_command_and_the_rest_is():
    job = Job(("python",), ".", {"KEY": "hush", "A": "b"})
    shown = job.command("http://h", hidden=("KEY",))
    assert "hush" not in shown
    assert '"A": "b"' in shown


def test_what_is_counted_is_what_ray_packs(tmp_path):
    from ray._private.ray_constants import get_runtime_env_default_excludes
    from ray._private.runtime_env.packaging import create_package

    names = ["a.py", "pipeline/data/b.py", "data/c.npy", "runs/d", "x/runs/e", ".git/f", "x/__pycache__/g", "mlflow.db"]
    names += ["kintsugi.egg-info/h", "secret.txt", "x/.ruff_cache/i", "x/big.bin", "mlruns/j", "docs/k.md"]
    for i, name in enumerate(names):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(bytes(i))
    (tmp_path / ".gitignore").write_text("secret.txt\n")
    job = Job(("python",), str(tmp_path), excludes=(*submission.EXCLUDES, "docs"))
    found = job.files()
    assert set(found) == {"a.py", "pipeline/data/b.py", "x/runs/e", "x/big.bin", ".gitignore"}
    excludes = [*get_runtime_env_default_excludes(), *job.excludes]
    create_package(str(tmp_path), tmp_path / "made.zip", True, excludes=[*excludes, "made.zip"])
    packed = {entry.filename: entry.file_size for entry in zipfile.ZipFile(tmp_path / "made.zip").infolist()}
    assert found == {name: size for name, size in packed.items() if not name.endswith("/")}


def test_the_checkout_is_packed_whole_and_small():
    found = Job(("python",), str(ROOT)).files()
    assert {"stages/__main__.py", "pipeline/data/__init__.py", "pyproject.toml"} <= set(found)
    assert not any(name.startswith((".git/", ".venv/", "runs/")) for name in found)
    assert sum(found.values()) < 10 << 20 < submission.limit()


def test_a_log_whose_connection_is_lost_arrives_once_and_whole(monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    said: list[str] = []
    client = Client([["one\n", "tw"], ["one\ntw"], ["one\n", "two\nthr", "ee\n"]], "FAILED", 7)
    assert follow(client, "job", said.append) == (7, "")
    assert "".join(said) == "one\ntwo\nthree\n"


def test_a_log_may_end_often_before_its_job_and_be_lost_as_often_as_it_came_back(monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    client = Client([["a"]] * 50, error=None)
    ask, asked = client.get_job_info, iter(range(10**6))

    def sometimes(job):
        if next(asked) % 3 == 1:
            raise OSError("away")
        return ask(job)

    client.get_job_info = sometimes
    assert follow(client, "job", print) == (0, "")


def test_a_cluster_that_is_gone_is_said_and_a_job_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with pytest.raises(ConnectionError, match="no longer answers"):
        follow(Client([[]] * 20), "job", print)
    with pytest.raises(ValueError, match="no job 'job'"):
        follow(Client([[]] * 2, error=RuntimeError("Job job does not exist")), "job", print)


@pytest.mark.parametrize(
    ("status", "code", "want"),
    [("SUCCEEDED", 0, 0), ("FAILED", 2, 2), ("FAILED", None, 1), ("FAILED", -9, 137), ("STOPPED", -15, 130)],
)
def test_the_exit_code_is_the_jobs(status, code, want):
    assert exit_code(status, code) == want


def test_the_address_is_what_is_given_then_the_environments_then_this_machine(monkeypatch):
    for name in submission.ADDRESSES:
        monkeypatch.delenv(name, raising=False)
    assert server() == "http://127.0.0.1:8265"
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")  # where machines join: no job server
    assert server() == "http://127.0.0.1:8265"
    monkeypatch.setenv("RAY_ADDRESS", "http://a:1")
    assert server() == "http://a:1"
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://b:2/")
    assert server() == "http://b:2"
    assert server("head") == "http://head:8265"
    assert server("https://c") == "https://c"
    for wrong in ("ray://c:1", "head:6379", "http://", "http://me:hush@head"):
        with pytest.raises(ValueError, match=r"sent to port 8265|is no job server|http://head holds a password"):
            server(wrong)


def test_a_cluster_that_has_only_just_started_is_waited_for(monkeypatch):
    """Its job server answers before any of its machines can take a job."""
    asked, slept = [], []

    class Starting:
        def submit_job(self, **job):
            asked.append(job)
            if len(asked) < 3:
                raise RuntimeError("Request failed with status code 500: No available agent to submit job, ...")
            return "job-1"

    monkeypatch.setattr("pipeline.engine.submission.time.sleep", slept.append)
    assert submit(Starting(), Job(("ls",), ".")) == "job-1"
    assert (len(asked), slept) == (3, [1, 1])
    monkeypatch.setattr(submission, "PATIENCE", -1.0)
    asked.clear()
    with pytest.raises(RuntimeError, match="No available agent"):
        submit(Starting(), Job(("ls",), "."))
