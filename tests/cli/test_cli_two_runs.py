"""Two runs at once on one store: each step is made once, and its metrics are told once, whoever makes it."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.graph import Event, step
from stages.progress import Bars

CODE = """if True:
    import contextlib, os, sys, time
    from pathlib import Path
    sys.path.insert(0, sys.argv[1])
    from stages import recipes
    recipes.__path__.append(sys.argv[1] + "/recipes")
    from doubles import Silent
    from pipeline.engine import cluster, track
    import stages.recipes.toy as toy
    folder = Path(sys.argv[2])

    class Tracking(Silent):
        def metrics(self, values, at):
            with open(folder / "told", "a") as file:
                file.write(self.step.label + "\\n")

    cluster.connect = lambda: contextlib.nullcontext((1.0, 0.0)); track.Tracking = Tracking

    def slow(at):
        (folder / f"began-{os.getpid()}").touch()
        while not (folder / "go").exists():
            time.sleep(0.05)

    toy.faults.append(slow)
    from stages.__main__ import main
    sys.exit(main(["run", "toy", "--store", str(folder / "runs"), "--json"]))
"""


@pytest.fixture
def start(background, tmp_path) -> Callable[[], subprocess.Popen]:
    """`kintsugi run toy` in a process of its own, without Ray; its second step ends when there is a file "go"."""
    return lambda: background(CODE, os.path.dirname(__file__), str(tmp_path))


def begun(folder: Path, count: int) -> None:
    """Waits until the second step was begun so often."""
    end = time.monotonic() + 120
    while len(list(folder.glob("began-*"))) < count:
        assert time.monotonic() < end
        time.sleep(0.05)


def heard(child: subprocess.Popen, event: str) -> dict:
    """Reads the progress up to an event."""
    for line in child.stderr:
        if line.startswith("{") and (said := json.loads(line))["event"] == event:
            return said
    raise AssertionError(f"there was no {event}")


def counted(child: subprocess.Popen) -> dict[str, int]:
    """The steps that a run says it made and found."""
    out, err = child.communicate(timeout=120)
    assert child.returncode == 0, err
    return json.loads(out.splitlines()[-1])["steps"]


def told(folder: Path) -> list[str]:
    """The steps whose metrics were told to the tracker, as often as they were."""
    return (folder / "told").read_text().split()


@pytest.mark.slow
def test_the_second_run_waits_for_what_the_first_is_making_and_takes_it(start, tmp_path):
    one = start()
    begun(tmp_path, 1)
    two = start()
    said = heard(two, "waiting")
    assert said["step"] == "second"
    assert said["text"].startswith("waiting for second, being made by another run since 20")
    assert len(list(tmp_path.glob("began-*"))) == 1
    (tmp_path / "go").touch()
    assert counted(one) == {"run": 2, "cached": 0}
    assert counted(two) == {"run": 0, "cached": 2}
    assert len(list(tmp_path.glob("began-*"))) == 1
    assert told(tmp_path) == ["first", "second"]


@pytest.mark.slow
def test_the_second_run_takes_over_from_a_first_that_is_killed(start, tmp_path):
    one = start()
    begun(tmp_path, 1)
    two = start()
    heard(two, "waiting")
    one.send_signal(signal.SIGKILL)
    begun(tmp_path, 2)
    (tmp_path / "go").touch()
    assert counted(two) == {"run": 1, "cached": 1}
    assert told(tmp_path) == ["first", "second"]
    assert len(list((tmp_path / "runs/objects").rglob("half.txt"))) == 2, "the attempt was not taken over"


def test_a_wait_is_one_line_on_a_terminal_and_its_bar_comes_with_its_turn(toy):
    terminal, node = io.StringIO(), step(toy.Number(1), "second")
    bars = Bars(terminal)
    bars.event(Event(node, "waiting", since="2026-11-21 12:00:00"))
    assert "waiting for second, being made by another run since 2026-11-21 12:00:00" in terminal.getvalue()
    assert not bars.bars.tasks
    bars.event(Event(node, "start"))
    assert [task.description for task in bars.bars.tasks] == ["second"]
    bars.close()
