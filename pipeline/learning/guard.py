"""What steps say of themselves, kept on the device: the host reads it now and then and waits for nothing else.

A step whose gradient, or a loss in it, is not finite is not taken. A bad loss spoils the gradient, which processes
share (step.py), unless it has none, as where an objective puts a constant in place of every row: so they tell each
other. When more of them come than are allowed, the run is over: from that step on nothing is taken, so that whenever
the host looks, the weights are those of the step before. A step that was taken and left weights that are not finite (a
rate beyond all measure) ends the run, too, and has spoilt weights and averages by then: they are never saved. What
becomes of a run that is over is the course's to say (`course.py`): it stops, or rolls back.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pipeline.learning.peers import Peers
from pipeline.learning.state import State
from pipeline.objectives.objective import Batch

log = logging.getLogger("kintsugi")
Metrics = dict[str, float]
Names = Callable[[Sequence[int]], Sequence[str]]
NAMED = 16  # examples, at most, in a message


class NotFinite(FloatingPointError):
    """A run is over: a loss or a gradient was not finite once too often, or the weights are not."""


class Guard:
    """Which steps of a run are taken; `skips` is how many may be left out in all, `names` gives the ids of examples.

    All `peers` look at once, and say the same whichever of them had the rows.
    """

    def __init__(self, state: State, skips: int, names: Names | None = None, peers: Peers = Peers()):
        self.state, self.skips, self.known, self.names, self.peers = state, skips, state.skipped, names, peers
        self.begun = False
        self.held: list[tuple[int, Tensor]] = []  # of each step since the last look: rows whose loss is bad, else -1

    def take(self, norm: Tensor, losses: Tensor, batch: Batch) -> Tensor:
        """Whether this step is taken: a boolean on the device, the same on all processes that share the gradient."""
        if not self.begun:
            self._begin(norm.device)
        rows = torch.arange(len(losses), device=norm.device) + batch.offset if batch.index is None else batch.index
        self.kind = "row" if batch.index is None else "example"
        sound = self.peers.all(losses.isfinite().all().int()).bool().all()
        bad = ~(norm.isfinite() & sound) & ~self.over
        self.skipped = self.skipped + bad
        self.held.append((self.state.step, torch.where(bad & ~losses.isfinite(), rows, -1)))
        self._end(bad & (self.skipped > self.skips))
        return ~(bad | self.over)

    def settle(self, taken: Tensor, sound: Tensor) -> None:
        """After a step: whether it was taken, and whether all weights are finite, on all processes alike."""
        spoilt = taken & ~sound
        self.spoilt = self.spoilt | spoilt
        self._end(spoilt)

    def read(self, batch: int) -> None:
        """Bring the state's count of skipped steps up to date, and name what was wrong with those that are new.

        Raises NotFinite, with the state at the step that ended the run, if one has.
        """
        if not self.begun:
            return
        skipped, step, spoilt = map(int, torch.stack([self.skipped, self.step, self.spoilt.long()]).tolist())
        held, self.held = self.held, []
        state, ended = self.state, step >= 0
        before, state.skipped = state.skipped, skipped
        passed = skipped - (ended and not spoilt)
        rows = self._rows(held) if skipped > before else []
        if passed > before:
            what = self._what([row for at, found in rows for row in found if at != step])
            log.warning("%d steps passed over, %d before: %s is not finite", passed, before, what)
        if not ended:
            return
        state.images -= batch * (state.step - step)
        state.step = step
        at = f"step {step} at {state.images} images"
        if spoilt:
            raise NotFinite(f"{at}: the weights are not finite after it, though its gradient is: lower the rate.")
        what = self._what([row for at, found in rows for row in found if at == step])
        raise NotFinite(f"{at}: {what} is not finite: look at these data or lower the rate.")

    def _rows(self, held: list[tuple[int, Tensor]]) -> list[tuple[int, list[int]]]:
        """Of every step the rows, of all processes, whose loss was not finite."""
        found = self.peers.all(torch.stack([rows for _, rows in held])).movedim(0, 1).flatten(1).tolist()
        return [(step, [row for row in rows if row >= 0]) for (step, _), rows in zip(held, found, strict=True)]

    def _what(self, rows: list[int]) -> str:
        if not rows:
            return "the gradient (every loss is finite)"
        rows = list(dict.fromkeys(rows))
        named = rows[:NAMED] if self.names is None or self.kind == "row" else self.names(rows[:NAMED])
        more = f" and {len(rows) - NAMED} more" if len(rows) > NAMED else ""
        return f"the loss of {self.kind} {named}{more}"

    def _end(self, now: Tensor) -> None:
        self.step = torch.where(now, self.state.step, self.step)
        self.over = self.over | now

    def _begin(self, device: torch.device) -> None:
        self.begun = True
        self.skipped = torch.full((), self.known, device=device)
        self.step = torch.full((), -1, device=device)
        self.over = torch.zeros((), dtype=torch.bool, device=device)
        self.spoilt = torch.zeros((), dtype=torch.bool, device=device)


class Meter:
    """Sums of what the steps that were taken reported."""

    def __init__(self, peers: Peers = Peers()) -> None:
        self.peers = peers
        self.sums: dict[str, Tensor] = {}

    def add(self, means: dict[str, Tensor], taken: Tensor) -> None:
        """One step's means."""
        for name, value in {"": torch.ones_like(taken, dtype=torch.float64), **means}.items():
            self.sums[name] = self.sums.get(name, 0) + torch.where(taken, value.double(), 0.0)

    def read(self) -> Metrics:
        """The means since the last reading, over the rows of all processes; none if no step was taken."""
        if not self.sums:
            return {}
        count, *values = self.peers.all(torch.stack(list(self.sums.values()))).sum(0).tolist()
        names = list(self.sums)[1:]
        self.sums = {}
        return {name: value / count for name, value in zip(names, values, strict=True)} if count else {}
