"""A few steps of a training that is still to come: its own loop, network, batch and options, its rows perhaps noise."""

from __future__ import annotations

import resource
import sys
from dataclasses import dataclass, replace

import torch

from pipeline.engine.train import speed_of
from pipeline.graph import Step
from pipeline.learning.stopwatch import Stopwatch
from pipeline.store import Store
from stages.stand_in import course_of, opening
from stages.train import Trains


@dataclass(frozen=True)
class Probed:
    """What a training, or asking a network, is and what it took.

    `batch`: images of all workers at once. `seconds`: of each step after the first ones, or pass, of which an image
    takes `passes`. `memory`: bytes, of the device or, on a CPU, by which the process grew at most. `device`: in words.
    `parameters`: that are trained. `micro`: the images that were found to fit at once (None: all).
    """

    images: int
    batch: int
    workers: int
    seconds: tuple[float, ...]
    memory: int
    device: str
    passes: int | None = None
    parameters: int | None = None
    micro: int | None = None


def probe(node: Step, stage: Trains, store: Store, steps: int) -> Probed:
    """Take the first `steps` of a training, of which the first quarter counts as warm-up. Leaves nothing behind."""
    before, scale = peak(), node.scale
    device = torch.device("cuda" if scale.gpus else "cpu")
    with opening(store, stage) as opened:
        course = course_of(stage, opened, device)
        end, batches, watch = course.clock, course.batches, Stopwatch(device)
        course.clock = replace(end, images=steps * end.batch, validate=None)
        course.batches = lambda start, rank, world: watch.over(batches(start, rank, world))
        workers = scale.worlds(end.batch)[0]
        course.run(world=workers, speed=speed_of(scale), micro=scale.micro)
        watch.mark()
    return Probed(
        end.images,
        end.batch,
        workers,
        tuple(watch.last(steps - steps // 4)),
        *used(device, before),
        parameters=sum(p.numel() for p in course.state.model.parameters() if p.requires_grad),
        micro=course.state.micro,
    )


def used(device: torch.device, before: int) -> tuple[int, str]:
    """(bytes of the device that were taken at most, or by which this process has grown since `before`; its name)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device), torch.cuda.get_device_name(device)
    return max(0, peak() - before), "CPU"


def peak() -> int:
    """The most bytes of memory that this process has had."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
