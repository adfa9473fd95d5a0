"""How long each step of a loop takes, told by the device where it runs behind the host, which waits for nothing."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator

import torch

from pipeline.objectives.objective import Batch


class Stopwatch:
    """A mark at every batch that a loop asks for and, made by whoever ran it, one at its end."""

    def __init__(self, device: torch.device, clock: Callable[[], float] = time.perf_counter):
        self.device, self.clock = device, clock  # the clock is a CPU's
        self.marks: list[float | torch.cuda.Event] = []

    def over(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The same batches."""
        for batch in batches:
            self.mark()
            yield batch

    def mark(self) -> None:
        """This moment, on the device."""
        if self.device.type == "cuda":
            mark = torch.cuda.Event(enable_timing=True)
            mark.record(torch.cuda.current_stream(self.device))
        else:
            mark = self.clock()
        self.marks.append(mark)

    def last(self, steps: int) -> list[float]:
        """The seconds of each of the last `steps`, the end of which was marked."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        # Not the first ones: of a GPU's batches the loop asks for one more, before it begins.
        marks = self.marks[-steps - 1 :]
        return [_between(start, end) for start, end in itertools.pairwise(marks)]


def _between(start: float | torch.cuda.Event, end: float | torch.cuda.Event) -> float:
    if isinstance(start, torch.cuda.Event) and isinstance(end, torch.cuda.Event):
        return start.elapsed_time(end) / 1000
    return end - start  # pyright: ignore[reportOperatorIssue]
