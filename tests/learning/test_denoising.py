"""Denoising is stationary at the posterior mean and nowhere near it, and its noise does not know the world size."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from tiny_backbone import LAW, build
from torch import Tensor

from pipeline.diffusion.denoiser import expand
from pipeline.diffusion.levels import LogNormal
from pipeline.diffusion.precond import EDM
from pipeline.keys import Key
from pipeline.objectives.denoising import Denoising
from pipeline.objectives.objective import Batch

N = 40_000
X0 = LAW.sample(N, Key(1)).double()
SIGMA = LogNormal().draw(N, Key(2)).double()


def slope(objective, D, direction, eps=1e-4):
    """d/da of the loss of D + a·direction at a = 0 with its standard error, on the same noise both sides."""

    def loss(a):
        def moved(x, sigma, cond=None):
            return D(x, sigma) + a * direction(x, sigma)

        return objective(moved, Batch(X0), SIGMA, Key(3)).each

    each = (loss(eps) - loss(-eps)) / (2 * eps)
    return float(each.mean()), float(each.std() / N**0.5)


def bump(x, sigma):
    w = torch.tensor([[1.3, -0.4], [0.2, 0.9]], dtype=x.dtype)
    return expand(sigma / (1 + sigma), x) * torch.tanh(x @ w + 0.3)


@pytest.mark.parametrize("direction", [bump, LAW, lambda x, s: expand(s, x) * x.sin()], ids=["bump", "D", "sin"])
def test_stationary_at_the_posterior_mean(direction):
    value, error = slope(Denoising(EDM(0.5)), LAW, direction)
    assert abs(value) < 4 * error


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_not_stationary_ten_percent_away(factor):
    value, error = slope(Denoising(EDM(0.5)), lambda x, s: factor * LAW(x, s), LAW)
    assert value * (factor - 1) > 0
    assert abs(value) > 8 * error


def test_the_loss_at_the_posterior_mean_is_the_weighted_exact_error():
    each = Denoising(EDM(0.5))(LAW, Batch(X0), SIGMA, Key(3)).each
    want = EDM(0.5).weight(SIGMA) * LAW.mse(SIGMA)
    gap = each - want
    assert abs(gap.mean()) < 4 * gap.std() / N**0.5


def test_loss_is_a_mean_over_entries_weighted_per_example():
    x0, sigma = torch.randn(3, 2, 4, 4), torch.tensor([0.1, 1.0, 5.0])
    loss = Denoising()(lambda x, s, c=None: x, Batch(x0), sigma, Key(0))
    z = Batch(x0).normal(Key(0).fold("noise"))
    torch.testing.assert_close(loss.each, EDM().weight(sigma) * sigma**2 * (z**2).mean((1, 2, 3)))
    torch.testing.assert_close(loss.scalars["mse"], (sigma**2 * (z**2).mean((1, 2, 3))).mean())


def test_the_denoiser_is_given_the_condition():
    cond = torch.arange(4)
    seen = []

    def D(x, sigma, cond=None):
        seen.append(cond)
        return x

    Denoising()(D, Batch(torch.zeros(4, 2), cond=cond), torch.ones(4), Key(0))
    assert seen[0] is cond


@pytest.mark.parametrize("world", [1, 2, 4, 8])
def test_slices_of_any_world_make_the_same_noise_and_losses(world):
    x0, sigma, D = X0[:16].float(), SIGMA[:16].float(), build()
    rows = 16 // world
    noise, losses = [], []
    for r in range(world):
        cut = slice(r * rows, (r + 1) * rows)
        part = Batch(x0[cut], offset=r * rows, total=16)
        noise.append(part.normal(Key(7)))
        losses.append(Denoising()(D, part, sigma[cut], Key(7)).each)
    assert torch.equal(torch.cat(noise), Batch(x0).normal(Key(7)))
    torch.testing.assert_close(torch.cat(losses), Denoising()(D, Batch(x0), sigma, Key(7)).each)


@dataclass(frozen=True)
class Richer(Batch):
    y: Tensor | None = None


def test_a_batch_splits_with_all_its_rows_and_its_place():
    batch = Richer(torch.randn(6, 2), None, torch.arange(6), 6, 12, y=torch.arange(12.0).reshape(6, 2))
    parts = batch.split(4)
    assert [(len(p), p.offset, p.whole) for p in parts] == [(4, 6, 12), (2, 10, 12)]
    for name in ("x", "index", "y"):
        assert torch.equal(torch.cat([getattr(p, name) for p in parts]), getattr(batch, name))
    assert torch.equal(torch.cat([p.normal(Key(0)) for p in parts]), batch.normal(Key(0)))
    assert batch.split(None) == [batch]
    assert [(p.offset, p.whole) for p in Batch(torch.zeros(6, 2)).split(4)] == [(0, 6), (4, 6)]
    assert batch.to("cpu").whole == 12


def test_a_batch_outside_the_global_one_is_refused():
    with pytest.raises(ValueError, match="check offset and total"):
        Batch(torch.zeros(4, 2), offset=6, total=8)
