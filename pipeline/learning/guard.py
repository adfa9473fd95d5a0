"""What steps say of themselves, kept on the device: the host reads it now and then and waits for nothing else.

A step whose gradient is not finite is not taken. When more of them come than are allowed, the run is over: from that
step on nothing is taken, so that whenever the host looks, the weights are those of the step before.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.learning.state import State
from pipeline.objectives.objective import Batch

Metrics = dict[str, float]


class Guard:
    """Which steps of a run are taken; `skips` is how many may be left out in all."""

    def __init__(self, state: State, skips: int):
        self.state, self.skips, self.known = state, skips, state.skipped
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
        self.names = torch.where(last, torch.where(losses.isfinite(), -1, rows), self.names)
        self.step = torch.where(last, self.state.step, self.step)
        self.over = self.over | last
        return ~(bad | self.over)

    def read(self, batch: int) -> None:
        """Bring the state's count of skipped steps up to date.

        Raises FloatingPointError, with the state at the step that ended the run, naming what was wrong with it.
        """
        if not self.begun:
            return
        state = self.state
        skipped, step = torch.stack([self.skipped, self.step]).tolist()
        state.skipped = int(skipped)
        if step < 0:
            return
        state.images -= batch * (state.step - step)
        state.step = step
        names = self.names[self.names >= 0].tolist()
        whose = (
            f"the loss of {self.kind} {names[:16]}" if names else "the gradient (every loss of this process is finite)"
        )
        raise FloatingPointError(
            f"step {step} at {state.images} images: {whose} is not finite: look at these data or lower the rate."
        )

    def _begin(self, device: torch.device, rows: int) -> None:
        self.begun = True
        self.skipped = torch.full((), self.known, device=device)
        self.step = torch.full((), -1, device=device)
        self.over = torch.zeros((), dtype=torch.bool, device=device)
        self.names = torch.full((rows,), -1, device=device)


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
