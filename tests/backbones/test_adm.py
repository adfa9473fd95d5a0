"""The U-Net: magnitudes are kept, weights have unit length, and a clip of equal frames is as its frame."""

from __future__ import annotations

import math

import pytest
import torch
from networks import SMALL, awake

from pipeline.backbones import adm
from pipeline.backbones.condition import Labels
from pipeline.backbones.magnitude import Linear, Preserving, joined, normalised, silu, summed
from pipeline.backbones.normed import Normed
from pipeline.backbones.spatial import attend, enlarged, halved, located
from pipeline.backbones.style import Place

STYLES = [Normed(), Preserving()]


def power(x):
    return x.detach().square().mean().item()


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize("sides", [(), (1,), (1, 1), (3,), (3, 3), (3, 3, 3)])
def test_unit_weights_keep_the_magnitude(sides):
    layer = Linear(16, 256, sides)
    x = torch.randn(64, 16, *(6 for _ in sides))
    inside = layer(x)[(..., *(slice(1, -1) for _ in sides))]  # beyond the edge there are zeros
    assert power(inside) == pytest.approx(1, rel=0.05)
    assert power(layer(x, 3.0)[(..., *(slice(1, -1) for _ in sides))]) == pytest.approx(9, rel=0.05)


@pytest.mark.slow
def test_sums_joins_and_silu_keep_the_magnitude():
    a, b = torch.randn(2, 1000, 30, 8)
    for t in (0.1, 0.3, 0.9):
        assert power(summed(a, b, t)) == pytest.approx(1, rel=0.02)
    whole = joined(a, b[:, :10])
    assert power(whole) == pytest.approx(1, rel=0.02)
    assert power(whole[:, :30]) * 30 == pytest.approx(power(whole[:, 30:]) * 10, rel=0.03)
    assert power(silu(a)) == pytest.approx(1, rel=0.02)
    torch.testing.assert_close(normalised(7 * a, (1,)).square().mean(1), torch.ones(1000, 8), atol=1e-3, rtol=0)


@pytest.mark.parametrize("blocks", [1, 6])
def test_magnitudes_stay_however_deep_the_network(blocks):
    """Zeros beyond the edge, pooling and attention average, hence shrink a little; nothing adds up."""
    config = adm.Config(32, (1, 2), blocks, (1,), 16, 32, style=Preserving(), condition=Labels(3))
    net = config.build((3, 16, 16), 3, 3).eval()
    with torch.no_grad():
        net.head.gain.fill_(1.0)
    seen = []
    for part in (net.embed, *[block for level in (*net.down, net.middle, *net.up) for block in level]):
        part.register_forward_hook(lambda module, inputs, out: seen.append(power(out)))
    out = net(torch.randn(8, 3, 16, 16), torch.randn(8), torch.randint(-1, 3, (8,)))
    assert len(seen) == 1 + (2 * blocks + 1) + 2 + 2 * (blocks + 1)
    assert 0.5 < min(seen) < max(seen) < 1.3
    assert 0.5 < power(out) < 1.3


def test_the_length_of_a_weight_means_nothing_and_training_makes_it_one():
    net = awake(adm.Config(**SMALL, style=Preserving()).build((1, 6, 6), 1, 1)).eval()
    x, c = torch.randn(2, 1, 6, 6), torch.randn(2)
    before = net(x, c)
    lengths = []
    for layer in net.modules():
        if isinstance(layer, Linear):
            layer.weight.data *= 0.5 + 4 * torch.rand(len(layer.weight), *(1,) * (layer.weight.ndim - 1))
            lengths.append(layer)
    torch.testing.assert_close(net(x, c), before, atol=1e-3, rtol=1e-3)
    assert any(abs(power(layer.weight) - 1) > 0.1 for layer in lengths), "evaluation changes no weight"
    net.train()
    first = net(x, c)
    for layer in lengths:
        rms = layer.weight.detach().flatten(1).square().mean(1)
        torch.testing.assert_close(rms, torch.ones_like(rms), atol=1e-3, rtol=0)
    (first + net(x, c)).sum().backward()  # two passes before the gradient, as some objectives make


def test_gradients_are_tangent_to_the_weights():
    layer = Linear(6, 5, (3, 3)).train()
    layer(torch.randn(4, 6, 5, 5)).pow(3).sum().backward()
    along = (layer.weight.detach() * layer.weight.grad).flatten(1).sum(1)
    size = layer.weight.grad.flatten(1).norm(dim=1) * layer.weight.detach().flatten(1).norm(dim=1)
    assert (along.abs() / size).max() < 1e-3


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(("flat", "clip"), [((7,), (5, 7)), ((5, 6), (3, 5, 6)), ((5, 6), (1, 5, 6))])
def test_a_clip_of_equal_frames_gives_its_frame(style, flat, clip):
    """Kernels of one dimension fewer, put into the middle of the first axis, look at one frame at a time."""
    config = adm.Config(**SMALL, style=style)
    small = awake(config.build((1, *flat), 2, 1)).eval()
    large = config.build((1, *clip), 2, 1).eval()
    state = small.state_dict()
    for name, weight in large.state_dict().items():
        held = state[name]
        if weight.shape != held.shape:
            middle = weight.shape[2] // 2
            held = torch.zeros_like(weight)
            held[:, :, middle] = state[name]
        weight.copy_(held)
    x, c = torch.randn(2, 2, *flat), torch.randn(2)
    frames = large(x[:, :, None].expand(2, 2, *clip), c)
    torch.testing.assert_close(frames, small(x, c)[:, :, None].expand_as(frames), atol=1e-5, rtol=1e-4)


def test_a_block_with_group_norm_begins_as_its_shortcut():
    place = Place(16, 16, 2, 8, heads=2, dropout=0.0, rising=False)
    x = torch.randn(2, 16, 5, 5)
    assert torch.equal(Normed().block(place)(x, torch.randn(2, 8)), x)


def test_attention_sees_no_order():
    q, k, v = torch.randn(3, 2, 2, 4, 3, 5)
    turn = torch.randperm(15)

    def mixed(x):
        return x.flatten(3)[..., turn].unflatten(3, (3, 5))

    torch.testing.assert_close(attend(mixed(q), mixed(k), mixed(v)), mixed(attend(q, k, v)))
    torch.testing.assert_close(attend(q, mixed(k), mixed(v)), attend(q, k, v))
    weights = (q.flatten(3).transpose(2, 3) @ k.flatten(3) / math.sqrt(4)).softmax(-1)
    torch.testing.assert_close(attend(q, k, v).flatten(3), (weights @ v.flatten(3).transpose(2, 3)).transpose(2, 3))


@pytest.mark.parametrize("size", [(1,), (7,), (8,), (5, 6), (1, 7), (3, 1, 4)])
def test_halving_keeps_means_of_pairs_and_enlarging_undoes_it_on_constants(size):
    x = torch.randn(2, 3, *size)
    small = halved(x)
    assert small.shape[2:] == tuple(-(-n // 2) for n in size)
    corner = x[(..., *(slice(2) for _ in size))]
    torch.testing.assert_close(small.flatten(2)[..., 0], corner.flatten(2).mean(2))
    assert torch.equal(enlarged(halved(torch.ones_like(x)), size), torch.ones_like(x))


@pytest.mark.parametrize("size", [(9,), (64, 64), (1, 5), (2, 3, 4)])
def test_places_are_centred_and_grow_along_their_axis(size):
    x = torch.randn(2, 3, *size)
    place = located(x)
    assert torch.equal(place[:, :3], x)
    assert place.shape[1] == 3 + len(size)
    for axis, n in enumerate(size):
        along = place[:, 3 + axis].movedim(1 + axis, -1)
        assert along.mean().item() == pytest.approx(0, abs=1e-6)
        assert n == 1 or along.diff().min() > 0
    assert power(located(torch.zeros(1, 1, 400))[:, 1]) == pytest.approx(1, rel=0.02)


def test_branch_is_a_share():
    with pytest.raises(ValueError, match="within"):
        Preserving(1.0)


@pytest.mark.parametrize("style", STYLES)
def test_detail_that_halving_loses_goes_around_it(style):
    """Of two neighbours only the mean goes down; that the output tells them apart is the shortcuts' doing."""
    net = awake(adm.Config(**SMALL, style=style).build((1, 4, 4), 1, 1)).eval()
    seen = []
    for block in (net.stem, *net.down[0]):
        block.register_forward_hook(lambda module, inputs, out: seen.append(out.detach().requires_grad_()) or seen[-1])
    net(torch.randn(1, 1, 4, 4), torch.zeros(1)).square().sum().backward()
    assert len(seen) == 2
    for part in seen:
        assert (part.grad - enlarged(halved(part.grad), (4, 4))).abs().max() > 1e-3 * part.grad.abs().max()


def test_without_attention_what_moves_in_moves_out():
    """Away from the edges, by steps that halving keeps (magnitudes are taken at each place for itself)."""
    net = awake(adm.Config(**SMALL | {"attention": ()}, style=Preserving()).build((1, 200), 1, 1)).eval()
    x, c = torch.zeros(1, 1, 200), torch.zeros(1)
    x[..., 90:100] = torch.randn(10)
    out, moved = net(x, c), net(x.roll(6, -1), c).roll(-6, -1)
    torch.testing.assert_close(moved[..., 60:140], out[..., 60:140], atol=1e-5, rtol=1e-4)
    assert (out[..., 90:100] - net(0 * x, c)[..., 90:100]).abs().max() > 1e-2
