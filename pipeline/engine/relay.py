"""What workers have to say, on its way to who waits for them: numbers and warnings, over the board (see cluster.py).

Ray's own stream of what processes print is off, as it has a thousand other lines. Sentences that several workers say,
as all do who read the same checkpoint, are passed on once.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pipeline.stage import Enough, Tracker

log = logging.getLogger("kintsugi")
ARRIVAL = 5.0  # seconds that a worker waits at most for a sentence to arrive: it may end before it otherwise


class _Aloud(logging.Handler):
    """Posts what is logged under a topic of the board, as said by `who`."""

    def __init__(self, board: Any, topic: str, who: str):
        super().__init__(logging.WARNING)
        self.board, self.topic, self.who = board, topic, who

    def emit(self, record: logging.LogRecord) -> None:
        import ray

        try:
            post = self.board.post.remote(self.topic, {"said": record.getMessage(), "who": self.who})
            ray.wait([post], timeout=ARRIVAL)
        except Exception:  # as any handler of the standard library
            self.handleError(record)


@contextmanager
def aloud(board: Any, topic: str, who: str) -> Iterator[None]:
    """In a worker: what it warns of is posted while the context is open."""
    handler = _Aloud(board, topic, who)
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)


@contextmanager
def relayed(board: Any, topic: str, tracker: Tracker | None = None) -> Iterator[threading.Event]:
    """Where the step runs: pass on what is posted to the log and the tracker, while the context is open.

    Gives an event, set once the tracker has said `Enough`: the workers are told to end, with a checkpoint.
    """
    import ray
    import ray.exceptions

    closing, enough, news = threading.Event(), threading.Event(), News()

    def drain() -> None:
        if not ray.is_initialized():  # whoever started it has ended it, and asking would start another
            return
        try:
            posts = ray.get(board.take.remote(topic))
        except ray.exceptions.RayError as error:  # a lost progress line must not cost a training run
            log.warning("progress of a step was lost: %s", error)
            posts = []
        except Exception:  # what Ray says, in many ways, when it is ended while it is asked
            if ray.is_initialized():
                raise
            return
        for post in posts:
            if "png" in post:
                if tracker is not None:
                    tracker.picture(post["picture"].replace("/", "-"), post["png"])
            elif "said" not in post:
                try:
                    if tracker is not None:
                        tracker.metrics(post["values"], at=post["at"])
                except Enough:
                    enough.set()
                    board.end.remote(topic)
            elif news.is_new(post["said"], post.get("who")):
                log.warning("%s", post["said"])
                if tracker is not None:
                    tracker.warn(post["said"])

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


class News:
    """Which sentences are new: each as often as the one who said it most often did."""

    def __init__(self) -> None:
        self.said: Counter[tuple[str, str]] = Counter()
        self.passed: Counter[str] = Counter()

    def is_new(self, sentence: str, who: str | None) -> bool:
        """Take note of another sentence; one of nobody in particular is always new."""
        if who is None:
            return True
        self.said[who, sentence] += 1
        if self.said[who, sentence] <= self.passed[sentence]:
            return False
        self.passed[sentence] += 1
        return True
