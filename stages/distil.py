"""Distil: one network that answers as a composed model does, for samples at the cost of one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch

from pipeline.engine.train import Make
from pipeline.graph import Step
from pipeline.learning.course import Course
from pipeline.learning.weights import unpack
from pipeline.objectives.distillation import Distillation
from pipeline.store import Artifact
from stages.train import Train, course


@dataclass(frozen=True)
class Distil(Train):
    """A denoiser like any other, taught by `teacher` at the rows of `data` and `also`, to which noise is added.

    The rows say where the teacher is asked, not what is right: its own samples will do, of which there may be any
    number.
    """

    teacher: Step = field(kw_only=True)

    def make(self, open: Callable[[Step], Artifact]) -> Make:
        return partial(_course, self, open(self.teacher), [open(data) for data in self.sets])


def _course(stage: Distil, teacher: Artifact, sets: list[Artifact], device: torch.device) -> Course:
    run = course(stage, sets, device)
    run.objective = Distillation(unpack(teacher.read, device), run.objective.precond)  # pyright: ignore[reportAttributeAccessIssue]
    return run
