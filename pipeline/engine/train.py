"""Ray Train around the loop: workers, devices, restarts, checkpoints; what is learned is none of its business.

Rank 0 keeps checkpoints under `_work/checkpoints` of the step's place. They are ours rather than Ray's because they
must outlive the driver, be verified by SHA-256 and serve the bare loop as well; a worker group that starts, for the
first time, after a failure, or because its machine was taken away, continues from the newest whole one.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from pipeline.engine import cluster, machine, preview
from pipeline.engine.conceded import Conceded, conceding
from pipeline.engine.kept import checkpoints
from pipeline.engine.pulse import END, PULSE, SAVE, Alarm, Order
from pipeline.engine.relay import aloud, relayed
from pipeline.graph import Context, Enough, Scale
from pipeline.learning.averages import written
from pipeline.learning.background import Background
from pipeline.learning.course import Course
from pipeline.learning.loop import Every, Metrics, When
from pipeline.learning.notice import Agreed
from pipeline.learning.peers import Peers
from pipeline.learning.speed import Speed
from pipeline.learning.state import State
from pipeline.place import Place

log = logging.getLogger("kintsugi")
UNUSABLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS}
Make = Callable[[torch.device], Course]
Save = Callable[[State], dict[str, bytes]]


@dataclass(frozen=True)
class Cadence:
    """How often, in images: steps, posts to the tracker, checkpoints, averages kept. `failures`: restarts allowed."""

    batch: int
    post: int
    checkpoint: int
    failures: int = 3
    averages: int | None = None


def train(make: Make, save: Save, at: Context, cadence: Cadence, examples: int | None = None) -> dict[str, float]:
    """Run a course on the cluster and write `save(state)` to the step's place.

    Args:
        make: called on every worker with its device; picklable.
        save: the artifact's files from the finished state; called on rank 0.
        at: the running stage.
        cadence: how often to post and to checkpoint.
        examples: how many there are, if that is known.

    Returns:
        the last metrics, and what the course found of its data.

    Raises:
        ValueError: what a worker said is wrong with the data or the configuration, which is not tried again; or so many
            workers cannot share a batch or the examples.
        RuntimeError: the workers failed more often than `cadence.failures`.
        Enough: the tracker wanted no more; training goes on from a checkpoint when the step is run again.
    """
    worlds = at.scale.worlds(cadence.batch, examples)
    if at.scale.most is not None and worlds[-1] < at.scale.most:
        log.warning("%d workers cannot share a batch of %d: at most %d do", at.scale.most, cadence.batch, worlds[-1])
    how = {"make": make, "save": save, "out": at.out, "cadence": cadence, "scale": at.scale, "board": cluster.board()}
    how["machine"] = machine.wanted()
    with cluster.training() as (topic, ended), relayed(cluster.board(), topic, at.tracker) as enough:
        while "stopped" in (returned := _groups({**how, "topic": topic}, at, worlds)):
            if ended.is_set():
                raise KeyboardInterrupt
            if enough.is_set():
                raise Enough(f"stopped at {returned['stopped']} images, with a checkpoint")
            log.warning("the workers were told to end: training goes on from %d images", returned["stopped"])
    if "refused" in returned:
        raise ValueError(returned["refused"])
    if "errno" in returned:
        raise OSError(returned["errno"], os.strerror(returned["errno"]), returned["file"])
    return returned["metrics"]


def _groups(how: dict[str, Any], at: Context, worlds: list[int]) -> dict[str, Any]:
    """What the last of them returns; what workers give up to go on is none of the failures that are counted."""
    while True:
        before = Conceded.read(at.out)
        try:
            return _group(how, at, worlds)
        except RuntimeError:
            if Conceded.read(at.out) == before:
                raise


def _group(how: dict[str, Any], at: Context, worlds: list[int]) -> dict[str, Any]:
    """What a group of workers returns, which Ray Train starts again when it fails."""
    import ray.train

    from pipeline.engine.oversee import Overseer, Trainer

    scale, failures = at.scale, how["cadence"].failures
    trainer = Trainer(
        _worker,
        train_loop_config=how,
        scaling_config=ray.train.ScalingConfig(
            num_workers=worlds[0] if scale.most is None else (worlds[0], worlds[-1]),
            elastic_resize_monitor_interval_s=math.inf,  # it would kill workers between two checkpoints
            use_gpu=scale.gpus > 0,
            resources_per_worker={"CPU": scale.cpus, **({"GPU": scale.gpus} if scale.gpus else {})},
        ),
        run_config=ray.train.RunConfig(
            name=uuid.uuid4().hex,
            **_storage(at.out),
            callbacks=[Overseer(scale, worlds, how["board"], how["topic"])],  # pyright: ignore[reportArgumentType]
            failure_config=ray.train.FailureConfig(max_failures=failures),
            logging_config=ray.train.LoggingConfig(log_level="ERROR"),
        ),
    )
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    try:
        return trainer.fit().return_value or {}
    except ray.train.TrainingFailedError as error:
        raise RuntimeError(f"training failed {failures + 1} times: {_reason(error)}") from error


def _worker(how: dict[str, Any]) -> dict[str, Any]:
    """One process of the group, refusing by what it returns: Ray Train would try again after whatever is raised."""
    import ray.train

    rank = ray.train.get_context().get_world_rank()
    try:
        with aloud(how["board"], how["topic"], f"worker {rank}"), conceding(how["out"]):
            return _train(how)
    except FloatingPointError as error:  # all processes see it at the same step
        return {"refused": str(error)}
    except torch.OutOfMemoryError as error:  # of one row, which would not fit the next time
        return {"refused": f"{error}"}
    except OSError as error:
        if error.errno not in UNUSABLE:
            raise
        return {"errno": error.errno, "file": error.filename}


def _train(how: dict[str, Any]) -> dict[str, Any]:
    import ray.train.torch

    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    device = ray.train.torch.get_device()
    cadence: Cadence = how["cadence"]
    scale: Scale = Conceded.read(how["out"]).of(how["scale"])
    divided = scale.shard and world > 1
    last: Metrics = {}

    def post(state: State, metrics: Metrics, busy: Metrics) -> None:
        last.update(metrics)
        how["board"].post.remote(how["topic"], {"at": state.images, "values": last | busy})

    with checkpoints(how["out"], scale.keep, write=rank == 0) as kept, Background(kept) as saving:
        try:
            course: Course = how["make"](device)
            if divided:
                course.state.divide()
            kept.restore(course.state)
            if world > 1:
                begin_alike(course.state, device)
            course.begin()
        except ValueError as error:
            return {"refused": str(error)}

        alarm = Alarm(scale.save)

        def keep(state: State) -> None:
            alarm.set()
            if rank == 0:
                saving.save(state)
            elif divided:
                state.tensors()  # this process's part of what rank 0 brings together

        def write(name: str, data: bytes) -> None:
            if rank == 0:
                how["out"].write(name, data)

        def draw(state: State) -> None:
            if png := preview.preview(state.average, min(preview.COUNT, cadence.batch)):
                write(preview.name(state.images), png)
                how["board"].post.remote(how["topic"], {"picture": preview.name(state.images), "png": png})

        hooks = []
        if rank == 0:
            rate, held = Rate(course), course.held
            if held is not None and not divided:  # before the post that carries it
                tenth = max(cadence.batch, course.clock.images // 10)
                hooks.append(Every(tenth, lambda state, metrics: last.update(held_out=held(state.average))))
            busy = machine.Machine(device) if how["machine"] else dict
            hooks.append(Every(cadence.post, lambda state, metrics: post(state, metrics | rate(state), busy())))
        if rank == 0 or divided:  # what is divided is brought together by all
            if cadence.averages is not None:  # before the checkpoint after which they would not be made again
                hooks.append(Every(cadence.averages, lambda state, metrics: write(*written(state))))
            if not divided:  # before the checkpoint, too
                hooks.append(Every(cadence.checkpoint, lambda state, metrics: draw(state)))
            hooks.append(Every(cadence.checkpoint, lambda state, metrics: keep(state)))
        with PULSE:
            wrapped = None
            if world > 1:
                wrapped = course.state.model if divided else ray.train.torch.prepare_model(course.state.model)

            def told() -> int:
                return END if PULSE.notice() else SAVE if rank == 0 and alarm() else 0

            order = Order(PULSE, Agreed(told) if world > 1 else told)
            hooks.append(When(order.saves, keep))
            course.run(hooks, rank, world, wrapped, speed_of(scale), scale.micro, stop=order)
        if not course.over:
            keep(course.state)
            return {"stopped": course.state.images}
    if rank == 0 or divided:
        for name, data in how["save"](course.state).items():
            write(name, data)
    return {"metrics": {**last, **course.found}}


def begin_alike(state: State, device: torch.device) -> None:
    """Raises ValueError, on every worker: they do not all begin at the same moment of the run."""
    mine = torch.tensor([state.images, state.step, state.passed], device=device)
    found = Peers(state.model).all(mine)[:, 0].tolist()
    if len(set(found)) > 1:
        raise ValueError(
            f"the workers found different checkpoints, of {', '.join(map(str, found))} images: name a --store that all "
            "machines share"
        )


def speed_of(scale: Scale) -> Speed:
    """The options of the loop that a step's scale has."""
    return Speed(
        channels_last=scale.channels_last,
        compile=scale.compile,
        checkpointing=scale.checkpointing,
        deterministic=scale.deterministic,
    )


class Rate:
    """Images a second, share of the time spent waiting for input, and seconds left, since the last call."""

    def __init__(self, course: Course):
        self.course = course
        self.images, self.time, self.waited = course.state.images, time.perf_counter(), course.waited

    def __call__(self, state: State) -> Metrics:
        now = time.perf_counter()
        seconds = max(now - self.time, 1e-9)
        rate = max(0, state.images - self.images) / seconds  # less than before: it was rolled back
        waiting = 100 * (self.course.waited - self.waited) / seconds
        self.images, self.time, self.waited = state.images, now, self.course.waited
        end = self.course.clock.images
        left = (end - state.images) / rate if rate else 0.0
        return {"images_per_second": rate, "input_wait_percent": waiting, "eta": left, "done": state.images / end}


def _storage(out: Place) -> dict[str, Any]:
    """Where Ray Train keeps its own book-keeping of a run."""
    if out.is_local:
        return {"storage_path": str(out.folder("_work/ray"))}
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    return {"storage_path": out.at("_work/ray"), "storage_filesystem": PyFileSystem(FSSpecHandler(out.fs))}


def _reason(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
