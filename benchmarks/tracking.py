"""What tracking costs a training step: none, a server that answers, one that is dead, one that takes calls in silence.

    python benchmarks/tracking.py --repeats 5

Each run is the same loop of small steps (a convolution, forwards and backwards, on one core) which tells the tracker
four metrics `--posts` times and five pictures, as a training does (`--posts 600` tells it at every step). The ways are
interleaved. Of a busy machine the processor's time says more: that of the tracker's calls and of the delivering thread,
over that of the steps; that of making the run is part of it. `MLFLOW_TRACKING_URI` names the server that answers
(`mlflow server` on this machine); the others are made here. Closing is measured apart. Linux.
"""

from __future__ import annotations

import contextlib
import os
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import Any

import torch
import tyro

from pipeline.engine.track import Subject, Tracking
from pipeline.store import Store

NONE, HEALTHY, DEAD, SILENT = "no tracking", "healthy server", "dead server", "silent server"


class Nobody:
    """A tracker that keeps nothing."""

    def metrics(self, values: Any, at: int) -> None:
        return None

    def picture(self, name: str, png: bytes) -> None:
        return None


def main(repeats: int = 5, steps: int = 600, side: int = 24, batch: int = 64, posts: int = 50) -> None:
    """Print a line a run, then medians and ranges; a training posts fifty times, however long it is."""
    torch.set_num_threads(1)
    server = os.environ["MLFLOW_TRACKING_URI"]
    with socket.socket() as free, socket.socket() as silent:
        free.bind(("127.0.0.1", 0))
        silent.bind(("127.0.0.1", 0))
        silent.listen(64)  # the system takes the calls; nobody answers
        uris = {
            NONE: None,
            HEALTHY: server,
            DEAD: f"http://127.0.0.1:{free.getsockname()[1]}",
            SILENT: f"http://127.0.0.1:{silent.getsockname()[1]}",
        }
        taken: dict[str, list[tuple[float, float, float]]] = {name: [] for name in uris}
        for repeat in range(repeats + 1):
            for name in sorted(uris, key=lambda name: (list(uris).index(name) + repeat) % len(uris)):
                found = one(uris[name], repeat, steps, side, batch, posts)
                line = f"{found[0]:8.3f} ms a step {100 * found[1]:6.2f}% of the processor {found[2]:6.1f} s to close"
                print(f"{repeat or 'warm-up':<8}{name:<16}{line}", flush=True)
                if repeat:
                    taken[name].append(found)
    print(
        "\n| | tracking / step, processor time | time a step / without | seconds to close |\n| --- | --- | --- | --- |"
    )
    for name, found in taken.items():
        wall = [mine[0] / floor[0] for mine, floor in zip(found, taken[NONE], strict=True)]
        shares, closing = ([row[i] for row in found] for i in (1, 2))
        print(f"| {name} | {told([100 * share for share in shares], 2)}% | {told(wall, 2)} | {told(closing, 1)} |")


def one(uri: str | None, repeat: int, steps: int, side: int, batch: int, posts: int) -> tuple[float, float, float]:
    """(milliseconds a step, processor time of tracking over that of the steps, seconds that closing took)."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        earlier = {thread: consumed(thread) for thread in threads()}
        tracker = stack.enter_context(tracked(uri, folder, repeat)) if uri else Nobody()
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Conv2d(1, 16, 3), torch.nn.SiLU(), torch.nn.Conv2d(16, 1, 3))
        optim, x = torch.optim.AdamW(net.parameters()), torch.randn(batch, 1, side, side)
        start, busy, inside = time.perf_counter(), time.thread_time(), 0.0
        for step in range(steps):
            optim.zero_grad()
            loss = net(x).square().mean()
            loss.backward()
            optim.step()
            value, before = loss.item(), time.thread_time()
            if step % max(1, steps // posts) == 0:
                tracker.metrics({"loss": value, "lr": 1e-3, "gradient": value, "rate": 1.0}, at=(step + 1) * batch)
            if step % max(1, steps // 5) == 0:
                tracker.picture(f"{step}.png", b"\x89PNG" + bytes(20_000))
            inside += time.thread_time() - before
        spent, busy = time.perf_counter() - start, time.thread_time() - busy
        beside = sum(consumed(thread) - earlier.get(thread, 0.0) for thread in threads())
        before = time.perf_counter()
        stack.close()
        return 1e3 * spent / steps, (inside + beside) / (busy - inside), time.perf_counter() - before


def threads() -> list[threading.Thread]:
    """Those that deliver."""
    return [thread for thread in threading.enumerate() if thread.name == "mlflow"]


def consumed(thread: threading.Thread) -> float:
    """Seconds of the processor's."""
    return time.clock_gettime(time.pthread_getcpuclockid(thread.ident or 0))


@contextlib.contextmanager
def tracked(uri: str, folder: str, repeat: int) -> Iterator[Any]:
    """A run on that server, of a store of its own."""
    os.environ["MLFLOW_TRACKING_URI"] = uri
    with Tracking(Store(folder), "benchmark") as tracking, tracking.of(Subject(f"{folder}/{repeat}", "run")) as run:
        yield run


def told(values: list[float], digits: int) -> str:
    """Median and range."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


if __name__ == "__main__":
    tyro.cli(main)
