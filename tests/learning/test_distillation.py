"""A pupil's only optimum is its teacher, whose answers have no noise of x₀ in them."""

from __future__ import annotations

import pytest
import torch
from tiny_backbone import LAW, batches, build
from torch import nn

from pipeline.diffusion.levels import LogNormal
from pipeline.diffusion.precond import EDM
from pipeline.keys import Key
from pipeline.learning.loop import Clock, fit
from pipeline.learning.state import State
from pipeline.objectives.denoising import Denoising
from pipeline.objectives.distillation import Distillation
from pipeline.objectives.objective import Batch

X0 = LAW.sample(4000, Key(1)).float()
SIGMA = LogNormal().draw(4000, Key(2))


class Teacher(nn.Module):
    def forward(self, x, sigma, cond=None):
        return LAW(x, sigma)


def test_the_loss_vanishes_at_the_teacher_and_there_alone():
    objective = Distillation(Teacher(), EDM(0.5))
    exact = objective(Teacher(), Batch(X0), SIGMA, Key(3))
    assert float(exact.each.max()) == 0
    assert float(exact.scalars["mse"]) == 0
    off = objective(lambda x, s, c=None: LAW(x, s) + 0.1, Batch(X0), SIGMA, Key(3)).each
    torch.testing.assert_close(off, EDM(0.5).weight(SIGMA) * 0.01, rtol=1e-3, atol=1e-6)


def test_it_is_denoising_less_the_variance_that_no_denoiser_can_remove():
    """E|D − x₀|² = E|D − T|² + E|T − x₀|² for the exact teacher, whatever D: on the same draws, within their error."""

    def D(x, sigma, cond=None):
        return 0.8 * LAW(x, sigma)

    taught = Distillation(Teacher(), EDM(0.5))(D, Batch(X0), SIGMA, Key(3)).each
    noisy = Denoising(EDM(0.5))(D, Batch(X0), SIGMA, Key(3)).each
    least = Denoising(EDM(0.5))(Teacher(), Batch(X0), SIGMA, Key(3)).each
    gap = noisy - taught - least
    assert abs(float(gap.mean())) < 4 * float(gap.std()) / len(gap) ** 0.5
    assert float(taught.std()) < float(noisy.std())


@pytest.mark.slow
def test_a_pupil_comes_nearer_to_its_teacher_by_training():
    objective = Distillation(Teacher())

    def distance(model):
        with torch.no_grad():
            return float(objective(model, Batch(X0), SIGMA, Key(4)).each.mean())

    state = State.create(build())
    before = distance(state.model)
    fit(state, batches(64), objective, LogNormal(), Clock(64 * 300, 64), Key(0))
    assert distance(state.average) < 0.2 * before
