"""What is drawn while a model trains is what its sampler draws, told the labels in turn; nothing where it cannot."""

from __future__ import annotations

import pytest
import torch

from pipeline.backbones import adm, mlp
from pipeline.backbones.condition import Labels
from pipeline.diffusion.precond import Preconditioned
from pipeline.diffusion.sample import samples
from pipeline.engine.pictures import grid, pixels
from pipeline.engine.preview import SAMPLER, preview

SMALL = mlp.Config(width=16, blocks=1)


def network(shape, backbone=SMALL):
    torch.manual_seed(0)
    made = Preconditioned.Config(shape, backbone).build().eval()
    for parameter in made.parameters():  # what starts at zero would know neither image nor label
        torch.nn.init.normal_(parameter, std=0.3)
    return made


def test_it_is_what_the_sampler_draws_and_moves_no_random_number_of_the_training():
    model = network((1, 4, 4))
    before = torch.random.get_rng_state()
    x = samples(model, SAMPLER, (1, 4, 4), range(4), seed=0)
    assert preview(model, 4) == grid(pixels(x.clamp(-1, 1).numpy()), 16)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_labels_are_told_in_turn():
    model = network((1, 8, 8), adm.Config(8, (1,), 1, (), embedding=16, condition=Labels(3)))
    x = samples(model, SAMPLER, (1, 8, 8), range(5), seed=0, cond=torch.tensor([0, 1, 2, 0, 1]))
    assert preview(model, 5) == grid(pixels(x.clamp(-1, 1).numpy()), 16)
    alike = samples(model, SAMPLER, (1, 8, 8), range(5), seed=0, cond=torch.zeros(5, dtype=torch.long))
    assert not torch.equal(x, alike)


@pytest.mark.parametrize("shape", [(4, 4, 4), (2, 8, 8), (6,)])
def test_what_is_no_image_is_not_drawn(shape):
    assert preview(network(shape)) is None


def test_a_network_that_is_no_denoiser_by_itself_is_not_drawn():
    assert preview(torch.nn.Linear(2, 2)) is None
