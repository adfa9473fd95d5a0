"""The learned weight of a level settles where exp(u) is that level's loss."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from tiny_backbone import batches, build, same

from pipeline.diffusion.levels import LogNormal, Stratified
from pipeline.keys import Key
from pipeline.learning.loop import Clock, fit
from pipeline.learning.optim import AdamW, Cosine
from pipeline.learning.state import State
from pipeline.learning.weighting import LevelWeight
from pipeline.objectives.denoising import Denoising
from pipeline.objectives.objective import Loss, Objective


@dataclass(frozen=True)
class Known(Objective):
    """A loss of known mean at each level, which the network has no part in, with noise of its own."""

    def loss(self, D, batch, sigma, drawn):
        noise = 0.5 + drawn["noise"][:, 0].abs() * (2 / torch.pi) ** -0.5 / 2
        return Loss(self.at(sigma) * noise + 0 * D(batch.x, sigma).flatten(1).sum(1))

    @staticmethod
    def at(sigma):
        return 0.05 + sigma**2 / (1 + sigma**2)


@pytest.mark.slow
def test_at_the_optimum_exp_u_is_the_loss_of_each_level():
    optim = AdamW(lr=0.1, betas=(0.9, 0.99), schedule=Cosine(300 * 128))
    state = State.create(build(), optim, weight=LevelWeight())
    fit(state, batches(128), Known(), Stratified(), Clock(300 * 128, 128), Key(0))
    sigma = (torch.linspace(-2, 2, 9) * 1.2 - 1.2).exp()
    with torch.no_grad():
        got = state.weight(sigma).exp()
    torch.testing.assert_close(got, Known.at(sigma), rtol=0.1, atol=0)
    assert Known.at(sigma).max() > 5 * Known.at(sigma).min()


def test_the_minimum_over_u_is_the_logarithm_of_the_loss():
    weight, sigma = LevelWeight(), torch.tensor([0.3])
    each = torch.tensor([0.7])
    values = []
    for u in (-0.1, 0.0, 0.1):
        weight.level.data.fill_(float(each.log()) + u)
        values.append(weight.weigh(each, sigma).item())
    assert values[1] == pytest.approx(1 + float(each.log()))
    assert values[1] < min(values[0], values[2])


def test_it_begins_as_no_weighting_and_is_learned_without_decay():
    weight = LevelWeight()
    each = torch.rand(5)
    assert torch.equal(weight.weigh(each, torch.rand(5) + 0.1), each)
    groups = AdamW(weight_decay=0.3).build(build(), weight).param_groups
    decays = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert {decays[id(p)] for p in weight.parameters()} == {0}
    assert max(decays.values()) == 0.3
    plain = State.create(build())
    weighted = State.create(build(), weight=LevelWeight())
    for state in (plain, weighted):
        fit(state, batches(16), Denoising(), LogNormal(), Clock(160, 16), Key(0))
    assert not same(plain.model.state_dict(), weighted.model.state_dict())
