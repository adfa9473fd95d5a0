"""Courses of training that Ray workers import by name, some of which die on purpose."""

from __future__ import annotations

import errno
import logging
import os
import resource
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from pipeline.backbones import mlp
from pipeline.data.records import Examples
from pipeline.diffusion.precond import EDM, Preconditioned
from pipeline.keys import Key
from pipeline.learning.course import Course
from pipeline.learning.state import State
from pipeline.objectives.denoising import Denoising
from pipeline.physics.corruption import Noisy, corrupt
from stages.train import Fit, reader

FIT = Fit(images=480, batch=16)


def examples() -> Examples:
    """60 random images of 4x4."""
    pixels = np.random.default_rng(0).integers(0, 256, (60, 1, 4, 4), dtype=np.uint8)
    return Examples(tuple(f"id-{i}" for i in range(60)), pixels)


def plain(device: torch.device, dropout: float = 0.2) -> Course:
    """A small network."""
    precond = EDM(0.5)
    torch.manual_seed(3)
    model = (
        Preconditioned.Config((1, 4, 4), mlp.Config(width=32, blocks=1, dropout=dropout), precond).build().to(device)
    )
    data = examples()
    return Course(FIT.state(model), reader(data, FIT, 7), Denoising(precond), FIT.levels, FIT.clock, Key(7))


def undropped(device: torch.device) -> Course:
    """The same without dropout, whose masks depend on how a batch is cut."""
    return plain(device, 0.0)


def killed(device: torch.device, marker: str) -> Course:
    """The same, whose process is killed once, after image 300."""
    return _once(plain(device), marker, lambda: os.kill(os.getpid(), signal.SIGKILL))


def told(device: torch.device, marker: str) -> Course:
    """`undropped`, whose last process is told once that it will be ended, after image 300."""
    return _once(undropped(device), marker, lambda: os.kill(os.getpid(), signal.SIGTERM))


def slow(device: torch.device) -> Course:
    """The same, whose steps take a second from image 300 on."""
    course = plain(device)
    inner = course.batches

    def batches(start, rank, world):
        for k, batch in enumerate(inner(start, rank, world)):
            time.sleep(start + k * FIT.batch > 300)
            yield batch

    course.batches = batches
    return course


def hung(device: torch.device, marker: str) -> Course:
    """`undropped`, whose last process does nothing any more, once, after image 300."""
    return _once(undropped(device), marker, asleep_for_ever)


def watched(device: torch.device, folder: str) -> Course:
    """`undropped`; the first of two workers says once that a machine should go, and makes slow steps until it has.

    It takes no step before something else was done that runs beside it. Each worker says on which machine it is.
    """
    course = undropped(device)
    inner = course.batches

    def batches(start, rank, world):
        slow = False
        (Path(folder) / f"on {_here()}").touch()
        for k, batch in enumerate(inner(start, rank, world)):
            for images, name in ((100, "drain"), (300, "lose")):
                if (
                    world > 1
                    and rank == 0
                    and not slow
                    and start + k * FIT.batch > images
                    and not (Path(folder) / name).exists()
                ):
                    (Path(folder) / name).touch()
                    slow = True
            while slow and not (Path(folder) / "beside").exists():
                time.sleep(0.1)
            time.sleep(2 * slow)
            yield batch

    course.batches = batches
    return course


def imagine_devices() -> None:
    """Make Ray believe, in this process, that the devices which it hands out are the processor."""
    from ray.air._internal import device_manager

    device_manager._torch_device_manager = device_manager.CPUTorchDeviceManager()


if "IMAGINED_DEVICES" in os.environ:
    imagine_devices()


def dwell(item: int) -> str:
    """The machine that this is done on, after a while."""
    time.sleep(0.3)
    return _here()


def meet(folder: str, number: int, count: int) -> tuple[str, list[str]]:
    """The machine and the devices of a task, once so many of them are going at the same moment."""
    import ray

    (Path(folder) / f"met {number}").touch()
    while len([*Path(folder).glob("met *")]) < count:
        time.sleep(0.05)
    return _here(), ray.get_runtime_context().get_accelerator_ids()["GPU"]


def _here() -> str:
    import ray

    return ray.get_runtime_context().get_node_id()


class _Cramped(torch.nn.Module):
    """A network for which the device of the last process has no room for more than five rows."""

    def __init__(self, net: torch.nn.Module):
        super().__init__()
        self.net = net

    def forward(self, x, *given):
        """As the network, or out of memory."""
        among = torch.distributed
        if len(x) > 5 and among.is_initialized() and among.get_rank() == among.get_world_size() - 1:
            raise torch.OutOfMemoryError("no room")
        return self.net(x, *given)


def cramped(device: torch.device) -> Course:
    """`undropped`, of which eight rows do not fit where the last of several processes runs."""
    course = undropped(device)
    model = course.state.model
    model.net = _Cramped(model.net)
    course.state = FIT.state(model)
    return course


def asleep_for_ever() -> None:
    """What a stack should show."""
    time.sleep(1e6)


def _once(course: Course, marker: str, happen: Callable[[], None]) -> Course:
    """Once, after image 300, that happens in its last process, and the marker is there."""
    inner = course.batches

    def batches(start, rank, world):
        for k, batch in enumerate(inner(start, rank, world)):
            if start + k * FIT.batch > 300 and rank == world - 1 and not Path(marker).exists():
                Path(marker).touch()
                happen()
            yield batch

    course.batches = batches
    return course


def poisoned(device: torch.device) -> Course:
    """The same, with a pixel that is not a number from image 100 on."""
    course = plain(device)
    inner = course.batches

    def batches(start, rank, world):
        for k, batch in enumerate(inner(start, rank, world)):
            if start + k * FIT.batch > 100:
                batch = batch.decoded()
                batch.x[0, 0, 0, 0] = float("nan")
            yield batch

    course.batches = batches
    return course


def poisoned_once(device: torch.device) -> Course:
    """Without dropout, with one pixel that is not a number, in the batch from image 176 on; may roll back once."""
    course = undropped(device)
    course.clock = replace(course.clock, rollbacks=1, anchor=96)
    inner = course.batches

    def batches(start, rank, world):
        for k, batch in enumerate(inner(start, rank, world)):
            if start + k * FIT.batch == 176 and rank == 0:
                batch = batch.decoded()
                batch.x[0, 0, 0, 0] = float("nan")
            yield batch

    course.batches = batches
    return course


def spoilt_twice(device: torch.device) -> Course:
    """Without dropout, with a pixel that is not a number in the last row of the batches from images 176 and 208 on."""
    course = undropped(device)
    course.clock, course.names = replace(course.clock, skips=2), lambda index: [f"id-{i}" for i in index]
    inner = course.batches

    def batches(start, rank, world):
        for k, batch in enumerate(inner(start, rank, world)):
            if start + k * FIT.batch in (176, 208) and rank == world - 1:
                batch = batch.decoded()
                batch.x[-1, 0, 0, 0] = float("nan")
            yield batch

    course.batches = batches
    return course


def unwritable(device: torch.device, marker: str) -> Course:
    """The same; from image 100 on, its process may write no file above a few bytes, as on a full disk."""
    course = plain(device)
    inner = course.batches
    with open(marker, "a") as file:
        file.write("tried\n")

    def batches(start, rank, world):
        for k, batch in enumerate(inner(start, rank, world)):
            if start + k * FIT.batch > 100:
                for thread in threading.enumerate():
                    if "_write" in thread.name:  # the checkpoint of image 96, which is to be whole
                        thread.join()
                resource.setrlimit(resource.RLIMIT_FSIZE, (64, resource.RLIM_INFINITY))
            yield batch

    course.batches = batches
    return course


def weights(state) -> dict[str, bytes]:
    """The averaged weights, as they are."""
    tensors = state.result().state_dict()
    return {"weights.bin": b"".join(t.contiguous().numpy().tobytes() for t in tensors.values())}


def divided(state: State) -> dict[str, bytes]:
    """The same, and whether they had been divided among the workers."""
    return weights(state) | {"divided": str(state.plain is not None).encode()}


def noisy(piece: int) -> tuple[Examples, dict[str, int]]:
    """Twelve of the examples, from `piece` on, with noise keyed by id."""
    taken = examples().take(range(piece, piece + 12))
    y, operator = corrupt(Noisy(noise=0.3), taken.x(), taken.ids, 5)
    return Examples.from_x(taken.ids, y, operator=operator), {"first": piece}


def refusing(piece: int) -> tuple[Examples, dict[str, int]]:
    """The same, but for one piece."""
    if piece == 24:
        raise ValueError("piece 24 cannot be used")
    return noisy(piece)


def unreadable(item: str) -> str:
    """What a disk says that does not let anyone in, whenever it is asked; each time is noted beside the item."""
    with open(f"{item}.tries", "a") as file:
        file.write("tried\n")
    raise PermissionError(errno.EACCES, "no", item)


def unreliable(item: str) -> str:
    """What a network says that is down the first time: the item, the second time."""
    tries = Path(f"{item}.tries")
    if not tries.exists():
        tries.touch()
        raise ConnectionResetError(errno.ECONNRESET, "gone", item)
    return item


def grumbling(item: int) -> int:
    """The item, after two sentences: one that all items cause, and one of its own."""
    log = logging.getLogger("kintsugi")
    log.warning("items are few")
    log.warning("item %d is odd", item)
    return item
