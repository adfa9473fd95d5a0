"""Rates and averages in closed form, with time in images."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from pipeline.learning.ema import EMA, Pair
from pipeline.learning.optim import AdamW, Constant, Cosine, InverseSqrt


def test_rate_warms_up_then_follows_its_schedule():
    rate = AdamW(lr=2.0, warmup=100, schedule=Cosine(1000, floor=0.1)).lr_at
    for n in (1, 50, 99, 100, 500, 999, 1000, 5000):
        cosine = 0.1 + 0.9 * (1 + math.cos(math.pi * min(n, 1000) / 1000)) / 2
        assert rate(n) == pytest.approx(2.0 * min(1, n / 100) * cosine)
    assert rate(1000) == rate(5000) == pytest.approx(0.2)
    assert AdamW(lr=3.0).lr_at(0) == AdamW(lr=3.0, schedule=Constant()).lr_at(10**9) == 3.0


def test_rate_is_first_linear_then_falling():
    rate = AdamW(lr=1.0, warmup=100, schedule=Cosine(1000)).lr_at
    assert all(rate(n) < rate(n + 1) for n in range(0, 90))
    assert all(rate(n) > rate(n + 1) for n in range(100, 999))


def test_only_matrices_decay_and_frozen_weights_are_left_alone():
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Conv2d(1, 2, 3), nn.Linear(2, 2))
    model[3].requires_grad_(False)
    decayed, kept = AdamW(weight_decay=0.1, betas=(0.8, 0.95)).build(model).param_groups
    assert {id(p) for p in decayed["params"]} == {id(model[0].weight), id(model[2].weight)}
    assert {id(p) for p in kept["params"]} == {id(model[0].bias), id(model[2].bias), *map(id, model[1].parameters())}
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)
    assert decayed["betas"] == kept["betas"] == (0.8, 0.95)


@pytest.mark.parametrize("eps", [0.0, 1e-60])
def test_an_eps_that_is_zero_in_32_bits_is_refused(eps):
    """A weight whose gradient is 0, as behind a layer that starts at zero, would become 0/0 in its first step."""
    with pytest.raises(ValueError, match=r"eps is .*: give a number above 0 that 32 bits can hold"):
        AdamW(eps=eps)
    assert AdamW(eps=1e-30).eps == 1e-30


def test_beta_halves_per_halflife_and_ramps():
    assert EMA(1000, None).beta(0, 1000) == 0.5
    assert EMA(1000, None).beta(0, 250) ** 4 == pytest.approx(0.5)
    ramped = EMA(1000, 0.05)
    assert ramped.beta(0, 10) == 0.0
    assert ramped.beta(200, 10) == pytest.approx(0.5)
    assert ramped.beta(20_000, 10) == ramped.beta(10**9, 10) == pytest.approx(0.5 ** (10 / 1000))


@pytest.mark.parametrize("ema", [EMA(64, None), EMA(64, 0.3)], ids=str)
def test_average_is_the_weighted_sum_of_all_weights(ema):
    """θ̄ₙ = Σₖ (1 − βₖ) Πⱼ₍ⱼ>ₖ₎ βⱼ θₖ + Πⱼ βⱼ θ₀."""
    torch.manual_seed(0)
    model = nn.Linear(3, 2).double()
    average = copy.deepcopy(model).requires_grad_(False)
    history, betas = [model.weight.detach().clone()], []
    for k in range(20):
        nn.init.normal_(model.weight)
        history.append(model.weight.detach().clone())
        betas.append(ema.beta(8 * k, 8))
        ema.update(Pair(average, model), 8 * k, 8)
    shares = [1.0, *(1 - b for b in betas)]
    want = sum(shares[k] * math.prod(betas[k:]) * history[k] for k in range(21))
    torch.testing.assert_close(average.weight.data, want)


def test_buffers_are_copied():
    model = nn.BatchNorm1d(2)
    average = copy.deepcopy(model)
    model(torch.randn(8, 2))
    EMA().update(Pair(average, model), 1000, 8)
    assert torch.equal(average.running_mean, model.running_mean)
    assert average.num_batches_tracked == 1


def test_half_the_old_weight_is_left_after_one_halflife_whatever_the_batch():
    for batch in (1, 10, 100):
        old, new = nn.Linear(1, 1, bias=False).double(), nn.Linear(1, 1, bias=False).double()
        nn.init.ones_(old.weight)
        nn.init.zeros_(new.weight)
        for _ in range(100 // batch):
            EMA(100, None).update(Pair(old, new), 0, batch)
        assert old.weight.item() == pytest.approx(0.5)


def test_a_cosine_of_no_length_is_refused():
    with pytest.raises(ValueError, match="images is 0"):
        Cosine(0)


def test_the_inverse_root_falls_by_two_when_images_grow_by_four():
    rate = AdamW(lr=2.0, warmup=50, schedule=InverseSqrt(1000)).lr_at
    assert rate(25) == 1.0
    assert rate(50) == rate(999) == rate(1000) == 2.0
    assert rate(4000) == pytest.approx(1.0)
    assert rate(100_000) == pytest.approx(0.2)
    with pytest.raises(ValueError, match="images is 0"):
        InverseSqrt(0)


@pytest.mark.parametrize("share", [1, 0])
@pytest.mark.parametrize("images", [0, 16, 1000])
def test_a_step_counts_or_not_by_a_tensor_as_by_a_number_to_the_bit(images, share):
    torch.manual_seed(1)
    model, old = nn.Linear(40, 30), nn.Linear(40, 30)
    want = copy.deepcopy(old)
    if share:
        EMA(100, 0.5).update(Pair(want, model), images, 16)
    EMA(100, 0.5).update(Pair(old, model), images, 16, torch.tensor(bool(share)))
    assert torch.equal(old.weight, want.weight)
