"""How long `kintsugi estimate` says that a training takes, over how long it then takes: pairs, one after the other.

    python benchmarks/estimate.py --repeats 3

Of the training is taken what its loop took (from the first post to the last, and the steps before the first in
proportion) and the whole step, with the start of processes, which the estimate leaves out and says so.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time


def main() -> None:
    """Print one line a pair, and medians with ranges."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--images", type=int, default=24_000)
    asked = parser.parse_args()
    loops, wholes = [], []
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(asked.repeats):
            options = ["plain", "--store", folder, "--samples", "8", "--json", "--set", f"fit.images={asked.images}"]
            options += ["--set", f"fit.optim.lr={0.004 + repeat / 1e6}"]  # another training of the same rows
            said = subprocess.run(command("estimate", options), check=True, capture_output=True, text=True).stdout
            (row,) = (row for row in json.loads(said.splitlines()[-1])["steps"] if row["step"] == "model")
            guess = row["hours"] * 3600
            loop, whole = taken(options, row["images"])
            print(f"estimate {guess:.1f} s, loop {loop:.1f} s, step {whole:.1f} s", flush=True)
            loops.append(guess / loop)
            wholes.append(guess / whole)
    for name, ratios in (("loop", loops), ("whole step", wholes)):
        print(f"estimate over the {name}: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


def command(verb: str, options: list[str]) -> list[str]:
    """The words of a command of kintsugi."""
    return [sys.executable, "-m", "stages", verb, *options]


def taken(options: list[str], images: int) -> tuple[float, float]:
    """Seconds of the loop of a run's training, and of the whole step."""
    posts, whole = [], 0.0
    with subprocess.Popen(command("run", options), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as run:
        for line in run.stderr or ():
            event = json.loads(line) if line.startswith("{") else {}
            if event.get("step") != "model":
                continue
            if event["event"] == "progress":
                posts.append((time.monotonic(), event["at"]))
            elif event["event"] == "done":
                whole = event["seconds"]
    (start, first), (end, last) = posts[0], posts[-1]
    return (end - start) * images / (last - first), whole


if __name__ == "__main__":
    main()
