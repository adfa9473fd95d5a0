"""A store or data far away that cannot be reached: one sentence with what to do, and the right exit code."""

from __future__ import annotations

import errno
import socket
import sqlite3

import pytest

from stages.failures import explain

s3fs = pytest.importorskip("s3fs", reason="pip install kintsugi[s3]")
NOWHERE = "s3://kintsugi-nobody/runs"


@pytest.fixture
def no_credentials(monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    s3fs.S3FileSystem.clear_instance_cache()  # they keep the credentials that they began with
    yield
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def no_server(no_credentials, monkeypatch):
    with socket.socket() as taken:  # bound and not listening: whoever connects is refused
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{taken.getsockname()[1]}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        yield


@pytest.mark.parametrize("words", [("ls", "--store", NOWHERE), ("data", NOWHERE), ("run", "toy", "--store", NOWHERE)])
def test_without_credentials_the_command_cannot_be_used_as_it_is(kintsugi, toy, no_credentials, words):
    kintsugi(*words).refused("Unable to locate credentials", "the credentials in the environment")


@pytest.mark.slow
@pytest.mark.parametrize("words", [("ls", "--store", NOWHERE), ("data", NOWHERE)])
def test_a_server_that_does_not_answer_is_a_failure(kintsugi, no_server, words):
    kintsugi(*words).refused("Could not connect to the endpoint URL", "check the URL, the network", code=1)


def test_doctor_says_so_and_goes_on(kintsugi, no_credentials):
    said = kintsugi("doctor", "--json", "--store", NOWHERE)
    assert said.code == 1
    assert {"store"} <= set(said.json["failed"])
    assert "the credentials in the environment" in said.json["checks"]["store"]
    assert {"python", "packages", "device", "ray", "mlflow"} <= said.json["checks"].keys()


class Wrapped(RuntimeError):
    """What Ray makes of a failure elsewhere."""

    def __init__(self, cause: BaseException):
        super().__init__("a long story")
        self.cause = cause


def test_a_database_that_cannot_grow_is_a_full_disk(tmp_path):
    database = sqlite3.connect(tmp_path / "small.db")
    database.execute("PRAGMA max_page_count = 2")
    database.execute("CREATE TABLE t (x BLOB)")
    with pytest.raises(sqlite3.OperationalError) as full:
        database.execute("INSERT INTO t VALUES (zeroblob(100000))")
    sentence, code = explain(Wrapped(full.value))
    assert sentence.startswith("the disk is full: free some space")
    assert code == 1


def test_a_failure_is_explained_by_what_it_began_with():
    from botocore.exceptions import EndpointConnectionError, NoCredentialsError

    for error, code, says in [
        (ValueError("say it"), 2, "say it"),
        (ImportError("install it"), 2, "install it"),
        (NoCredentialsError(), 2, "credentials in the environment"),
        (EndpointConnectionError(endpoint_url="http://x"), 1, "check the URL"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), 1, "check the URL"),
        (OSError(errno.ENOSPC, "No space", "/a"), 1, "the disk is full (/a)"),
        (PermissionError(errno.EACCES, "no", "/a"), 2, "Permission denied (/a): check the path"),
        (KeyError("x"), 1, "--debug shows where"),
    ]:
        for whole in (error, Wrapped(error), Wrapped(Wrapped(error))):
            sentence, given = explain(whole)
            assert given == code, whole
            if not isinstance(error, ValueError | KeyError | ImportError) or whole is error:
                assert says in sentence
