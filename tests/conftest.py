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
os.environ.setdefault("RAY_worker_niceness", "0")  # its workers would wait for the other tests
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

settings.register_profile("kintsugi", deadline=None, derandomize=True, database=None, max_examples=60)
settings.load_profile("kintsugi")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """A process for each core, four at most, and one more for tests of Ray, which wait for what Ray starts."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(4, cores) + ("not ray" not in config.option.markexpr)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that need Ray, which take longest, come first."""
    first = {item.path for item in items if item.get_closest_marker("ray")}
    items.sort(key=lambda item: item.path not in first)


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
