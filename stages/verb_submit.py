"""`kintsugi submit -- COMMAND`: run a command of kintsugi as a job on a Ray cluster, and watch it from here."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from pipeline.config import ConfigError, nearest
from pipeline.engine.track import check_uri, without_password
from pipeline.place import secret_in
from stages.arguments import parse
from stages.recipe import names
from stages.verb_preflight import BEFORE, VERSIONS, WITH_STEPS, known, split, store_of, value_of

USAGE = "kintsugi submit [OPTIONS] -- COMMAND, such as: -- run partial_views --store s3://bucket/runs"
ASKING = (*WITH_STEPS, "plan")  # the verbs behind which a recipe stands
UNASKED = {"sample": "samples.png", "report": "story.html"}  # what is written of an artifact where --out is not given
SENT = ("KINTSUGI_", "MLFLOW_", "RAY_DATA_", "RAY_TRAIN_")
SECRET = re.compile(r"(TOKEN|SECRET|PASSW(OR)?D|KEY|CREDENTIALS?|USERNAME)(_|$)")
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# `ray job stop` kills after 3 s otherwise, before trainings have written their checkpoints.
ALWAYS = {"RAY_JOB_STOP_WAIT_TIME_S": "30"}


@dataclass(frozen=True)
class Submit:
    """Pack the working directory, send it and a command to a Ray cluster, show its log, end with its exit code."""

    address: Annotated[
        str | None, tyro.conf.arg(help="of the job server, http://HEAD:8265; else RAY_API_SERVER_ADDRESS, or one here")
    ] = None
    working_dir: Annotated[str | None, tyro.conf.arg(help="what is packed; the checkout, or this folder")] = None
    exclude: Annotated[
        tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(help="a further pattern of .gitignore's kind")
    ] = ()
    env: Annotated[
        tuple[str, ...],
        tyro.conf.UseAppendAction,
        tyro.conf.arg(help="NAME or NAME=VALUE: a variable for the job; whoever reaches the cluster can read it"),
    ] = ()
    name: Annotated[str, tyro.conf.arg(help="the job's id; Ray makes one up otherwise")] = ""
    wait: Annotated[bool, tyro.conf.arg(help="follow the log until the job ends; else print its id")] = True
    preflight: Annotated[bool, tyro.conf.arg(help="let the job look at versions, store, MLflow and room first")] = True
    any_version: Annotated[bool, tyro.conf.arg(help="let packages other than Ray differ")] = False
    python: Annotated[str, tyro.conf.arg(help="the interpreter on the cluster")] = "python"
    follow: Annotated[str | None, tyro.conf.arg(help="the id of a job to watch again, instead of a command")] = None
    dry_run: Annotated[bool, tyro.conf.arg(help="print the `ray job submit` that does the same, and send nothing")] = (
        False
    )


def submit(words: list[str]) -> int:
    """Send a command and watch it; gives the job's own exit code."""
    from pipeline.engine import submission
    from pipeline.engine.preflight import versions

    options, command = split(words)
    asked = parse(Submit, options, "kintsugi submit", f"{Submit.__doc__}\n\n{USAGE}", BEFORE)
    url = submission.server(asked.address)
    if asked.follow is not None:
        return _watch(submission.connect(url), asked.follow, url)
    if not command:
        raise ConfigError(f"there is no command to send: {USAGE}")
    known(command)
    folder = _folder(asked.working_dir)
    _check(command, folder)
    job = submission.Job(
        words=(asked.python, "-m", "stages", *_entry(asked, command)),
        folder=str(folder),
        variables=variables(asked.env, os.environ) | ({VERSIONS: json.dumps(versions())} if asked.preflight else {}),
        excludes=(*submission.EXCLUDES, *asked.exclude),
        name=asked.name,
    )
    packed = job.files()
    _check_size(packed, submission.limit(), folder)
    if asked.dry_run:
        secret = tuple(name for name in job.variables if SECRET.search(name) or secret_in(job.variables[name]))
        if secret:
            print(f"kintsugi: put the values of {', '.join(secret)} where *** stands", file=sys.stderr)
        print(job.command(url, secret))
        return 0
    client = submission.connect(url)
    sent = submission.submit(client, job)
    size = f"{len(packed)} files, {sum(packed.values()) / 1e6:.1f} MB"
    print(f"job {sent} at {without_password(url)} ({size} of {folder})", file=sys.stderr, flush=True)
    if not asked.wait:
        print(sent)
        return 0
    return _watch(client, sent, url)


def _watch(client: object, job: str, url: str) -> int:
    from pipeline.engine import submission

    def write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    at = f"--address {url}"
    try:
        code, said = submission.follow(client, job, write)
    except KeyboardInterrupt:
        print(
            f"\nkintsugi: job {job} goes on; to watch it: kintsugi submit {at} --follow {job}; "
            f"to end it: ray job stop {at} {job}",
            file=sys.stderr,
        )
        return 130
    except ConnectionError as error:
        print(f"kintsugi: {error}; if job {job} goes on: kintsugi submit {at} --follow {job}", file=sys.stderr)
        return 1
    if code:
        print(f"kintsugi: job {job} ended with exit code {code}: {ending(said)}", file=sys.stderr)
    return code


def ending(said: str) -> str:
    """What Ray says of a job's end, without the log, which it repeats and which was shown; and what that may mean."""
    if not said.strip():
        return "Ray does not say why"
    first = said.split(", last available logs")[0].splitlines()[0].strip()
    lacking = re.search(r"ModuleNotFoundError: No module named '([\w.]+)'", said)
    return f"{first}, as its python has no {lacking[1]}: name one that has, by --python" if lacking else first


def _entry(asked: Submit, command: Sequence[str]) -> list[str]:
    lenient = ["--any-version"] if asked.any_version else []
    return ["preflight", *lenient, "--", *command] if asked.preflight else list(command)


def variables(asked: Sequence[str], local: Mapping[str, str]) -> dict[str, str]:
    """What the job's environment gets: kintsugi's, MLflow's and Ray's settings that are not secret, and what is asked.

    Raises:
        ConfigError: one that is asked for is not set here or has no name; one that is not asked for holds a password.
    """
    found = dict(ALWAYS)
    named = {word.partition("=")[0] for word in asked}
    for name, value in sorted(local.items()):
        if name.startswith(SENT) and not SECRET.search(name) and name not in named:
            if secret := secret_in(value):
                raise ConfigError(f"{name} holds {secret}, which is sent only if you say so: add --env {name}")
            found[name] = value
    for word in asked:
        name, given, value = word.partition("=")
        if name == VERSIONS:
            raise ConfigError(f"--env {name} is set by submit itself; to let packages differ: --any-version")
        if not NAME.fullmatch(name):
            raise ConfigError(f"--env {name} is no name of a variable: write --env NAME or --env NAME=VALUE")
        if not given and name not in local:
            raise ConfigError(f"--env {name} is not set here: set it, or write --env {name}=VALUE")
        found[name] = value if given else local[name]
    return found


def _folder(given: str | None) -> Path:
    checkout = Path(__file__).resolve().parent.parent
    folder = Path(given) if given else checkout if (checkout / "pyproject.toml").is_file() else Path.cwd()
    if not folder.is_dir():
        raise ConfigError(f"--working-dir {folder} is no folder: name the one that the job is to run in")
    return folder.resolve()


def _check(command: Sequence[str], folder: Path) -> None:
    """Raises: ConfigError: the command names no recipe, what is here alone, or a place that ends with the job."""
    known = names(folder / "stages" / "recipes")
    if command[0] in ASKING and known and command[1:] and not command[1].startswith("-") and command[1] not in known:
        raise ConfigError(f"there is no recipe '{command[1]}' in {folder}{nearest(command[1], known)}")
    if command[0] != "doctor" or value_of(command, "--store") is not None:
        store = store_of(command)
        if "://" not in store and not store.startswith(("/", "~")):
            raise ConfigError(
                f"--store {store} would be a folder of the job, which ends with it: give an absolute path that all "
                "machines mount, or a URL such as s3://bucket/runs"
            )
        if uri := os.environ.get("MLFLOW_TRACKING_URI"):
            check_uri(uri)
            if uri.startswith("sqlite:///") and not uri.startswith("sqlite:////"):
                raise ConfigError(
                    f"MLFLOW_TRACKING_URI {uri} would be a file of the job, which ends with it: name a server, or "
                    "sqlite:////PATH.db where all machines mount it"
                )
    named = bool(command[1:]) and not command[1].startswith("-")
    out = value_of(command, "--out") or (UNASKED.get(command[0]) if named else None)
    if out is not None and not out.startswith("/"):
        raise ConfigError(
            f"--out {out} would be a file of the job, which ends with it: give an absolute path that all machines mount"
        )
    file = value_of(command, "--config")
    if file is not None and not (folder / file).resolve().is_relative_to(folder):
        raise ConfigError(f"--config {file} is not below {folder}, which is all that is sent: put it there")
    if file is not None and not (folder / file).is_file():
        raise ConfigError(f"--config {file} is no file below {folder}, where the job looks for it")


def _check_size(packed: Mapping[str, int], limit: int, folder: Path) -> None:
    """Raises: ConfigError: it is more than the cluster takes."""
    total = sum(packed.values()) + sum(2 * len(name.encode()) + 200 for name in packed)  # and what a zip adds
    if total >= limit:
        largest = sorted(packed, key=lambda name: packed[name], reverse=True)[:5]
        named = ", ".join(f"{name} {packed[name] / 2**20:.1f} MiB" for name in largest)
        raise ConfigError(
            f"{folder} packs to {total / 2**20:.1f} MiB, and the cluster takes {limit / 2**20:.0f} MiB; the largest: "
            f"{named}: leave them out by --exclude or .gitignore, or name another --working-dir"
        )
