"""The transformer: blocks begin as the identity, rotary places are relative, patches are put back where they were."""

from __future__ import annotations

import pytest
import torch
from networks import awake
from torch.nn import functional

from pipeline.backbones import dit
from pipeline.backbones.dit import Block, angles_of, rotated

SMALL = {"width": 24, "depth": 2, "heads": 2}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def grid(*sides):
    return torch.stack(torch.meshgrid(*map(torch.arange, sides), indexing="ij"), -1).flatten(0, -2)


def test_a_block_begins_as_the_identity():
    h = torch.randn(2, 5, 24)
    assert torch.equal(Block(dit.Config(**SMALL))(h, torch.randn(2, 24)), h)


@pytest.mark.parametrize("sides", [(6,), (3, 4), (2, 3, 4)])
def test_rotary_logits_depend_on_relative_places_only(sides):
    places, shift = grid(*sides), torch.tensor([5, -3, 11][: len(sides)])
    q, k = torch.randn(2, 2, len(places), 12, dtype=torch.float64)

    def logits(at):
        angles = angles_of(at, 6).double()
        return rotated(q, angles) @ rotated(k, angles).transpose(-1, -2)

    torch.testing.assert_close(logits(places + shift), logits(places), atol=1e-4, rtol=1e-4)
    assert (logits(2 * places) - logits(places)).abs().max() > 0.1
    assert rotated(q, angles_of(places, 6).double()).norm(dim=-1).allclose(q.norm(dim=-1))


def test_every_axis_has_angles_of_its_own():
    for sides in [(6,), (3, 4), (2, 3, 4)]:
        angles = angles_of(grid(*sides), 7)
        assert len(angles.unique(dim=0)) == len(angles), "two places look the same"


@pytest.mark.parametrize("rotary", [False, True])
def test_a_block_sees_no_order_but_by_its_angles(rotary):
    block = awake(Block(dit.Config(**SMALL)))
    h, e, turn = torch.randn(2, 6, 24), torch.randn(2, 24), torch.randperm(6)
    angles = angles_of(grid(2, 3), 6) if rotary else None
    straight = block(h, e, angles)
    mixed = block(h[:, turn], e, None if angles is None else angles[turn])
    torch.testing.assert_close(mixed, straight[:, turn], atol=1e-5, rtol=1e-4)
    if rotary:
        assert (block(h[:, turn], e, angles) - straight[:, turn]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("size", "patch"), [((5,), (2,)), ((4, 6), (2,)), ((5, 7), (2,)), ((5, 6), (2, 3)), ((3, 5, 4), (1, 2, 2))]
)
def test_patches_go_back_where_they_were(size, patch):
    """With a stem and a head that copy, what comes out is what went in."""
    net = dit.Config(width=48, depth=1, heads=2, patch=patch).build((2, *size), 2, 2)
    n = 2 * net.stem.weight[0, 0].numel()
    with torch.no_grad():
        net.stem.weight.copy_(torch.eye(48, n).reshape(net.stem.weight.shape))
    x = torch.randn(3, 2, *size)
    rest = [s for g, p, m in reversed(list(zip(net.grid, net.patch, size))) for s in (0, g * p - m)]
    tokens = functional.conv1d if len(size) == 1 else functional.conv2d if len(size) == 2 else functional.conv3d
    tokens = tokens(functional.pad(x, rest), net.stem.weight, stride=net.patch).flatten(2).transpose(1, 2)
    assert torch.equal(net.unpatched(tokens[..., :n]), x)


def test_a_clip_of_equal_frames_gives_its_frame():
    """Without places in time, frames that are equal are equal for attention."""
    config = dit.Config(width=24, depth=2, heads=2, rotary=True)
    small = awake(config.build((1, 5, 6), 2, 1))
    large = dit.Config(width=24, depth=2, heads=2, patch=(1, 2, 2), rotary=True).build((1, 3, 5, 6), 2, 1)
    state = small.state_dict()
    state["stem.weight"] = state["stem.weight"][:, :, None]
    large.load_state_dict(state)
    large.angles = small.angles.repeat(3, 1)
    x, c = torch.randn(2, 2, 5, 6), torch.randn(2)
    frames = large(x[:, :, None].expand(2, 2, 3, 5, 6), c)
    torch.testing.assert_close(frames, small(x, c)[:, :, None].expand_as(frames), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("rotary", [False, True])
def test_places_matter(rotary):
    net = awake(dit.Config(**SMALL, rotary=rotary).build((1, 4, 8), 1, 1))
    x = torch.randn(1, 1, 4, 8)
    moved = net(x.roll(2, -1), torch.zeros(1))
    assert (moved - net(x, torch.zeros(1)).roll(2, -1)).abs().max() > 1e-3


def test_a_patch_for_other_dimensions_or_another_size_is_refused():
    with pytest.raises(ValueError, match="3 spatial dimensions: give one side or 3"):
        dit.Config(patch=(2, 2)).build((1, 4, 8, 8), 1, 1)
    net = dit.Config(**SMALL).build((1, 4, 4), 1, 1)
    with pytest.raises(ValueError, match="build another"):
        net(torch.zeros(1, 1, 4, 6), torch.zeros(1))


@pytest.mark.parametrize(("heads", "rotary", "shape"), [(4, True, (1, 8, 8)), (1, False, (1, 4, 4, 4))])
def test_a_width_without_room_for_places_is_refused(heads, rotary, shape):
    """Two of its channels tell of a place on one axis; with fewer, every token would be at the same place."""
    small = dit.Config(width=8 if rotary else 4, depth=1, heads=heads, patch=(1,), rotary=rotary)
    with pytest.raises(ValueError, match=r"no channels for places on \d axes: give at least \d"):
        small.build(shape, 1, 1)
    dims = len(shape) - 1
    assert bool((angles_of(grid(*[2] * dims), dims) != 0).any(0).all()), "as many as axes suffice"
