"""Who watches over a group of workers: how many there are, whether they still move, and that they hear of an end.

Ray Train decides how many workers there is room for and starts them again when one dies. This adds, from within its
controller, what it does not know: that a batch must be shared evenly, how many cores are for workers, that a step
which does not end is a failure, and that workers are to stop after the same step when their machine is taken away.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import RayError
from ray.train import WorkerGroupError
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.callback import ControllerCallback, WorkerGroupCallback

from pipeline.engine import cluster, machines, pulse
from pipeline.graph import Scale

log = logging.getLogger("kintsugi")
SLOW = 10  # times the slowest step so far is no hang yet
PATIENT = 6  # times as long as a step may data be opened before the first, and the result be written after the last
ANSWER = 10.0  # seconds in which a worker must say where it is


class Trainer(TorchTrainer):
    """Ray Train's, without those of its five processes that are idle: each takes seconds of a core to start.

    One hands out Ray Data sets, which no worker of ours reads. Another frees what a lost controller held, which a
    cluster that ends with this run does by ending.
    """

    def _create_default_callbacks(self) -> list[Any]:
        idle = (DatasetsCallback, *((PlacementGroupCleanerCallback,) if cluster.STARTED.is_set() else ()))
        return [callback for callback in super()._create_default_callbacks() if not isinstance(callback, idle)]


class Overseer(WorkerGroupCallback, ControllerCallback):
    """One for a group; `worlds` are the numbers of workers that may be, `board` and `topic` lead to the driver."""

    def __init__(self, scale: Scale, worlds: Sequence[int], board: Any, topic: str):
        self.scale, self.worlds, self.board, self.topic = scale, worlds, board, topic
        self.group: Any = None
        self.world, self.told = 0, False
        self.asked: dict[int, Any] = {}
        self.question: Any = None
        self.looked = self.moved = self.slowest = 0.0
        self.training: dict[int, bool] = {}

    def before_controller_execute_resize_decision(self, resize_decision: Any) -> None:
        """As many workers as Ray found room for, rounded down to what can share a batch."""
        if self.scale.most is None:
            return
        room = min(resize_decision.num_workers, places(self.scale))
        resize_decision.num_workers = max((n for n in self.worlds if n <= room), default=self.worlds[0])

    def on_controller_start_worker_group(self, *, scaling_config: Any, num_workers: int) -> dict[str, str] | None:
        """Whom they must keep off."""
        return machines.spared(self.scale, num_workers)

    def after_worker_group_start(self, worker_group: Any) -> None:
        """Every worker listens, and is asked from now on where it is."""
        worker_group.execute(pulse.listen)
        self.group, self.told, self.asked = worker_group, False, {}
        self.looked = self.moved = time.monotonic()
        self.slowest, self.training = 0.0, {}
        if self.scale.most is not None and len(worker_group) != self.world:
            self.world = len(worker_group)
            self.say(f"training with {self.world} of up to {self.worlds[-1]} workers")

    def before_worker_group_shutdown(self, worker_group: Any) -> None:
        """Nobody is asked any more."""
        self.group = None

    def after_worker_group_poll_status(self, worker_group_status: Any) -> None:
        """Pass on that a machine will be taken away, or a person ends the run; look whether anything moves."""
        if self.group is None:
            return
        if not self.told and (worker_group_status.get_preemption_info() is not None or self._ended()):
            self.told = True
            self.group.execute_async(pulse.tell)
        self._hear()
        now = time.monotonic()
        if now - self.looked >= min(5.0, self.scale.hang_after / 4):
            self.looked = now
            for rank, worker in enumerate(self.group.get_workers()):
                if rank not in self.asked:
                    self.asked[rank] = worker.execute_async(pulse.silence)
        limit = max(self.scale.hang_after, SLOW * self.slowest)
        # Whoever has opened its data waits for those that have not.
        begun = len(self.training) == len(self.group) and all(self.training.values())
        if now - self.moved > limit * (1 if begun else PATIENT):
            self._hangs(now - self.moved)

    def say(self, sentence: str) -> None:
        """To the user."""
        self.board.post.remote(self.topic, {"said": sentence})

    def _ended(self) -> bool:
        """Whether a person ended the run, as of the last answer."""
        if self.question is None:
            self.question = self.board.ended.remote(self.topic)
        if not ray.wait([self.question], timeout=0)[0]:
            return False
        question, self.question = self.question, None
        try:
            return ray.get(question)
        except RayError:  # the driver is gone, and takes the group with it
            return False

    def _hear(self) -> None:
        for rank, answer in list(self.asked.items()):
            if not ray.wait([answer], timeout=0)[0]:
                continue
            del self.asked[rank]
            try:
                silence, slowest, self.training[rank] = ray.get(answer)
            except RayError:  # it is dead, which Ray Train will find out
                continue
            self.moved = max(self.moved, time.monotonic() - silence)
            self.slowest = max(self.slowest, slowest)

    def _hangs(self, seconds: float) -> None:
        """Fail the group, after saying what each of its workers was doing."""
        steps = any(self.training.values())
        what = f"no step was finished for {seconds:.0f} s" if steps else f"no step was begun for {seconds:.0f} s"
        self.say(f"{what}: what the workers are doing follows, and training starts again from its last checkpoint")
        asked = {rank: worker.execute_async(pulse.stacks) for rank, worker in enumerate(self.group.get_workers())}
        ray.wait(list(asked.values()), num_returns=len(asked), timeout=ANSWER)
        for rank, answer in asked.items():
            try:
                self.say(f"worker {rank}:\n{ray.get(answer, timeout=0)}")
            except RayError as error:
                self.say(f"worker {rank} does not answer ({type(error).__name__})")
        raise WorkerGroupError(what, {rank: TimeoutError(what) for rank in asked})


def places(scale: Scale) -> int:
    """How many workers the machines that are alive, and stay, have room for, whoever uses them now."""
    cores, devices = cluster.capacity()
    # Those that leave take no workers, for which Ray Train would wait a minute at a time.
    nodes = [node["Resources"] for node in machines.staying()]
    found = sum(_fit(node.get("CPU", 0), scale.cpus, node.get("GPU", 0), scale.gpus) for node in nodes)
    return min(found, _fit(cores, scale.cpus, devices, scale.gpus))


def _fit(cores: float, each: float, devices: float, each_device: float) -> int:
    fit = cores / each if not each_device else min(cores / each, devices / each_device)
    return int(fit)
