"""Adapters: nothing at first, they alone move, and merged they are the network that they made of it."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from pipeline.backbones import adm, dit, mlp
from pipeline.backbones.lowrank import Adapters, LowRank, Where, adapt, merge
from pipeline.diffusion.levels import LogNormal
from pipeline.diffusion.precond import EDM, Preconditioned
from pipeline.keys import Key
from pipeline.learning.course import Course
from pipeline.learning.ema import EMA
from pipeline.learning.loop import Clock
from pipeline.learning.optim import AdamW
from pipeline.learning.state import State
from pipeline.learning.weights import pack, unpack
from pipeline.objectives.denoising import Denoising
from pipeline.objectives.objective import Batch

UNET = adm.Config(8, (1, 2), 1, (1,), head=16, embedding=16)
KINDS = {"unet": UNET, "dit": dit.Config(8, 2, 2), "mlp": mlp.Config(width=8, blocks=1, embedding=4)}
ALL = Adapters(rank=2, alpha=3.0, where=Where.LINEAR)
X, SIGMA = torch.randn(3, 1, 4, 4, generator=Key(5).torch()), torch.tensor([0.1, 1.0, 10.0])


def awake(name="unet"):
    """A denoiser whose every weight is something, as a trained one's are."""
    torch.manual_seed(0)
    model = Preconditioned.Config((1, 4, 4), KINDS[name], EDM(0.5)).build()
    for p in model.parameters():
        nn.init.normal_(p, std=0.2)
    return model.eval()


def course(model, images=64):
    x0 = torch.randn(16, 1, 4, 4, generator=Key(6).torch())
    state = State.create(model, AdamW(lr=0.05), EMA(halflife=16, ramp=None))

    def batches(start, rank, world):
        while True:
            yield Batch(x0)

    return Course(state, batches, Denoising(EDM(0.5)), LogNormal(), Clock(images, 16), Key(7))


@pytest.mark.parametrize("name", KINDS)
def test_an_adapted_network_begins_as_it_was_and_merged_ends_as_it_is(name):
    model = awake(name)
    before, config = model(X, SIGMA).detach(), model.config
    plain = copy.deepcopy(model.state_dict())
    names = adapt(model.net, ALL)
    assert names
    assert torch.equal(model(X, SIGMA), before)
    for layer in (model.net.get_submodule(n) for n in names):
        nn.init.normal_(layer.parametrizations.weight[0].B, std=0.3)
    tuned = model(X, SIGMA).detach()
    assert (tuned - before).abs().max() > 1e-3
    merge(model)
    assert {n: t.shape for n, t in model.state_dict().items()} == {n: t.shape for n, t in plain.items()}
    torch.testing.assert_close(model(X, SIGMA).detach(), tuned, atol=1e-6, rtol=1e-6)
    again = unpack(pack(model).__getitem__)
    assert again.config == config
    torch.testing.assert_close(again(X, SIGMA), tuned, atol=1e-6, rtol=1e-6)


def test_the_weight_is_w_plus_alpha_over_rank_b_a():
    model = awake()
    adapt(model.net, ALL)
    layer = next(m for m in model.net.modules() if isinstance(m, nn.Linear))
    low = layer.parametrizations.weight[0]
    nn.init.normal_(low.B)
    want = layer.parametrizations.weight.original + 3.0 / 2 * low.B @ low.A
    torch.testing.assert_close(layer.weight, want)
    wide = LowRank(torch.zeros(3, 4096), Adapters(rank=8))
    assert abs(float(wide.A.detach().std()) * 8 - 1) < 0.02
    assert not wide.B.detach().any()


def test_training_moves_adapters_alone_and_the_average_with_them():
    model = awake()
    frozen = {n: p.clone() for n, p in model.named_parameters()}
    adapt(model.net, ALL)
    begin = {n: p.detach().clone() for n, p in model.named_parameters()}
    run = course(model)
    state = run.state
    trained = sum(p.numel() for g in state.optimiser.param_groups for p in g["params"])
    assert trained == sum(p.numel() for n, p in model.named_parameters() if n.endswith((".A", ".B")))
    run.run()
    ended, averaged = dict(model.named_parameters()), dict(state.average.named_parameters())
    for name, was in begin.items():
        if name.endswith(".B"):
            assert not torch.equal(ended[name], was)
            assert not torch.equal(averaged[name], was)
            assert not torch.equal(averaged[name], ended[name])
        elif not name.endswith(".A"):
            assert torch.equal(ended[name], was)
            assert torch.equal(averaged[name], was)
    result = state.result()
    want = result(X, SIGMA).detach()
    merge(result)
    torch.testing.assert_close(result(X, SIGMA).detach(), want, atol=1e-6, rtol=1e-6)
    same = [n for n, p in result.named_parameters() if torch.equal(p, frozen[n])]
    assert any(n.endswith("bias") for n in same)
    assert len(same) < len(frozen)


def test_a_run_that_was_cut_goes_on_to_the_bit():
    def adapted():
        model = awake()
        torch.manual_seed(1)
        adapt(model.net, ALL)
        return model

    whole, first, second = (course(adapted(), images) for images in (64, 32, 64))
    whole.run()
    first.run()
    tensors, meta = first.state.tensors(), first.state.meta()
    for p in second.state.model.parameters():
        p.data.zero_()
    second.state.load({n: t.clone() for n, t in tensors.items()}, meta)
    second.run()
    want, found = (run.state.result().state_dict() for run in (whole, second))
    assert all(torch.equal(want[name], found[name]) for name in want)


def test_attention_is_adapted_and_nothing_else_unless_all_is_asked_for():
    named = adapt(awake("dit").net, Adapters())
    assert {name.rsplit(".", 1)[-1] for name in named} == {"qkv", "out"}
    assert len(named) == 2 * 2
    assert len(adapt(awake("dit").net, ALL)) > len(named)
    unet = awake("unet").net
    attends = [n for n, m in unet.named_modules() if type(m).__name__ == "_Attention"]
    assert sorted(adapt(unet, Adapters())) == sorted(f"{n}.{part}" for n in attends for part in ("into", "out"))
    assert attends
    with pytest.raises(ValueError, match="no attention weights to be adapted: choose where: linear"):
        adapt(awake("mlp").net, Adapters())


@pytest.mark.parametrize(
    ("wrong", "says"), [({"rank": 0}, "rank is 0"), ({"alpha": 0.0}, "alpha is 0.0"), ({"alpha": math.inf}, "alpha is")]
)
def test_what_makes_no_sense_is_refused(wrong, says):
    with pytest.raises(ValueError, match=says):
        Adapters(**wrong)
