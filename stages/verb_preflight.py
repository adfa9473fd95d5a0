"""`kintsugi preflight -- COMMAND`: look at the cluster first, then run a command of kintsugi on it."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from pipeline import graph
from pipeline.config import ConfigError, nearest
from pipeline.engine.track import without_password
from stages.arguments import parse
from stages.running import Asked, Common, ask

WITH_STEPS = ("run", "search", "estimate")  # the verbs that work with what the whole cluster makes
NOT_SENT = ("submit", "preflight")
BEFORE = "put ` -- ` before the command, such as: -- run partial_views --store s3://bucket/runs"
VERSIONS = "KINTSUGI_VERSIONS"  # of the machine that submits, as JSON; those of this one if it is not set


@dataclass(frozen=True)
class Preflight:
    """Check on a Ray cluster that a command can be run: machines, versions, store, MLflow, room for the steps."""

    any_version: Annotated[bool, tyro.conf.arg(help="let packages other than Ray differ")] = False


def preflight(words: list[str]) -> int:
    """Check, say so in one line, then do what stands behind `--`, if anything does."""
    from pipeline.engine import cluster
    from pipeline.engine import preflight as checks
    from stages.__main__ import main

    options, command = split(words)
    asked = parse(Preflight, options, "kintsugi preflight", Preflight.__doc__ or "", BEFORE)
    wanted = _versions(os.environ[VERSIONS]) if VERSIONS in os.environ else checks.versions()
    known(command)
    here = checks.versions([name for name in wanted if name in checks.EXACT and name != "python"])
    if differing := checks.differences({name: wanted[name] for name in here if name in wanted}, here):
        raise ConfigError(f"versions differ: {', '.join(differing)}: {checks.CURE}")
    found = _asked(command)
    start = time.monotonic()
    with cluster.connect():
        nodes = checks.Nodes()
        print(f"preflight: {checks.whereabouts(nodes)}", file=sys.stderr, flush=True)
        checks.check_versions(wanted, nodes, asked.any_version)
        said = ["versions match"]
        if found is not None:
            checks.check_store(store_of(command), nodes)
            uri = checks.check_tracking(found.store)
            missing = [node for node in graph.walk(found.target) if not found.store.has(node)]
            checks.check_room(missing, nodes)
            said += ["all write and read the store", f"MLflow at {without_password(uri)}", "the steps have room"]
        print(f"preflight: {', '.join(said)} ({time.monotonic() - start:.1f} s)", file=sys.stderr, flush=True)
        return main(command) if command else 0


def split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """(what stands before the first `--`, what stands behind it)."""
    words = list(words)
    at = words.index("--") if "--" in words else len(words)
    return words[:at], words[at + 1 :]


def known(command: Sequence[str]) -> None:
    """Raises: ConfigError: it is no command that can run on a cluster."""
    from stages.__main__ import VERBS

    if command and command[0] in NOT_SENT:
        raise ConfigError(f"{command[0]} runs here, not on the cluster: write another command after --")
    if command and command[0] not in VERBS:
        raise ConfigError(f"there is no command '{command[0]}'{nearest(command[0], VERBS)}")


def store_of(command: Sequence[str]) -> str:
    """The `--store` of a command; the last one counts."""
    return value_of(command, "--store") or "runs"


def value_of(command: Sequence[str], option: str) -> str | None:
    """The value that is written behind an option the last time it is named."""
    found = None
    for i, word in enumerate(command):
        if word == option and i + 1 < len(command):
            found = command[i + 1]
        elif word.startswith(f"{option}="):
            found = word.removeprefix(f"{option}=")
    return found


def _asked(command: Sequence[str]) -> Asked | None:
    """What a command that makes steps will make: trials of a search differ from it in options, not in scale."""
    from stages.estimate import Options as Estimate
    from stages.verb_search import Options as Search

    if not command or command[0] not in WITH_STEPS or {"-h", "--help"} & set(command):
        return None
    return ask(command[0], list(command[1:]), {"search": Search, "estimate": Estimate}.get(command[0], Common))


def _versions(text: str) -> Mapping[str, str]:
    try:
        said = json.loads(text)
    except ValueError:
        said = None
    if not isinstance(said, dict) or not all(isinstance(value, str) for value in said.values()):
        raise ConfigError(f"{VERSIONS} is not a JSON object of versions: unset it, and let `kintsugi submit` write it")
    return said
