"""The U-Net takes any size, starts at zero, and comes back from disk as it was."""

from __future__ import annotations

import json

import pytest
import safetensors.torch
import torch

from pipeline.backbones import adm, dit, mlp, unet
from pipeline.diffusion.precond import EDM, Preconditioned
from pipeline.diffusion.sample import Euler, samples
from pipeline.keys import Key
from pipeline.learning.weights import DESCRIPTION, WEIGHTS, pack, unpack
from pipeline.objectives.denoising import Denoising
from pipeline.objectives.objective import Batch


@pytest.mark.parametrize("size", [(8, 8), (8, 5), (4, 4), (1, 7), (13, 17), (32, 32), (3, 8, 8), (1, 5, 7), (8, 4, 4)])
@pytest.mark.parametrize("channels", [(1, 1), (5, 3)])
def test_any_size_goes_through_and_nothing_comes_out_at_first(size, channels):
    net = unet.Config(width=8).build((channels[1], *size), *channels)
    out = net(torch.randn(2, channels[0], *size), torch.randn(2))
    assert out.shape == (2, channels[1], *size)
    assert torch.equal(out, torch.zeros_like(out))


def trained_looking(shape=(1, 6, 6), **sizes):
    model = Preconditioned.Config(shape, unet.Config(width=8, **sizes), EDM(0.7)).build().eval()
    generator = torch.Generator().manual_seed(0)
    for weight in model.parameters():
        weight.data = torch.randn(weight.shape, generator=generator) * 0.2
    model.centre.fill_(0.25)
    return model


def test_every_pixel_depends_on_every_pixel_through_the_mixing_block():
    model = trained_looking()
    x = torch.zeros(1, 1, 6, 6, requires_grad=True)
    model(x, torch.ones(1))[0, 0, 0, 0].backward()
    assert bool((x.grad.abs() > 0).all())


def test_dropout_is_for_training_only():
    model = trained_looking(dropout=0.5)
    x, sigma = torch.randn(3, 1, 6, 6), torch.ones(3)
    assert torch.equal(model(x, sigma), model(x, sigma))
    model.train()
    assert not torch.equal(model(x, sigma), model(x, sigma))


@pytest.mark.parametrize("shape", [(1, 6, 6), (1, 3, 6, 6)])
def test_dropout_below_a_level_leaves_the_rows_above_it_whole(shape):
    model = trained_looking(shape, dropout=0.0, dropout_below=(0.5, 0.5)).train()
    x, sigma = torch.randn(4, *shape), torch.tensor([0.49, 0.51, 0.01, 80.0])
    whole = model.eval()(x, sigma)
    parts = model.train()(x, sigma)
    same = [torch.equal(a, b) for a, b in zip(whole, parts, strict=True)]
    assert same == [False, True, False, True]


def test_a_channel_is_kept_as_often_as_its_level_says_and_counts_for_those_left_out():
    config = unet.Config(width=8, dropout=0.2, dropout_below=(0.5, 0.6))
    drop = unet._Dropout(config, torch.nn.Dropout2d(0.2)).train()
    rows, channels = 4000, 16
    sigma = torch.tensor([0.1, 2.0]).repeat(rows // 2)
    torch.manual_seed(0)
    out = drop(torch.ones(rows, channels, 2, 2), sigma.log() / 4)
    assert torch.equal(out.amin((2, 3)), out.amax((2, 3))), "a channel goes as a whole"
    for low, p in ((True, 0.6), (False, 0.2)):
        mine = out[(sigma < 0.5) == low, :, 0, 0]
        n = mine.numel()
        gone = (mine == 0).sum().item()
        assert abs(gone - n * p) < 4 * (n * p * (1 - p)) ** 0.5
        assert mine.max().item() == pytest.approx(1 / (1 - p))


def test_auto_resolutions_halve_until_the_short_side_is_four():
    widths = unet.Config(width=8).widths
    assert [len(widths(size)) for size in ((4, 4), (8, 5), (8, 8), (9, 9), (32, 64))] == [1, 2, 2, 3, 4]


def test_a_denoiser_comes_back_from_disk_to_the_bit():
    model = trained_looking()
    files = pack(model)
    again = unpack(files.__getitem__)
    x, sigma = torch.randn(3, 1, 6, 6), torch.tensor([0.1, 1.0, 10.0])
    assert torch.equal(model(x, sigma), again(x, sigma))
    assert again.config == model.config
    assert not any(p.requires_grad for p in again.parameters())


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        (DESCRIPTION, b"\x80\x04N.", "cannot be read"),
        (DESCRIPTION, json.dumps({"is": "os.system"}).encode(), "os.system"),
        (DESCRIPTION, json.dumps({"is": "pipeline.backbones.unet.Config"}).encode(), "unet.Config"),
        (DESCRIPTION, b"[]", "denoiser.json"),
        (WEIGHTS, b"\x80\x04N.", "cannot be read"),
        (WEIGHTS, (1 << 60).to_bytes(8, "little") + b"{}", "cannot be read"),
    ],
)
def test_hostile_files_are_refused_in_a_sentence(name, data, says):
    files = pack(trained_looking()) | {name: data}
    with pytest.raises(ValueError, match=says):
        unpack(files.__getitem__)


def test_weights_of_another_network_are_refused():
    files = pack(trained_looking()) | {WEIGHTS: pack(trained_looking(embedding=32))[WEIGHTS]}
    with pytest.raises(ValueError, match="does not fit") as refused:
        unpack(files.__getitem__)
    assert "net.embed.net.0.weight: (32, 32) in weights.safetensors, (64, 32) here" in str(refused.value)
    assert len(str(refused.value)) < 1000, "all of them are listed"
    tensors = safetensors.torch.load(pack(trained_looking())[WEIGHTS])
    files[WEIGHTS] = safetensors.torch.save(tensors | {"centre": tensors["centre"].int()})
    with pytest.raises(ValueError, match=r"centre: \(1, 6, 6\) of int32 in weights.safetensors, \(1, 6, 6\) here"):
        unpack(files.__getitem__)


@pytest.mark.parametrize(
    "wrong", [{"width": 12}, {"dropout": 1.0}, {"embedding": 3}, {"multipliers": ()}, {"dropout_below": (0.0, 0.5)}]
)
def test_sizes_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValueError, match=r"\w"):
        unet.Config(**wrong)


@pytest.mark.parametrize("shape", [(3, 8), (3, 2, 8, 16, 16)])
def test_what_is_no_image_and_no_clip_is_refused(shape):
    with pytest.raises(ValueError, match="C, H, W"):
        unet.Config().build(shape, 3, 3)


def test_frames_of_a_clip_depend_on_one_another_in_their_order():
    model = trained_looking((1, 3, 6, 6), mixing=0)
    x = torch.randn(1, 1, 3, 6, 6, requires_grad=True)
    model(x, torch.ones(1))[0, 0, 0].sum().backward()
    assert (x.grad[0, 0].flatten(1).abs().amax(1) > 1e-4).all()
    turned = model(x.flip(2), torch.ones(1)).flip(2)
    assert not torch.allclose(turned, model(x, torch.ones(1)), atol=1e-2)


SMALL = {"width": 8, "multipliers": (1, 2, 2), "blocks": 1, "head": 8, "embedding": 16}


@pytest.mark.parametrize("size", [(7, 5), (1, 3), (9, 2), (31, 17)])
@pytest.mark.parametrize(
    "backbone",
    [unet.Config(width=8), mlp.Config(width=8, blocks=1), adm.Config(**SMALL), dit.Config(16, 1, 2, patch=(4,))],
    ids=["unet", "mlp", "adm", "dit"],
)
def test_images_of_odd_sizes_are_learned_from_and_drawn(backbone, size):
    model = Preconditioned.Config((1, *size), backbone).build()
    loss = Denoising()(model, Batch(torch.randn(4, 1, *size)), torch.ones(4), Key(0)).each.mean()
    loss.backward()
    assert any(bool(p.grad.any()) for p in model.parameters() if p.grad is not None)
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)
    assert samples(model.eval(), Euler(3), (1, *size), range(2), 0).shape == (2, 1, *size)
