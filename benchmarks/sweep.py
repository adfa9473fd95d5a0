"""How busy a search keeps both cores: trials on digits, and the processor time of everything that runs meanwhile.

    python benchmarks/sweep.py                       # 16 trials, as many side by side as there are cores
    python benchmarks/sweep.py --cpus 0.5            # twice as many
    python benchmarks/sweep.py --trials 4 --images 640

Every trial trains the residual of `partial_views --no-joint` anew, by Ray Train as always; `selection` decides. Busy is
processor time (user and system) over wall time and cores, from the first trial's start to the last one's end: of the
machine (/proc/stat: whatever runs on it, so leave it alone meanwhile), and of the search's own processes (what one did
after the last look, twice a second, is lost when it ends). A training starts from when its step does until it first
says how it does: processes begin and import torch, one after the other. Linux.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import tyro

ROOT = Path(__file__).resolve().parent.parent
TICKS = os.sysconf("SC_CLK_TCK")
LOOK = 0.5  # seconds between two looks at the processor
WATCHED = "composed"  # the training that every trial has of its own


@dataclass
class Seen:
    """Moments, in seconds, of what the search said; processor seconds at every look."""

    begun: dict[int, float] = field(default_factory=dict)
    ended: dict[int, float] = field(default_factory=dict)
    starts: dict[str, float] = field(default_factory=dict)
    steps: dict[str, float] = field(default_factory=dict)
    looks: list[tuple[float, float, float]] = field(default_factory=list)

    def hear(self, stream: IO[str]) -> None:
        """Read the search's progress to its end."""
        for text in stream:
            now = time.monotonic()
            try:
                line = json.loads(text)
            except ValueError:
                sys.stderr.write(text)
                continue
            if line["event"] == "trial":
                (self.begun if line["status"] == "running" else self.ended)[line["trial"]] = now
            elif line.get("step", "").endswith(f": {WATCHED}"):
                if line["event"] == "start":
                    self.starts[line["step"]] = now
                elif line["step"] in self.starts:
                    self.steps.setdefault(line["step"], now)

    def watch(self, root: int, over: threading.Event) -> None:
        """Look at the machine and at the search's processes."""
        known: dict[tuple[int, str], float] = {}
        while not over.wait(LOOK):
            known |= spent_below(root)
            user, nice, system = map(int, Path("/proc/stat").read_text().split()[1:4])
            self.looks.append((time.monotonic(), (user + nice + system) / TICKS, sum(known.values())))

    def busy(self, first: float, last: float) -> tuple[float, float]:
        """The shares of all cores that the machine and the search's processes used between two moments."""
        within = [look for look in self.looks if first <= look[0] <= last]
        if len(within) < 2:
            return float("nan"), float("nan")
        whole = (within[-1][0] - within[0][0]) * cores()
        return (within[-1][1] - within[0][1]) / whole, (within[-1][2] - within[0][2]) / whole

    def while_starting(self) -> list[tuple[int, float, float]]:
        """(trainings that were starting, seconds with so many, how busy the machine was then), between the trials."""
        spans = [(start, self.steps.get(name, start)) for name, start in self.starts.items()]
        first, last = min(self.begun.values()), max(self.ended.values())
        found: dict[int, list[float]] = {}
        for (before, was, _), (now, spent, _) in zip(self.looks, self.looks[1:], strict=False):
            if first <= before and now <= last:
                count = sum(start <= now and before <= step for start, step in spans)
                sums = found.setdefault(count, [0.0, 0.0])
                sums[0] += now - before
                sums[1] += spent - was
        return [(count, wall, spent / wall / cores()) for count, (wall, spent) in sorted(found.items())]


def spent_below(root: int) -> dict[tuple[int, str], float]:
    """Processor seconds of a process and all that it started, by id and moment of their start."""
    found: dict[int, tuple[int, str, float]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):  # it has ended
                said = (folder / "stat").read_text().rpartition(")")[2].split()
                found[int(folder.name)] = int(said[1]), said[19], (int(said[11]) + int(said[12])) / TICKS
    ours = {root}
    while more := {pid for pid, (parent, *_) in found.items() if parent in ours} - ours:
        ours |= more
    return {(pid, found[pid][1]): found[pid][2] for pid in ours & found.keys()}


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0))


def main(trials: int = 16, images: int = 12_800, shared: int = 6_400, cpus: float = 1.0) -> None:
    """Print a table.

    Args:
        trials: how many.
        images: that each trial's residual is trained on.
        shared: that each of the models is trained on which all trials share; they are not measured.
        cpus: of a training: with 0.5, twice as many are going at once.
    """
    options = [f"--set=residual_fit.images={images}", f"--set=scale.cpus={cpus}", "--no-joint", "--samples", "32"]
    options += [f"--set={fit}.images={shared}" for fit in ("view_fit", "clean_fit")]
    space = "residual.output_l2=loguniform(1e-4,10)"
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "stages", "search", "partial_views", *options, "--over", space, "--json"]
        child = subprocess.Popen(
            [*command, "--trials", str(trials), "--store", f"{folder}/runs"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        if child.stdout is None or child.stderr is None:
            raise RuntimeError("its output cannot be read")
        seen, over, start = Seen(), threading.Event(), time.monotonic()
        watching = threading.Thread(target=seen.watch, args=(child.pid, over))
        watching.start()
        try:
            seen.hear(child.stderr)
            said = child.stdout.read()
        finally:
            over.set()
            watching.join()
            child.terminate()
        if child.wait():
            raise RuntimeError(f"the search ended with {child.returncode}")
    counts = [trial["status"] for trial in json.loads(said.splitlines()[-1])["trials"]]
    first, last = min(seen.begun.values()), max(seen.ended.values())
    print(f"{counts.count('finished')} of {trials} trials finished in {last - first:.0f} s, of {cpus:g} CPUs each\n")
    print("| | seconds | machine busy | the search's processes |\n| --- | --- | --- | --- |")
    for name, ends in (("trials", (first, last)), ("the whole command", (start, time.monotonic()))):
        machine, own = seen.busy(*ends)
        print(f"| {name} | {ends[1] - ends[0]:.0f} | {machine:.1%} | {own:.1%} |")
    for count, wall, machine in seen.while_starting():
        print(f"| while {count} of the trainings were starting | {wall:.0f} | {machine:.1%} | |")
    waits = sorted(seen.steps[name] - begun for name, begun in seen.starts.items() if name in seen.steps)
    if waits:
        whole = sum(seen.ended[number] - begun for number, begun in seen.begun.items() if number in seen.ended)
        print(f"\nA training started in {waits[len(waits) // 2]:.1f} s ({waits[0]:.1f} to {waits[-1]:.1f}), ", end="")
        print(f"{sum(waits) / whole:.0%} of its trial's time.")


if __name__ == "__main__":
    tyro.cli(main)
