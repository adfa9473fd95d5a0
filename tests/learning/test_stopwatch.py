"""A loop's steps are timed one by one without being waited for."""

from __future__ import annotations

import pytest
import torch
from tiny_backbone import batches, build

from pipeline.diffusion.levels import LogNormal
from pipeline.keys import Key
from pipeline.learning.loop import Clock, fit
from pipeline.learning.state import State
from pipeline.learning.stopwatch import Stopwatch
from pipeline.objectives.denoising import Denoising


def test_each_step_is_timed_once_with_the_wait_for_the_next_batch():
    clock = [0.0]
    lasts = [7.0, 1.0, 2.0, 3.0]

    class Slow(Denoising):
        def loss(self, *given):
            clock[0] += lasts.pop(0)
            return super().loss(*given)

    def source():
        for batch in batches(16):
            yield batch
            clock[0] += 0.25

    watch, state = Stopwatch(torch.device("cpu"), lambda: clock[0]), State.create(build())
    fit(state, watch.over(source()), Slow(), LogNormal(), Clock(64, 16), Key(0))
    clock[0] += 0.5
    watch.mark()
    assert watch.last(4) == [7.25, 1.25, 2.25, 3.5]
    assert watch.last(2) == [2.25, 3.5]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_tells_how_long_its_steps_took():
    device = torch.device("cuda")
    watch, state = Stopwatch(device), State.create(build().to(device))
    fit(state, watch.over(batches(16)), Denoising(), LogNormal(), Clock(64, 16), Key(0))
    watch.mark()
    assert len(watch.marks) == 6, "one more than on a CPU"
    assert len(watch.last(4)) == 4
    assert min(watch.last(4)) > 0
