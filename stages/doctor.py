"""`kintsugi doctor`: what this machine can do, and what will go wrong before it does."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import socket
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from pipeline.engine.cluster import check_answers, cores
from pipeline.engine.preflight import PACKAGES
from pipeline.engine.track import default_uri, without_password
from pipeline.place import Place
from pipeline.store import Store
from stages.arguments import JsonOption, StoreOption, parse
from stages.failures import explain

NEEDED_BYTES = 2 << 30


@dataclass(frozen=True)
class Doctor:
    """Check Python, packages, the store, free space, Ray, MLflow and devices."""

    store: StoreOption = "runs"
    json: JsonOption = False


def doctor(words: list[str]) -> int:
    """Print one line a check; 1 if any failed."""
    asked = parse(Doctor, words, "kintsugi doctor", Doctor.__doc__ or "")
    checks: dict[str, Callable[[], str]] = {
        "python": lambda: f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "packages": lambda: ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES),
        "cores": lambda: f"{cores()} cores",
        "device": _device,
        "store": lambda: _store(asked.store),
        "space": lambda: _space(asked.store),
        "ray": _ray,
        "mlflow": lambda: _mlflow(asked.store),
    }
    found, failed = {}, []
    for name, check in checks.items():
        try:
            found[name] = check()
        except Exception as error:  # whatever a library throws, the other checks are still worth their lines
            found[name] = without_password(" ".join(explain(error)[0].split()))
            failed.append(name)
    if asked.json:
        print(json.dumps({"checks": found, "failed": failed}))
    else:
        for name, said in found.items():
            print(f"{'FAILED' if name in failed else 'ok    '} {name:<9} {said}")
    return 1 if failed else 0


def _device() -> str:
    import torch

    if not torch.cuda.is_available():
        return "no GPU: everything runs on the CPU"
    return ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))


def _store(url: str) -> str:
    store = Store(url)
    store.check_writable()
    return f"{without_password(store.url)}, {len(store.addresses())} artifacts"


def _space(url: str) -> str:
    place: Place = Store(url).place
    path = Path(place.root) if place.is_local else Path.cwd()
    while not path.exists():
        path = path.parent
    free = shutil.disk_usage(path).free
    if free < NEEDED_BYTES:
        raise ValueError(f"{free / 1e9:.1f} GB free at {path}: free some, Ray and checkpoints need about 2 GB")
    return f"{free / 1e9:.0f} GB free at {path}"


def _mlflow(url: str) -> str:
    uri = default_uri(Store(url))
    server = urlsplit(uri)
    if server.scheme in ("http", "https"):
        port = server.port or (443 if server.scheme == "https" else 80)
        try:
            socket.create_connection((server.hostname or "", port), timeout=3).close()
        except OSError as error:
            raise ValueError(f"no MLflow server answers at {without_password(uri)}: {error}") from error
    return without_password(uri)


def _ray() -> str:
    address = os.environ.get("RAY_ADDRESS", "")
    if address in ("", "local"):
        return "a local cluster will be started (set RAY_ADDRESS to join one)"
    check_answers(address)
    host = urlsplit(address if "://" in address else f"ray://{address}").hostname
    if os.environ.get("RAY_AUTH_MODE") != "token" and host not in ("auto", "127.0.0.1", "localhost", "::1"):
        raise ValueError("RAY_ADDRESS is remote and RAY_AUTH_MODE is not token: anyone there can run code as you")
    token = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token")).expanduser()
    if token.exists() and token.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
        raise ValueError(f"{token} can be read by others: chmod 600 {token}")
    return f"the cluster at {without_password(address)} will be joined"
