"""What a worker lets its overseer know, and hears from it, while another of its threads trains.

There is one `PULSE` a process: Ray calls what is asked here in the main thread, which also receives signals.
"""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Callable

from pipeline.learning.notice import Notice

SAVE, END = 1, 2  # what workers may be told after a step; who ends saves as well


class Alarm:
    """Rings once `seconds` after it was set, and is set again by that."""

    def __init__(self, seconds: float):
        self.seconds = seconds
        self.set()

    def __call__(self) -> bool:
        rings = time.monotonic() - self.since >= self.seconds
        if rings:
            self.set()
        return rings

    def set(self) -> None:
        """Count from now."""
        self.since = time.monotonic()


class Order:
    """What all workers are told after a step, by `told`; asked once a step whether to end."""

    def __init__(self, pulse: Pulse, told: Callable[[], int]):
        self.pulse, self.told, self.last = pulse, told, 0

    def __call__(self) -> bool:
        self.pulse.beat()
        self.last = self.told()
        return self.last == END

    def saves(self) -> bool:
        """Whether the last answer was to save."""
        return self.last == SAVE


class Pulse:
    """When a step was last finished, while the context is open, and whether this process was told to end.

    Outside it, when that was left, or when this process began to listen.
    """

    def __init__(self) -> None:
        self.notice = Notice()
        self.last = time.monotonic()
        self.training = False
        self.slowest = 0.0

    def beat(self) -> None:
        """Another step is done."""
        now = time.monotonic()
        self.last, self.slowest = now, max(self.slowest, now - self.last)

    def __enter__(self) -> Pulse:
        self.training, self.last, self.slowest = True, time.monotonic(), 0.0
        return self

    def __exit__(self, *raised: object) -> None:
        self.training, self.last = False, time.monotonic()


PULSE = Pulse()


def listen() -> None:
    """Be told by SIGTERM from now on, instead of dying of it."""
    PULSE.notice.__enter__()
    PULSE.last = time.monotonic()


def tell() -> None:
    """Be told to end after this step."""
    PULSE.notice.give()


def silence() -> tuple[float, float, bool]:
    """Seconds since the last step or the last change, those of the slowest step, and whether it is training."""
    return time.monotonic() - PULSE.last, PULSE.slowest, PULSE.training


def stacks() -> str:
    """What every thread of this process is doing, but for the one that asks."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    parts = []
    for number, frame in sys._current_frames().items():
        if number != threading.get_ident():
            parts.append(f"thread {names.get(number, number)}:\n{''.join(traceback.format_stack(frame))}")
    return "".join(parts)
