"""Whose turn it is: needs first, side by side while the cluster lasts, and nothing that another run is making."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .lease import Lease
from .store import Store

if TYPE_CHECKING:
    from .graph import Step

POLL = 2.0  # seconds between two looks at what another run is making, about


@dataclass(frozen=True)
class Event:
    """What happened to a step: `what` is start, done, cached, failed, probed, or waiting for a run that makes it.

    Or stopped, where nobody wanted it any more (`Enough`).

    That other run has been making it `since`.
    """

    step: Step
    what: str
    seconds: float = 0.0
    since: str = ""


class StepFailed(RuntimeError):
    """A step that raised; the cause is chained."""

    def __init__(self, failed: Step, cause: BaseException):
        super().__init__(f"{failed.label} failed: {cause}")
        self.step = failed


class Schedule:
    """The steps that a run has before it, in hand, and in another run's hands, by address.

    What another run is making takes nothing of the capacity: it is `elsewhere` until it is made there, or until its
    maker is dead and it is this run's turn.

    Args:
        missing: the steps to be made, needs first.
        store: where they are going.
        capacity: (cores, devices) of the cluster.

    Raises:
        ValueError: a step wants more than the capacity.
    """

    def __init__(self, missing: Iterable[Step], store: Store, capacity: tuple[float, float]):
        self.todo = {step.address: step for step in missing}
        self.running: dict[str, Step] = {}
        self.elsewhere: dict[str, tuple[Step, Lease]] = {}
        self.store, self.capacity = store, capacity
        for step in self.todo.values():
            if not self._fits(step):
                raise ValueError(
                    f"{step.label} wants {step.scale.total[0]:g} CPUs and {step.scale.total[1]:g} GPUs but there are "
                    f"{capacity[0]:g} and {capacity[1]:g}: lower its workers or join a larger cluster with RAY_ADDRESS"
                )

    def next(self) -> Iterator[tuple[Step, Lease | Exception | None]]:
        """What is new: a step and its lease, to be run if it is `ours`; None: another run has made it; or an error."""
        for address, (step, lease) in list(self.elsewhere.items()):
            with contextlib.suppress(Exception):  # where the store is away, `claim` will say so
                if lease.alive():
                    continue
            del self.elsewhere[address]
            self.todo = {address: step} | self.todo
        for address, step in self._ready():
            try:
                found = self.store.claim(step)
            except Exception as error:
                found = error
            del self.todo[address]
            if isinstance(found, Lease):
                if found.ours:
                    self.running[address] = step
                else:
                    self.elsewhere[address] = step, found
            yield step, found

    def span(self, seconds: Mapping[str, float]) -> float:
        """Seconds until all is made where each step takes those at its address (none: 0) and no other run helps."""
        now, ends = 0.0, dict[str, float]()
        while self.todo or ends:
            for address, step in self._ready():
                self.running[address] = step
                del self.todo[address]
                ends[address] = now + seconds.get(address, 0.0)
            first = min(ends, key=lambda address: ends[address])
            now = ends.pop(first)
            del self.running[first]
        return now

    @property
    def patience(self) -> float | None:
        """Seconds to wait for a running step before looking again; random, so that two runs do not keep in step."""
        return POLL * random.uniform(0.5, 1.5) if self.elsewhere else None

    def _ready(self) -> Iterator[tuple[str, Step]]:
        """What could start now, one after the other: what came of one is heeded for the next."""
        for address, step in list(self.todo.items()):
            if not self._blocked(step) and self._fits(step):
                yield address, step

    def _blocked(self, step: Step) -> bool:
        return any(n.address in at for n in step.before for at in (self.todo, self.running, self.elsewhere))

    def _fits(self, step: Step) -> bool:
        # What may take more than it must takes all there is once it runs.
        reaches = [other.scale.reach for other in self.running.values()]
        taken = [sum(min(reach[i], have) for reach in reaches) for i, have in enumerate(self.capacity)]
        return all(w + t <= have for w, t, have in zip(step.scale.total, taken, self.capacity, strict=True))
