"""What a person watches while a recipe runs: bars on a terminal, a cell in a notebook, JSON lines anywhere else."""

from __future__ import annotations

import json
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, TextIO

from pipeline.graph import Event, Step

SHOWN = ("loss", "images_per_second", "rows_per_second", "input_wait_percent", "eta", "done")

MARKS = {
    "done": "[green]✓[/]",
    "cached": "[dim]·[/]",
    "failed": "[red]✗[/]",
    "stopped": "[yellow]–[/]",
    "probed": "[dim]≈[/]",
}


class Progress(ABC):
    """Listens to the graph's events and to running steps' metrics."""

    @abstractmethod
    def event(self, event: Event) -> None:
        """A step was found, begun, finished or lost."""

    @abstractmethod
    def metrics(self, step: Step, values: Mapping[str, float], at: int) -> None:
        """A running step said where it is."""

    @abstractmethod
    def warn(self, step: Step, text: str) -> None:
        """A step found something that a person should know before the others go on."""

    @abstractmethod
    def trial(self, number: int, status: str, said: Mapping[str, object]) -> None:
        """A trial of a sweep began or ended."""

    @abstractmethod
    def close(self) -> None:
        """Leave the terminal as it was."""


class Lines(Progress):
    """One JSON object a line, at most one a second for each step's metrics."""

    def __init__(self, stream: TextIO):
        self.stream = stream
        self._last: dict[str, float] = {}
        self._lock = threading.Lock()

    def event(self, event: Event) -> None:
        line = {"event": event.what, "step": event.step.label, "address": event.step.address}
        line |= {"text": _waiting(event)} if event.what == "waiting" else {}
        self._write(line | ({"seconds": round(event.seconds, 1)} if event.seconds else {}))

    def metrics(self, step: Step, values: Mapping[str, float], at: int) -> None:
        now = time.monotonic()
        if now - self._last.get(step.address, 0) >= 1:
            self._last[step.address] = now
            known = {name: round(values[name], 5) for name in SHOWN if name in values}
            self._write({"event": "progress", "step": step.label, "at": at, **known})

    def warn(self, step: Step, text: str) -> None:
        self._write({"event": "warning", "step": step.label, "text": text})

    def trial(self, number: int, status: str, said: Mapping[str, object]) -> None:
        self._write({"event": "trial", "trial": number, "status": status, **said})

    def close(self) -> None:
        self.stream.flush()

    def _write(self, line: Mapping[str, object]) -> None:
        with self._lock:
            print(json.dumps(line), file=self.stream, flush=True)


class Bars(Progress):
    """A bar a running step, a line a finished one."""

    def __init__(self, stream: TextIO):
        import rich.console
        import rich.progress as rich_progress

        self.console = rich.console.Console(file=stream)
        self.bars = rich_progress.Progress(
            rich_progress.TextColumn("{task.description:<18}"),
            rich_progress.BarColumn(bar_width=24),
            rich_progress.TextColumn("{task.percentage:>3.0f}%"),
            rich_progress.TextColumn("{task.fields[said]}"),
            rich_progress.TimeElapsedColumn(),
            console=self.console,
            transient=True,
        )
        self.bars.start()
        self._tasks: dict[str, rich_progress.TaskID] = {}

    def event(self, event: Event) -> None:
        key = event.step.address
        if event.what == "start":
            self._tasks[key] = self.bars.add_task(event.step.label, total=1.0, said="")
            return
        if event.what == "waiting":
            self.console.print(_waiting(event), style="dim", highlight=False, markup=False)
            return
        if key in self._tasks:
            self.bars.remove_task(self._tasks.pop(key))
        mark = MARKS[event.what]
        took = f"{event.seconds:6.1f} s" if event.seconds else "  cached"
        self.console.print(f"{mark} {event.step.label:<18} {took}  [dim]{key}[/]", highlight=False)

    def metrics(self, step: Step, values: Mapping[str, float], at: int) -> None:
        if step.address not in self._tasks:
            return
        said = []
        for name in ("images_per_second", "rows_per_second"):
            if name in values:
                said.append(f"{values[name]:.0f} {name.split('_')[0]}/s")
        if "loss" in values:
            said.append(f"loss {values['loss']:.4f}")
        if "input_wait_percent" in values:
            said.append(f"input wait {values['input_wait_percent']:.1f}%")
        if "eta" in values:
            said.append(f"ETA {values['eta']:.0f} s")
        self.bars.update(self._tasks[step.address], completed=values.get("done", 0), said="  ".join(said))

    def warn(self, step: Step, text: str) -> None:
        self.console.print(f"{step.label}: {text}", style="yellow", highlight=False, markup=False)

    def trial(self, number: int, status: str, said: Mapping[str, object]) -> None:
        words = "  ".join(f"{name} {_brief(value)}" for name, value in said.items())
        self.console.print(f"trial {number} {status}  {words}", highlight=False, markup=False)

    def close(self) -> None:
        self.bars.stop()


class Cell(Progress):
    """In a notebook: a line a finished step, and below them one that says where the others are, written over."""

    def __init__(self) -> None:
        from IPython.display import display

        self._done: list[str] = []
        self._running: dict[str, str] = {}
        self._last = 0.0
        self._lock = threading.Lock()
        self._shown: Any = display({"text/plain": "starting"}, raw=True, display_id=True)

    def event(self, event: Event) -> None:
        label, key = event.step.label, event.step.address
        with self._lock:
            self._running.pop(key, None)
            if event.what == "start":
                self._running[key] = label
            elif event.what == "waiting":
                self._running[key] = _waiting(event)
            elif event.what != "cached":
                self._done.append(f"{event.what} {label} {event.seconds:.1f} s")
        self._write()

    def metrics(self, step: Step, values: Mapping[str, float], at: int) -> None:
        with self._lock:
            if step.address in self._running and "done" in values:
                self._running[step.address] = f"{step.label} {values['done']:.0%}"
        if time.monotonic() - self._last >= 1:
            self._write()

    def warn(self, step: Step, text: str) -> None:
        with self._lock:
            self._done.append(f"{step.label}: {text}")
        self._write()

    def trial(self, number: int, status: str, said: Mapping[str, object]) -> None:
        words = "  ".join(f"{name} {_brief(value)}" for name, value in said.items())
        with self._lock:
            self._done.append(f"trial {number} {status}  {words}")
        self._write()

    def close(self) -> None:
        with self._lock:
            self._running.clear()
        self._write()

    def _write(self) -> None:
        with self._lock:
            self._last = time.monotonic()
            text = "\n".join([*self._done, ", ".join(self._running.values())]).strip()
            self._shown.update({"text/plain": text or "nothing to do"}, raw=True)


def _brief(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={_brief(inner)}" for name, inner in value.items())
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _waiting(event: Event) -> str:
    return f"waiting for {event.step.label}, being made by another run since {event.since}"


def watch() -> Progress:
    """A cell in a notebook, bars if standard error is a terminal, else lines. Standard output is for results."""
    if "ipykernel" in sys.modules:
        return Cell()
    return Bars(sys.stderr) if sys.stderr.isatty() else Lines(sys.stderr)
