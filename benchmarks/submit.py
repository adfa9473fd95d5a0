"""Seconds from the command to what a job says first: `kintsugi submit` beside `ray job submit`, interleaved.

    python benchmarks/submit.py --repeats 5

On clusters of this machine that `cluster/several.sh` starts (Linux). The job is `python -m stages ls` of an empty
folder, which says one sentence; all send the same package, which the cluster has from an unmeasured job on (leave
the checkout alone meanwhile). A preflight says where it is before it looks at anything: `answer` is when that came, and
`sentence` when the command's own did.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import tyro

from pipeline.engine.submission import EXCLUDES

ROOT = Path(__file__).resolve().parent.parent
ANSWER, SENTENCE = "preflight: ", "there are no artifacts"


def main(repeats: int = 5, machines: int = 1) -> None:
    """Print a line a job, then medians and ranges."""
    with tempfile.TemporaryDirectory() as folder, cluster(machines) as environment:
        command = ["ls", "--store", folder]
        ours = [sys.executable, "-m", "stages", "submit", "--working-dir", str(ROOT)]
        sent = json.dumps({"working_dir": str(ROOT), "excludes": list(EXCLUDES)})
        ways = {
            "ray job submit": [
                "ray",
                "job",
                "submit",
                "--runtime-env-json",
                sent,
                "--",
                "python",
                "-m",
                "stages",
                *command,
            ],
            "kintsugi submit --no-preflight": [*ours, "--no-preflight", "--", *command],
            "kintsugi submit": [*ours, "--", *command],
        }
        taken = {name: [] for name in ways}
        for repeat in range(repeats + 1):
            for name in sorted(ways, key=lambda name: (list(ways).index(name) + repeat) % len(ways)):
                found = seconds(ways[name], environment)
                print(f"{repeat or 'warm-up'}  {name:<32}{found[0]:6.1f} {found[1]:6.1f}", flush=True)
                if repeat:
                    taken[name].append(found)
    print("\n| seconds until the job's | answer | sentence | sentence − ray |\n| --- | --- | --- | --- |")
    floor = [sentence for _, sentence in taken["ray job submit"]]
    for name, found in taken.items():
        answers, sentences = zip(*found, strict=True)
        over = [mine - theirs for mine, theirs in zip(sentences, floor, strict=True)]
        print(f"| `{name}` | {told(answers)} | {told(sentences)} | {told(over)} |")


def told(values: list[float] | tuple[float, ...]) -> str:
    """Median and range."""
    return f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def seconds(words: list[str], environment: Mapping[str, str]) -> tuple[float, float]:
    """Until the first answer, the sentence if nothing answers before, and until the sentence."""
    start, answer = time.monotonic(), None
    job = subprocess.Popen(words, env=dict(environment), cwd=ROOT, stdout=subprocess.PIPE, text=True, bufsize=1)
    assert job.stdout is not None
    for line in job.stdout:
        now = time.monotonic() - start
        if line.startswith(ANSWER) and answer is None:
            answer = now
        if SENTENCE in line:
            job.stdout.read()
            job.wait()
            return answer or now, now
    raise SystemExit(f"{words[0]} ended with {job.wait()} and without a sentence")


@contextmanager
def cluster(machines: int) -> Iterator[dict[str, str]]:
    """The environment of who may use it."""
    home = tempfile.mkdtemp(prefix="k", dir="/tmp")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "KINTSUGI_"))}
    environment |= {"HOME": home, "PATH": path, "PYTHONUNBUFFERED": "1"}
    ports = {name: str(free()) for name in ("RAY_PORT", "RAY_DASHBOARD_PORT")}
    script = subprocess.Popen(
        [str(ROOT / "cluster/several.sh"), str(machines), "4"],
        env=environment | ports | {"RAY_OBJECT_STORE": "200000000", "RAY_TMPDIR": home},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert script.stdout is not None
    try:
        while "kintsugi submit" not in (line := script.stdout.readline()):
            if not line:
                raise SystemExit("the cluster did not start")
        yield environment | {
            "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{ports['RAY_DASHBOARD_PORT']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": f"{home}/.ray/several_token",
        }
    finally:
        script.send_signal(signal.SIGTERM)
        script.wait()
        shutil.rmtree(home, ignore_errors=True)


def free() -> int:
    """A port that nobody listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


if __name__ == "__main__":
    tyro.cli(main)
