"""Preconditioners keep unit variance at every noise level, and D is what they say."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from pipeline.backbones.backbone import Backbone
from pipeline.diffusion.denoiser import expand, noise, score
from pipeline.diffusion.precond import EDM, Preconditioned

SIGMAS = torch.logspace(-3, 3, 25, dtype=torch.float64)


@dataclass(frozen=True)
class Scale(Backbone):
    """F = gain · input, and it remembers what it was given."""

    gain: float = 0.0

    def build(self, shape, channels_in, channels_out):
        net = Remember()
        net.gain = self.gain
        net.channels = (channels_in, channels_out)
        return net


class Remember(nn.Module):
    def forward(self, x, c_noise, cond=None):
        self.seen = (x, c_noise, cond, torch.is_autocast_enabled(x.device.type))
        return self.gain * x


@pytest.mark.parametrize("s", [0.1, 0.5, 2.0])
def test_input_and_target_have_unit_variance_at_every_sigma(s):
    precond = EDM(s)
    c_skip, c_out, c_in, _ = precond.coefficients(SIGMAS)
    one = torch.ones_like(SIGMAS)
    torch.testing.assert_close(c_in**2 * (s**2 + SIGMAS**2), one)
    # target = (x₀ − c_skip (x₀ + σz))/c_out
    torch.testing.assert_close(((1 - c_skip) ** 2 * s**2 + c_skip**2 * SIGMAS**2) / c_out**2, one)
    torch.testing.assert_close(precond.weight(SIGMAS) * c_out**2, one)


@pytest.mark.parametrize("s", [0.1, 0.5, 2.0])
def test_c_skip_leaves_least_for_the_network(s):
    precond = EDM(s)
    c_skip = precond.coefficients(SIGMAS)[0]

    def left(c):
        return (1 - c) ** 2 * s**2 + c**2 * SIGMAS**2

    assert bool((left(c_skip) < left(c_skip * 1.05)).all())
    assert bool((left(c_skip) < left(c_skip * 0.95)).all())


def test_a_silent_network_gives_the_best_linear_guess():
    D = Preconditioned.Config((3, 4, 4), Scale(), EDM(0.5)).build()
    x, sigma = torch.randn(5, 3, 4, 4), torch.tensor([0.002, 0.1, 0.5, 3.0, 80.0])
    torch.testing.assert_close(D(x, sigma), x * expand(0.25 / (0.25 + sigma**2), x))
    assert D.net.channels == (3, 3)


def test_the_network_sees_scaled_input_level_and_condition():
    D = Preconditioned.Config((1, 2, 2), Scale(1.0)).build()
    x, sigma, cond = torch.randn(3, 1, 2, 2), torch.tensor([0.1, 1.0, 10.0]), torch.arange(3)
    out = D(x.double(), sigma.double(), cond)
    seen, c_noise, c, autocast = D.net.seen
    assert out.dtype == seen.dtype == torch.float32
    assert not autocast
    assert c is cond
    torch.testing.assert_close(seen, x / expand((sigma**2 + 0.25).sqrt(), x))
    torch.testing.assert_close(c_noise, sigma.log() / 4)


def test_bf16_is_for_the_network_alone():
    D = Preconditioned.Config((1, 2, 2), Scale(1.0), bf16=True).build()
    assert D(torch.randn(3, 1, 2, 2), torch.ones(3)).dtype == torch.float32
    assert D.net.seen[3]
    assert not torch.is_autocast_enabled("cpu")


def test_score_and_noise_are_views_of_the_denoiser():
    def D(x, sigma, cond=None):
        return x.tanh()

    x, sigma = torch.randn(4, 2, 3), torch.tensor([0.1, 0.5, 1.0, 7.0])
    torch.testing.assert_close(score(D, x, sigma), -noise(D, x, sigma) / expand(sigma, x))
    torch.testing.assert_close(x - expand(sigma, x) * noise(D, x, sigma), D(x, sigma))


def test_a_sigma_that_would_broadcast_silently_is_refused():
    with pytest.raises(ValueError, match="one per example"):
        expand(torch.ones(3), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="one per example"):
        expand(torch.ones(2, 1), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="sigma_data"):
        EDM(0.0)
