"""From what workers post to the tracker of the step that they work for, and back: whether it wants no more."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.engine import cluster
from pipeline.graph import Context, Enough

log = logging.getLogger("kintsugi")


@contextmanager
def relay(topic: str, at: Context) -> Iterator[threading.Event]:
    """Pass on what workers post to the step's tracker, while the context is open.

    Gives an event, set once the tracker has said `Enough`: the workers are told to end, with a checkpoint.
    """
    import ray
    import ray.exceptions

    closing, enough, board = threading.Event(), threading.Event(), cluster.board()

    def drain() -> None:
        try:
            posts = ray.get(board.take.remote(topic))
        except ray.exceptions.RayError as error:  # a lost progress line must not cost a training run
            log.warning("progress of a step was lost: %s", error)
            posts = []
        for post in posts:
            if "said" in post:
                log.warning("%s", post["said"])
                continue
            try:
                at.tracker.metrics(post["values"], at=post["at"])
            except Enough:
                enough.set()
                board.end.remote(topic)

    def watch() -> None:
        while not closing.wait(0.5):
            drain()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield enough
    finally:
        closing.set()
        watcher.join()
        drain()
