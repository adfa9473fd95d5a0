"""Discrete variance-preserving networks at the door: what is exact there is exact here, whatever they predict."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from pipeline import config
from pipeline.backbones.backbone import Backbone
from pipeline.diffusion.denoiser import expand
from pipeline.diffusion.discrete import Betas, Discrete, Predicts
from pipeline.diffusion.precond import Precond, Preconditioned
from pipeline.keys import Key
from pipeline.objectives.ambient import Ambient, Weighting
from pipeline.objectives.objective import Batch

M, S = 0.3, 0.8  # x₀ ~ N(M, S²), each pixel for itself
SCHEDULES = [Discrete(), Discrete(schedule=Betas.SCALED, beta_start=0.00085, beta_end=0.012)]
SCHEDULES += [Discrete(schedule=Betas.COSINE, steps=300)]


def alphas(schedule):
    """√ᾱ and √(1 − ᾱ) of every time step, by the definition."""
    if schedule.schedule is Betas.COSINE:
        u = torch.arange(schedule.steps + 1, dtype=torch.float64) / schedule.steps
        remains = ((u + 0.008) / 1.008 * torch.pi / 2).cos() ** 2
        beta = (1 - remains[1:] / remains[:-1]).clamp(max=0.999)
    else:
        power = 2 if schedule.schedule is Betas.SCALED else 1
        ends = (end ** (1 / power) for end in (schedule.beta_start, schedule.beta_end))
        beta = torch.linspace(*ends, schedule.steps, dtype=torch.float64) ** power
    kept = (1 - beta).cumprod(0)
    return kept.sqrt(), (1 - kept).sqrt()


@dataclass(frozen=True)
class Known(Backbone):
    """The exact prediction for N(M, S²), made of what a discrete network is given: x_t and t."""

    precond: Discrete

    def build(self, shape, channels_in, channels_out):
        return Exactly(self.precond)


class Exactly(nn.Module):
    def __init__(self, precond):
        super().__init__()
        self.predicts, (self.a, self.s) = precond.predicts, alphas(precond)

    def forward(self, x, time, cond=None):
        at = time.round().long()
        torch.testing.assert_close(time, at.to(time.dtype), atol=2e-2, rtol=0)
        a, s = (expand(table[at], x) for table in (self.a, self.s))
        x0 = M + a * S**2 / (a**2 * S**2 + s**2) * (x.double() - a * M)
        z = (x.double() - a * x0) / s
        return {Predicts.SAMPLE: x0, Predicts.EPSILON: z, Predicts.VELOCITY: a * z - s * x0}[self.predicts]


@pytest.mark.parametrize("predicts", list(Predicts))
@pytest.mark.parametrize("schedule", SCHEDULES, ids=["linear", "scaled", "cosine"])
def test_the_exact_network_becomes_the_exact_denoiser(schedule, predicts):
    precond = Discrete(predicts, schedule.schedule, schedule.beta_start, schedule.beta_end, schedule.steps)
    D = Preconditioned.Config((1, 2, 2), Known(precond), precond).build()
    sigma = precond.sigmas()[:: precond.steps // 12]
    sigma = sigma[sigma < 50].float()
    x = M + S * torch.randn(len(sigma), 1, 2, 2, generator=Key(0).torch())
    x = x + expand(sigma, x) * torch.randn(x.shape, generator=Key(1).torch())
    want = M + expand(S**2 / (S**2 + sigma**2), x) * (x - M)
    torch.testing.assert_close(D(x, sigma), want, atol=3e-5, rtol=1e-4)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=["linear", "scaled", "cosine"])
def test_time_is_the_inverse_of_the_table_and_runs_between_its_entries(schedule):
    a, s = alphas(schedule)
    torch.testing.assert_close(schedule.sigmas(), s / a, rtol=1e-9, atol=0)
    steps = torch.arange(schedule.steps, dtype=torch.float64)
    torch.testing.assert_close(schedule.time(schedule.sigmas()), steps, atol=1e-6, rtol=0)
    logs = schedule.sigmas().log()
    torch.testing.assert_close(schedule.time(((logs[1:] + logs[:-1]) / 2).exp()), steps[1:] - 0.5, atol=1e-6, rtol=0)
    ends = schedule.time(torch.tensor([1e-6, 1e9], dtype=torch.float64))
    assert ends.tolist() == [0, schedule.steps - 1]


@pytest.mark.parametrize("predicts", list(Predicts))
def test_the_loss_of_d_is_the_plain_loss_of_what_is_predicted(predicts):
    precond = Discrete(predicts)
    sigma = precond.sigmas()
    _, out, into, _ = precond.coefficients(sigma)
    torch.testing.assert_close(precond.weight(sigma) * out**2, torch.ones_like(sigma))
    torch.testing.assert_close(into * (1 + sigma**2).sqrt(), torch.ones_like(sigma))


@pytest.mark.parametrize("predicts", list(Predicts))
def test_above_the_table_it_is_what_it_is_at_its_end(predicts):
    """D(x, σ) = D(x σ_T/σ, σ_T), and there the network hears inputs of unit variance still."""
    precond = Discrete(predicts, Betas.SCALED, 0.00085, 0.012)
    high = torch.tensor([precond.highest], dtype=torch.float64)
    (skip, out, into, _), (skip2, out2, into2, time) = (precond.coefficients(k * high) for k in (1, 4))
    torch.testing.assert_close(torch.stack([4 * skip2, out2, 4 * into2]), torch.stack([skip, out, into]))
    assert float(time) == 999


def test_double_tweedie_of_variance_preserving_latents_is_our_loss():
    """The published loss of x_t = r x_n + v ε is ours of x = x_t/√(1 − s²), term by term."""
    precond = Discrete(schedule=Betas.SCALED, beta_start=0.00085, beta_end=0.012)
    a, s = alphas(precond)
    n, t = 150, torch.tensor([300, 600, 900])
    x0, e, z = (torch.randn(3, 4, dtype=torch.float64, generator=Key(k).torch()) for k in range(3))
    seen = a[n] * x0 + s[n] * e  # x_n, all that is ever observed
    r = a[t] / a[n]
    v = (s[t] ** 2 - r**2 * s[n] ** 2).sqrt()
    x_t = expand(r, x0) * seen + expand(v, x0) * z

    def guess(x, sigma, cond=None):
        return 0.7 * torch.tanh(x)

    sigma, floor = (s[t] / a[t]), (s[n] / a[n]).expand(3)
    both = v**2 / s[t] ** 2
    h = guess(x_t / expand(a[t], x0), sigma)
    theirs = (expand(both, x0) * (expand(a[t], x0) * h - x_t) + x_t) / expand(r, x0)  # E[x_n | x_t]
    batch = Batch(seen / a[n], floor=floor)
    x, known = Ambient().noised(batch, sigma, {"noise": z})
    torch.testing.assert_close(x, x_t / expand(a[t], x0))
    torch.testing.assert_close(1 - known, both)
    found = Ambient(precond, Weighting.FADING).loss(guess, batch, sigma, {"noise": z})
    want = precond.weight(sigma) * ((theirs - seen) / a[n]).square().mean(1)
    torch.testing.assert_close(found.each, want)


def test_it_comes_back_from_json_and_is_refused_where_it_cannot_be():
    for schedule in SCHEDULES:
        assert config.from_json(Precond, config.to_json(schedule, Precond)) == schedule
    for wrong in ({"beta_start": 0.0}, {"beta_start": 0.1, "beta_end": 0.01}, {"beta_end": 1.0}, {"steps": 10**9}):
        with pytest.raises(ValueError, match="give 0 < start <= end < 1"):
            Discrete(**wrong)
