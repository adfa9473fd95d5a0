"""A command that runs on a cluster as a Ray job: what is packed, what is sent, its log and its exit code here."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import os
import shlex
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pipeline.engine.track import without_password

PORT = 8265
ADDRESSES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
# Patterns as in .gitignore, which is heeded too. Anchored where a package of ours has the same name.
EXCLUDES = (
    ".git",
    ".venv",
    "venv",
    "__pycache__",
    ".*_cache",
    ".hypothesis",
    ".ipynb_checkpoints",
    "*.egg-info",
    "/build",
    "/dist",
    "/data",
    "/runs",
    "/mlruns",
    "mlflow.db*",
)
ATTEMPTS = 5  # at an answer of a cluster whose job is followed
STOPPED = 130
PATIENCE = 90.0  # seconds in which a machine of a cluster that has just started becomes ready for jobs


@dataclass(frozen=True)
class Job:
    """What is sent.

    Args:
        words: the command, as it is run on the cluster.
        folder: what is packed, and the command's working directory there.
        variables: environment variables of the command and of all its workers.
        excludes: patterns of what is not packed.
        name: the job's id on the cluster; Ray chooses one if it is "".
    """

    words: tuple[str, ...]
    folder: str
    variables: Mapping[str, str] = field(default_factory=dict)
    excludes: tuple[str, ...] = EXCLUDES
    name: str = ""

    @property
    def environment(self) -> dict[str, Any]:
        """Ray's runtime environment."""
        return {"working_dir": self.folder, "excludes": list(self.excludes), "env_vars": dict(self.variables)}

    @property
    def entrypoint(self) -> str:
        """The command as a shell takes it."""
        return shlex.join(self.words)

    def command(self, url: str, hidden: tuple[str, ...] = ()) -> str:
        """The `ray job submit` for a shell that sends the same, but for the values of `hidden` variables: ***."""
        shown = {name: "***" if name in hidden else value for name, value in self.variables.items()}
        environment = json.dumps(dataclasses.replace(self, variables=shown).environment)
        named = ["--submission-id", self.name] if self.name else []
        ray = ["ray", "job", "submit", "--runtime-env-json", environment, *named, "--", *self.words]
        return f"RAY_API_SERVER_ADDRESS={shlex.quote(url)} {shlex.join(ray)}"

    def files(self) -> dict[str, int]:
        """What will be packed, by relative path, in bytes: Ray's own walk, with its own excludes."""
        from ray._private.ray_constants import RAY_RUNTIME_ENV_IGNORE_GITIGNORE, get_runtime_env_default_excludes
        from ray._private.runtime_env.packaging import _dir_travel, _get_excludes

        root, found = Path(self.folder).absolute(), dict[str, int]()

        def see(path: Path) -> None:
            if path.is_file():
                found[str(path.relative_to(root))] = path.stat().st_size

        excluded = _get_excludes(root, [*get_runtime_env_default_excludes(), *self.excludes])
        heeded = os.environ.get(RAY_RUNTIME_ENV_IGNORE_GITIGNORE, "0") != "1"
        _dir_travel(root, [excluded], see, include_gitignore=heeded, logger=logging.getLogger("kintsugi.packing"))
        return found


def limit() -> int:
    """The most bytes that a package may have: of the job server's requests, and of `RAY_max_grpc_message_size`."""
    from ray._private.ray_constants import DASHBOARD_CLIENT_MAX_SIZE
    from ray._private.runtime_env.packaging import GCS_STORAGE_MAX_SIZE

    return min(DASHBOARD_CLIENT_MAX_SIZE, GCS_STORAGE_MAX_SIZE)


def server(address: str | None = None) -> str:
    """The URL of the job server: what is given, or what the environment names, or this machine's.

    Raises:
        ValueError: it is the address of something else.
    """
    named = [os.environ.get(name, "") for name in ADDRESSES]
    said = address or named[0] or (named[1] if named[1].startswith("http") else "") or f"http://127.0.0.1:{PORT}"
    url = urlsplit(said if "://" in said else f"http://{said}")
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ValueError(f"--address {without_password(said)} is no job server: give one such as http://head:{PORT}")
    if url.password:
        raise ValueError(f"--address {without_password(said)} holds a password, which logs would show: leave it out")
    if url.port == 6379:
        raise ValueError(
            f"port 6379 is where machines join: jobs are sent to port {PORT} (http://{url.hostname}:{PORT})"
        )
    return f"{url.scheme}://{url.netloc if url.port or url.scheme == 'https' else f'{url.netloc}:{PORT}'}"


def connect(url: str) -> Any:
    """Ray's client of the job server.

    Raises:
        ValueError: none answers there, it wants another token, or another version of Ray runs there.
    """
    answers(url)
    os.environ[ADDRESSES[0]] = url  # which the client heeds before its argument
    import ray
    import requests
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    for name in ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk", "ray._private.runtime_env"):
        logging.getLogger(name).setLevel(logging.ERROR)
    shown = without_password(url)
    try:
        client = JobSubmissionClient(url)
    except (AuthenticationError, ConnectionError, RuntimeError, requests.RequestException, KeyError) as error:
        raise ValueError(refusal(shown, error)) from error
    there = client._server_ray_version
    if there != ray.__version__:
        raise ValueError(
            f"the cluster at {shown} runs Ray {there} and this machine {ray.__version__}: install the same"
        )
    return client


def answers(url: str) -> None:
    """Raises: ValueError: nothing answers there; Ray itself would wait for minutes to say so."""
    at = urlsplit(url)
    port = at.port or 443
    try:
        socket.create_connection((at.hostname or "", port), timeout=5).close()
    except OSError as error:
        raise ValueError(
            f"no Ray cluster answers at {at.hostname}:{port} ({error}): start it, open a tunnel to its port {PORT}, or "
            "name another with --address"
        ) from error


def refusal(url: str, error: BaseException) -> str:
    """What to do where the job server answers but does not let us in."""
    said = str(error).splitlines()[0].split(". ")[0] if str(error) else type(error).__name__
    if "uthentication required" in said:
        return f"the cluster at {url} asks for a token: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to its file"
    if "uthentication failed" in said:
        return (
            f"the cluster at {url} refuses this token: see that RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH is the cluster's"
        )
    if "ray[default]" in said:
        return "jobs are sent with ray[default]: pip install 'kintsugi[cluster]'"
    if os.environ.get("RAY_AUTH_MODE") == "token" and "token" in said.lower():
        return f"RAY_AUTH_MODE is token and no token is found ({said.rstrip('.')}): set RAY_AUTH_TOKEN_PATH to its file"
    return (
        f"what answers at {url} is no Ray job server ({said.rstrip('.')}): jobs are sent to the dashboard, port {PORT}"
    )


def submit(client: Any, job: Job) -> str:
    """Pack and send; gives the job's id. A cluster that has only just started is waited for.

    Raises:
        ValueError: there is a job of that name already.
    """
    until = time.monotonic() + PATIENCE
    while True:
        try:
            return client.submit_job(
                entrypoint=job.entrypoint, runtime_env=job.environment, submission_id=job.name or None, metadata={}
            )
        except RuntimeError as error:
            if "already exists" in str(error):
                raise ValueError(f"the cluster has a job '{job.name}' already: choose another --name") from error
            if "No available agent" not in str(error) or time.monotonic() > until:
                raise
            time.sleep(1)


def follow(client: Any, job: str, write: Callable[[str], object]) -> tuple[int, str]:
    """Hand on the job's log until it has ended; gives (its own exit code, what Ray says of its end).

    A lost connection is taken up where it was lost.

    Raises:
        ValueError: there is no such job.
        ConnectionError: the cluster does not answer any more.
    """
    import aiohttp
    from ray.job_submission import JobStatus

    seen = 0

    async def tail() -> None:
        nonlocal seen
        passed = 0  # every tail begins at the beginning
        async for text in client.tail_job_logs(job):
            new = text[max(0, seen - passed) :]
            passed += len(text)
            seen = max(seen, passed)
            if new:
                write(new)

    failed = 0
    while True:
        try:
            client.get_job_info(job)
            asyncio.run(tail())
            info, failed = client.get_job_info(job), 0
        except (RuntimeError, OSError, aiohttp.ClientError) as error:  # those of requests are OSErrors
            if "does not exist" in str(error):
                raise ValueError(f"the cluster has no job '{job}': `ray job list` names those it has") from error
            failed += 1
            if failed > ATTEMPTS:
                raise ConnectionError(f"the cluster no longer answers ({type(error).__name__})") from error
            time.sleep(failed)
            continue
        status = JobStatus(info.status)
        if status.is_terminal():
            return exit_code(status.value, info.driver_exit_code), str(info.message or "")
        time.sleep(1)


def exit_code(status: str, code: int | None) -> int:
    """What a shell would have got from the command: 128 + n where signal n ended it, 1 where it never began."""
    if status == "SUCCEEDED":
        return 0
    if status == "STOPPED":
        return STOPPED
    return 1 if not code else 128 - code if code < 0 else code
