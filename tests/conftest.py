"""One environment for every test: a thread per library, no clock and no database in hypothesis, fresh processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

settings.register_profile("kintsugi", deadline=None, derandomize=True, database=None, max_examples=60)
settings.load_profile("kintsugi")


def start(code: str, *arguments: str, **environment: str) -> subprocess.Popen:
    """A fresh interpreter that runs `code`, with this project and the caller's test folders importable."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "spine")])
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": path, **environment},
        cwd=ROOT / "tests",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="session")
def one_ray() -> Iterator[None]:
    """A local Ray that `cluster.connect()` finds running; its workers can import what tests/engine defines."""
    from pipeline.engine import cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        folders = [str(ROOT), str(ROOT / "tests" / "engine"), os.environ.get("PYTHONPATH", "")]
        patch.setenv("PYTHONPATH", os.pathsep.join(folders))
        with cluster.connect():
            yield


@pytest.fixture
def fresh() -> Callable[..., str]:
    """Run code in a fresh interpreter to its end and give back what it printed."""

    def run(code: str, *arguments: str, **environment: str) -> str:
        child = start(code, *arguments, **environment)
        out, err = child.communicate(timeout=120)
        assert child.returncode == 0, err
        return out

    return run


@pytest.fixture
def background():
    """Start fresh interpreters that are killed, at the latest, when the test ends."""
    children: list[subprocess.Popen] = []

    def launch(code: str, *arguments: str, **environment: str) -> subprocess.Popen:
        children.append(start(code, *arguments, **environment))
        return children[-1]

    yield launch
    for child in children:
        child.kill()
        child.communicate()
