"""What steps say of themselves, kept on the device: the host reads it now and then and waits for nothing else.

A step whose gradient is not finite is not taken. When more of them come than are allowed, the run is over: from that
step on nothing is taken, so that whenever the host looks, the weights are those of the step before. What becomes of a
run that is over is the course's to say (`course.py`): it stops, or rolls back.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pipeline.learning.state import State
from pipeline.objectives.objective import Batch

log = logging.getLogger("kintsugi")
Metrics = dict[str, float]
Names = Callable[[Sequence[int]], Sequence[str]]


class NotFinite(FloatingPointError):
    """A run is over: a loss or a gradient was not finite once too often."""


class Guard:
    """Which steps of a run are taken; `skips` is how many may be left out in all, `names` gives the ids of examples."""

    def __init__(self, state: State, skips: int, names: Names | None = None):
        self.state, self.skips, self.known, self.names = state, skips, state.skipped, names
        self.begun = False

    def take(self, norm: Tensor, losses: Tensor, batch: Batch) -> Tensor:
        """Whether this step is taken: a boolean on the device, the same on all processes that share the gradient."""
        if not self.begun:
            self._begin(norm.device, len(losses))
        rows = torch.arange(len(losses), device=norm.device) + batch.offset if batch.index is None else batch.index
        self.kind = "row" if batch.index is None else "example"
        bad = ~norm.isfinite() & ~self.over
        self.skipped = self.skipped + bad
        last = bad & (self.skipped > self.skips)
        self.rows = torch.where(bad, torch.where(losses.isfinite(), -1, rows), self.rows)
        self.step = torch.where(last, self.state.step, self.step)
        self.over = self.over | last
        return ~(bad | self.over)

    def fine(self) -> bool:
        """Bring the state's count of skipped steps up to date and say whether the run goes on."""
        if not self.begun:
            return True
        skipped, self.ended = map(int, torch.stack([self.skipped, self.step]).tolist())
        if skipped > self.state.skipped and self.ended < 0:
            log.warning("%d steps passed over so far: %s is not finite in the last of them", skipped, self._what())
        self.state.skipped = skipped
        return self.ended < 0

    def read(self, batch: int) -> None:
        """As `fine`, but raises NotFinite, with the state at the step that ended the run, naming what was wrong."""
        if self.fine():
            return
        state, step = self.state, self.ended
        state.images -= batch * (state.step - step)
        state.step = step
        raise NotFinite(
            f"step {step} at {state.images} images: {self._what()} is not finite: look at these data or lower the rate."
        )

    def _what(self) -> str:
        """What was wrong with the last bad step, as far as this process knows."""
        rows = self.rows[self.rows >= 0].tolist()[:16]
        if not rows:
            return "the gradient (every loss of this process is finite)"
        return f"the loss of {self.kind} {rows if self.names is None or self.kind == 'row' else self.names(rows)}"

    def _begin(self, device: torch.device, rows: int) -> None:
        self.begun = True
        self.skipped = torch.full((), self.known, device=device)
        self.step = torch.full((), -1, device=device)
        self.over = torch.zeros((), dtype=torch.bool, device=device)
        self.rows = torch.full((rows,), -1, device=device)


class Meter:
    """Sums of what the steps that were taken reported."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}

    def add(self, means: dict[str, Tensor], taken: Tensor) -> None:
        """One step's means."""
        for name, value in {"": torch.ones_like(taken, dtype=torch.float64), **means}.items():
            self.sums[name] = self.sums.get(name, 0) + torch.where(taken, value.double(), 0.0)

    def read(self) -> Metrics:
        """The means since the last reading; none if no step was taken."""
        values = torch.stack(list(self.sums.values())).tolist() if self.sums else [0.0]
        count, names = values[0], list(self.sums)[1:]
        self.sums = {}
        return {name: value / count for name, value in zip(names, values[1:])} if count else {}
