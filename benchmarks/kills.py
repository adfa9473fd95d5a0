"""What a run that is killed again and again makes, beside one that is left alone: the same, to the byte.

    python benchmarks/kills.py                                   # sfbd at a toy size
    python benchmarks/kills.py --recipe online --worker trainambient:RayTrainWorker

The command is killed (SIGKILL) once in every kind of step, soon after the first of that kind began, and started anew;
then, while steps of some kinds run, one of their processes is. Compared are the files of all artifacts but those
that hold times (metrics, reports). The seconds until a kill are drawn by `--seed`.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from pipeline.store import Store

TOY = (
    *("--clean", "40", "--test", "60", "--count", "200", "--samples", "20"),
    *("--backbone", "{is: pipeline.backbones.mlp.Config, width: 32, blocks: 1}"),
    *("--set", "fit.images=64000", "--set", "clean_fit.images=64000"),
)
TIMED = ("metrics.json", "report.html", "card.json")


@dataclass
class Asked:
    """Kill a run in each kind of step, and compare what it makes."""

    recipe: str = "sfbd"
    words: tuple[str, ...] = (*TOY, "--rounds.most", "2")
    worker: tuple[str, ...] = ("trainambient:RayTrainWorker", "denoise:MapWorker", "corrupt:ray::")
    seed: int = 0
    killed: list[str] = field(default_factory=list)


def main(asked: Asked) -> None:
    """Print what was killed, and what differs."""
    with tempfile.TemporaryDirectory() as folder:
        alone, hunted = f"{folder}/alone", f"{folder}/hunted"
        assert _run(asked, alone, set(), []) == 0, "it does not run when it is left alone"
        draw, done = random.Random(asked.seed), set()
        workers = [tuple(pair.split(":", 1)) for pair in asked.worker]
        while (code := _run(asked, hunted, done, workers, draw)) != 0:
            assert code == -signal.SIGKILL, f"it ended with {code} instead of going on"
        print("killed: " + ", ".join(asked.killed))
        one, other = _files(alone), _files(hunted)
        different = sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
        print(f"{len(asked.killed)} kills; {len(one)} files of {len(Store(alone).refs())} artifacts")
        print("all of them the same" if not different else f"{len(different)} differ: {', '.join(different[:9])}")
        sys.exit(bool(different))


def _run(asked: Asked, store: str, done: set[str], workers: list, draw: random.Random | None = None) -> int:
    words = [sys.executable, "-m", "stages", "run", asked.recipe, *asked.words, "--store", store, "--json"]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as command:
        assert command.stderr is not None
        for line in command.stderr:
            try:
                said = json.loads(line)
            except ValueError:
                continue
            if draw is None or said.get("event") != "start":
                continue
            kind = said["address"].split("/")[0]
            if kind not in done:
                done.add(kind)
                time.sleep(draw.uniform(0.0, 1.5))
                asked.killed.append(f"the command in {said['step']}")
                command.send_signal(signal.SIGKILL)
                continue
            for pair in [pair for pair in workers if pair[0] == kind]:
                if _kill_one(command.pid, pair[1], draw):
                    asked.killed.append(f"{pair[1]} in {said['step']}")
                    workers.remove(pair)
        return command.wait()


def _kill_one(root: int, name: str, draw: random.Random, patience: float = 20.0) -> bool:
    """Kill a process below `root` whose title has this name, once there is one."""
    until = time.monotonic() + patience
    while time.monotonic() < until:
        found = [pid for pid, title in _below(root) if name in title and "ray::" in title]
        if found:
            time.sleep(draw.uniform(0.0, 1.0))
            try:
                os.kill(draw.choice(found), signal.SIGKILL)
            except ProcessLookupError:  # it was done
                continue
            return True
        time.sleep(0.05)
    return False


def _below(root: int) -> Iterator[tuple[int, str]]:
    """All processes that a process has started, and those that they have: number and title."""
    parents, titles = {}, {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                titles[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except (FileNotFoundError, ProcessLookupError):
                continue
    for pid in parents:
        at = pid
        while at in parents and at != root:
            at = parents[at]
        if at == root and pid != root:
            yield pid, titles[pid]


def _files(store: str) -> dict[str, str]:
    found = {}
    for name, address in Store(store).refs().items():
        artifact = Store(store).artifact(address)
        for file in artifact.names():
            if Path(file).name not in TIMED:
                found[f"{name}: {address}/{file}"] = hashlib.sha256(artifact.read(file)).hexdigest()
    return found


if __name__ == "__main__":
    main(tyro.cli(Asked))
