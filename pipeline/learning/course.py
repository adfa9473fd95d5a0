"""A course of training: everything that `fit` takes, made where it runs, from one process's point of view."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from pipeline.diffusion.levels import Levels
from pipeline.keys import Key
from pipeline.learning.guard import Names, NotFinite
from pipeline.learning.loop import Clock, Every, fit, over
from pipeline.learning.speed import Speed
from pipeline.learning.state import State
from pipeline.objectives.objective import Batch, Objective

log = logging.getLogger("kintsugi")


@dataclass
class Course:
    """`batches(start, rank, world)` gives this process's share of every global batch from image `start` on.

    `names` gives the ids of examples by the indices that the batches have. `held` measures the averaged model on images
    that train nothing, for who watches: nothing comes of it, unlike of `validate`. `earlier` is what another run, which
    this one goes on from, ended as: its tensors and numbers. `found` are numbers of the data, which only who reads them
    knows: they come along with the last metrics.
    """

    state: State
    batches: Callable[[int, int, int], Iterable[Batch]]
    objective: Objective
    levels: Levels
    clock: Clock
    key: Key
    validate: Callable[[nn.Module], float] | None = None
    bf16: bool = False
    tf32: bool = False
    waited: float = 0.0
    names: Names | None = None
    held: Callable[[nn.Module], float] | None = None
    earlier: tuple[dict[str, Tensor], dict[str, Any]] | None = None
    found: Mapping[str, float] = field(default_factory=dict)

    def begin(self) -> None:
        """Stand where the earlier run ended, unless this one has begun; once the state is divided, if it is to be."""
        if self.earlier is not None and not self.state.step:
            self.state.load(*self.earlier)
        self.earlier = None

    def run(
        self,
        hooks: Sequence[Every] = (),
        rank: int = 0,
        world: int = 1,
        parallel: nn.Module | None = None,
        speed: Speed = Speed(),
        micro: int | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> State:
        """Train from where the state stands to the end, or to `stop`; a finished state returns at once, and says so.

        What is not finite once too often rolls the run back, `clock.rollbacks` times at most: to the last moment that
        was remembered, and on with the images after those that led there. Where that is and what is passed over are
        numbers of the state, the same in all processes and after a restart.
        """
        self.begin()
        clock = self.clock if micro is None else replace(self.clock, micro=micro)
        if self.over:
            log.warning("this run is complete at %d images: there is nothing left to do.", self.state.images)
            return self.state
        while True:
            try:
                return fit(
                    self.state,
                    self._timed(self.batches(self.state.position, rank, world)),
                    self.objective,
                    self.levels,
                    clock,
                    self.key,
                    hooks=hooks,
                    validate=self.validate,
                    parallel=parallel,
                    speed=replace(speed, bf16=speed.bf16 or self.bf16, tf32=speed.tf32 or self.tf32),
                    names=self.names,
                    stop=stop,
                )
            except NotFinite as error:
                if self.state.rollbacks >= clock.rollbacks:
                    raise
                self._roll_back(clock, error)

    def _roll_back(self, clock: Clock, error: NotFinite) -> None:
        state = self.state
        state.roll_back(clock.batch)
        log.warning(
            "%s Rolled back to %d images, and on with number %d of the order, for the %d. of at most %d times",
            *(error, state.images, state.position, state.rollbacks, clock.rollbacks),
        )

    @property
    def over(self) -> bool:
        """Whether there is nothing left to do."""
        return over(self.state, self.clock)

    def _timed(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The same batches; `waited` adds up the seconds in which training had none."""
        source = iter(batches)
        while True:
            start = time.perf_counter()
            batch = next(source, None)
            self.waited += time.perf_counter() - start
            if batch is None:
                return
            yield batch
