"""toy: two steps that write numbers, so that the command line is tested without Ray or a network."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.graph import Context, Stage, Step, step

faults: list[Callable[[Context], None]] = []  # what a test lets happen in the middle of a step


@dataclass(frozen=True)
class Inner:
    rate: float = 0.5
    names: tuple[str, ...] = ("a", "b")


@dataclass(frozen=True)
class Number(Stage):
    value: int
    name: str = "x"
    inner: Inner = Inner()
    after: Step | None = None

    def run(self, at: Context) -> None:
        at.out.write("half.txt", "half")
        for fault in faults if self.after else ():
            fault(at)
        at.tracker.metrics({"loss": 1.0, "done": 1.0}, at=self.value)
        at.out.write("metrics.json", json.dumps({"value": float(self.value)}))
        at.out.write("report.html", "<p>done</p>")


def toy(value: int = 1, name: str = "x", size: int | None = None, seed: int = 0, inner: Inner = Inner()) -> Step:
    """Write two numbers.

    Args:
        value: the number.
        name: a word.
        size: a number or none.
        seed: another number.
        inner: what only --set and --config reach.
    """
    first = step(Number(seed), "first")
    return step(Number(value + (size or 0), name, inner, first), "second")
