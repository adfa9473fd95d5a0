"""Being told to end: a run stops between two steps, whole, so that it can go on from there later or elsewhere.

    with Notice() as notice, Background(Checkpoints(folder)) as saving:
        course.run(hooks, stop=notice)
        saving.save(course.state)

Who takes a machine away sends `SIGTERM` first. Of several processes all must stop after the same step, or those that
went on would wait for the others for ever: `Agreed` tells all of them what any of them was told.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch


class Notice:
    """Whether this process was told to end; while the context is open, `SIGTERM` tells it.

    The context is opened in the main thread. A second signal does what the first would have done without.
    """

    def __init__(self) -> None:
        self.given = False
        self._before: Any = signal.SIG_DFL

    def __call__(self) -> bool:
        return self.given

    def give(self) -> None:
        """Tell it."""
        self.given = True

    def __enter__(self) -> Notice:
        self._before = signal.signal(signal.SIGTERM, self._heard)
        return self

    def __exit__(self, *raised: object) -> None:
        signal.signal(signal.SIGTERM, self._before)

    def _heard(self, number: int, frame: FrameType | None) -> None:
        if not self.given:
            self.give()
            return
        signal.signal(number, self._before)
        signal.raise_signal(number)


class Agreed:
    """The most that any of the processes was told, on all of them and at the same step: the one after it was said.

    What is told is a number up to 255, 0 for nothing, or whether there is anything. Every process makes one, at the
    same time, and asks it once a step. The question travels beside the step, over CPUs, so that nothing waits for it
    and no GPU is looked at.
    """

    def __init__(self, told: Callable[[], int]):
        self.told = told
        self.group = torch.distributed.new_group(backend="gloo")
        self.asked: tuple[torch.Tensor, Any] | None = None

    def __call__(self) -> int:
        before, mine = self.asked, torch.tensor([self.told()], dtype=torch.uint8)
        most = torch.distributed.ReduceOp.MAX
        self.asked = mine, torch.distributed.all_reduce(mine, most, self.group, async_op=True)
        if before is None:
            return 0
        said, work = before
        work.wait()
        return int(said)
