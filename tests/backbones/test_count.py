"""Counts of parameters and operations: equal to closed forms, to what papers state, and free of memory."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from networks import kinds
from torch import nn

from pipeline.backbones import adm, dit, unet
from pipeline.backbones.condition import Labels
from pipeline.backbones.count import Count, count, networks
from pipeline.backbones.magnitude import Preserving
from pipeline.backbones.presets import Preset
from pipeline.diffusion.compose import Base, View
from pipeline.diffusion.joint import Joint
from pipeline.diffusion.precond import Preconditioned
from pipeline.diffusion.residual import Composed, Residual
from pipeline.physics.views import Crop


def size(config, shape=(3, 32, 32)):
    """The trainable parameters, on the meta device."""
    with torch.device("meta"):
        return sum(p.numel() for p in config.build(shape, shape[0], shape[0]).parameters())


def widths_of(config):
    """(channels in, out, attends) of every block of a U-Net, in order."""
    widths = [config.width * m for m in config.multipliers]
    here, skips, found = widths[0], [widths[0]], []
    for level, width in enumerate(widths):
        if level:
            found.append((here, here, False))
            skips.append(here)
        for _ in range(config.blocks):
            found.append((here, width, level in config.attention))
            here = width
            skips.append(here)
    found += [(here, here, bool(config.attention)), (here, here, False)]
    for level, width in reversed(list(enumerate(widths))):
        if level < len(widths) - 1:
            found.append((here, here, False))
        for _ in range(config.blocks + 1):
            found.append((here + skips.pop(), width, level in config.attention))
            here = width
    return found


def of_normed(config, c, dims):
    """Kernels of 3 per dimension with biases, norms of two numbers a channel, an affine map a block."""
    k, e, first = 3**dims, config.embedding, config.width * config.multipliers[0]
    total = (64 + 1) * e + (e + 1) * e + (k * c + 1) * first
    for i, o, attends in widths_of(config):
        total += 2 * i + (k * i + 1) * o + (e + 1) * 2 * o + 2 * o + (k * o + 1) * o
        total += (i + 1) * o * (i != o) + attends * (2 * o + (o + 1) * 3 * o + (o + 1) * o)
    return total + 2 * first + (k * first + 1) * c


def of_preserving(config, c, dims):
    """No biases and no norms, one gain a block and one at the head, a constant channel at the stem."""
    k, e, descending = 3**dims, config.embedding, len(config.multipliers) * (config.blocks + 1) - 1
    total = e * e + k * (2 * c + 1) * config.width * config.multipliers[0] + 1
    for n, (i, o, attends) in enumerate(widths_of(config)):
        total += k * (o if n < descending else i) * o + k * o * o + e * o + 1 + i * o * (i != o) + attends * 4 * o * o
    return total


def of_dit(config, c, dims):
    """18 width² a block: 4 of attention, 8 of the perceptron, 6 of scales, shifts and gates."""
    d, patch = config.width, config.patch[0] ** dims
    block = 18 * d * d + (6 + 4 + 5) * d
    return (
        (64 + 1) * d + (d + 1) * d + (patch * c + 1) * d + config.depth * block + (d + 1) * 2 * d + (d + 1) * patch * c
    )


FORMS = {"normed": of_normed, "preserving": of_preserving, "dit": of_dit, "rotary": of_dit}


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1, 9), (3, 8, 8), (2, 4, 8, 8)])
@pytest.mark.parametrize("name", FORMS)
def test_parameters_are_as_the_closed_form_has_them(name, shape):
    config = kinds()[name]
    assert count(config, shape, shape[0], shape[0]).parameters == FORMS[name](config, shape[0], len(shape) - 1)


@pytest.mark.slow
@pytest.mark.parametrize("preset", Preset)
def test_a_preset_has_as_many_parameters_as_its_name_and_the_closed_form_say(preset):
    config = preset.value
    form = of_dit if preset.name.startswith("DIT") else of_preserving if config.style == Preserving() else of_normed
    assert size(config) == form(config, 3, 2)
    said = re.fullmatch(r"(MP_UNET|UNET|DIT)_(\d+)M", preset.name)
    assert said
    assert size(config) / 1e6 == pytest.approx(int(said[2]), rel=0.26 if said[2] == "1" else 0.1)


def test_a_label_costs_one_vector_a_class_and_one_for_none():
    for name, config in kinds().items():
        width = config.width if isinstance(config, dit.Config) else config.embedding
        assert size(replace(config, condition=Labels(10))) - size(config) == 11 * width, name


@pytest.mark.parametrize("side", [8, 9])
def test_operations_of_a_dit_are_those_of_its_matrix_products(side):
    """Twice 12 width² a token and block, twice 2 N width for attention, and what is done once."""
    config = dit.Config(width=48, depth=3, heads=4)
    d, n = 48, (-(-side // 2)) ** 2
    block = 2 * (12 * d * d * n + 2 * n * n * d + 6 * d * d)
    ends = 2 * (n * 4 * 3 * d * 2 + 64 * d + d * d + 2 * d * d)
    assert count(config, (3, side, side), 3, 3).flops == 3 * block + ends


def test_operations_of_convolutions_grow_with_the_area():
    config = adm.Config(8, (1, 2), 1, (), embedding=16)
    once = sum(2 * m.weight.numel() for m in config.build((1, 8, 8), 1, 1).modules() if isinstance(m, nn.Linear))
    small, large = (count(config, (1, n, n), 1, 1).flops - once for n in (8, 16))
    assert large == 4 * small
    assert count(config, (1, 8), 1, 1).flops < small / 8 + once


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "shape", "millions", "billions"),
    [
        (Preset.MP_UNET_125M.value, (4, 64, 64), 125, 46),  # EDM2-XS: Karras et al. 2024, table 2
        (Preset.MP_UNET_280M.value, (4, 64, 64), 280, 102),  # EDM2-S
        (Preset.DIT_33M.value, (4, 32, 32), 33, 6.06),  # DiT-S/2: Peebles and Xie 2023, table 4
        (Preset.DIT_130M.value, (4, 32, 32), 130, 23.0),  # DiT-B/2
    ],
)
def test_published_sizes_are_met(config, shape, millions, billions):
    """Papers count a multiplication with its addition as one."""
    found = count(replace(config, condition=Labels(1000)), shape, shape[0], shape[0])
    assert found.parameters / 1e6 == pytest.approx(millions, rel=0.01 if millions > 100 else 0.02)
    assert found.flops / 2e9 == pytest.approx(billions, rel=0.03)


def test_counting_takes_no_memory():
    huge = dit.Config(width=65536, depth=8, heads=64)
    assert count(huge, (3, 64, 64), 3, 3).parameters > 6e11


def test_counting_leaves_the_random_numbers_and_the_default_device_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    count(unet.Config(), (1, 8, 8), 1, 1)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.zeros(1).device.type == "cpu"


def test_every_network_of_a_denoiser_is_found():
    shape, small = (1, 8, 8), unet.Config(width=8)
    crop = Crop(shape, 0, 0, 8, 5)
    one = Preconditioned.Config((1, 8, 5), small)
    both = Joint.Config(shape, (crop,), (0.5, 0.5), small)
    config = Composed.Config(shape, Base.Config(shape, (View(crop, one),)), Residual.Config(shape, 1, small))
    found = dict(networks(config))
    assert list(found) == ["base.views.0.model", "residual"]
    for name, built in (("base.views.0.model", one), ("residual", config.residual)):
        assert found[name].parameters == sum(p.numel() for p in built.build().parameters()), name
    (name, of_joint), *_ = networks(both)
    assert (name, of_joint.shape) == ("", shape)
    assert of_joint.parameters == sum(p.numel() for p in both.build().parameters())


def test_a_count_is_read_at_a_glance():
    told = str(Count((3, 32, 32), 55_733_891, 21_234_000_000))
    assert told == "55.7 M parameters, 21.2 GFLOP per evaluation at 3x32x32"
    assert str(Count((1, 4), 950, 1_000)) == "950 parameters, 1 kFLOP per evaluation at 1x4"
