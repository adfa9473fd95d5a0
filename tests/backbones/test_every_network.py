"""What holds of every network: any size, zero at first, all of it learns, conditions matter, disk and back."""

from __future__ import annotations

import pytest
import torch
from networks import awake, kinds

from pipeline.backbones import adm, dit
from pipeline.backbones.condition import Embedded, Labels
from pipeline.diffusion.precond import EDM, Preconditioned
from pipeline.learning.weights import pack, unpack

NAMES = list(kinds())
SIZES = [(1,), (9,), (8, 8), (1, 7), (13, 6), (3, 5, 4), (1, 1, 1)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", SIZES)
def test_any_size_goes_through_and_nothing_comes_out_at_first(name, size):
    net = kinds(coordinates=True)[name].build((2, *size), 3, 2)
    out = net(torch.randn(2, 3, *size), torch.randn(2))
    assert out.shape == (2, 2, *size)
    assert torch.equal(out, torch.zeros_like(out))
    assert awake(net)(torch.randn(2, 3, *size), torch.randn(2)).detach().abs().min() > 0


@pytest.mark.parametrize("condition", [None, Labels(3), Embedded(5)], ids=["alone", "labels", "embedded"])
@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_learns(name, condition):
    net = awake(kinds(condition=condition)[name].build((1, 5, 6), 1, 1)).train()
    cond = {type(None): None, Labels: torch.tensor([-1, 2]), Embedded: torch.randn(2, 5)}[type(condition)]
    net(torch.randn(2, 1, 5, 6), torch.randn(2), cond).square().sum().backward()
    assert [n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("name", NAMES)
def test_rows_do_not_mix_and_noise_levels_matter(name):
    net = awake(kinds(condition=Labels(2))[name].build((1, 5, 6), 1, 1)).eval()
    x, c, cond = torch.randn(3, 1, 5, 6), torch.tensor([-1.5, 0.0, 1.0]), torch.tensor([0, 1, -1])
    whole = net(x, c, cond)
    for i in range(3):
        torch.testing.assert_close(net(x[i : i + 1], c[i : i + 1], cond[i : i + 1])[0], whole[i], atol=1e-5, rtol=1e-5)
    assert (net(x, c + 0.1, cond) - whole).abs().amax(dim=(1, 2, 3)).min() > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_label_is_learned_and_its_absence_is_the_mean(name):
    """x is white noise and says nothing; the target is the label's: what is left is to know the label."""
    torch.manual_seed(0)
    net = kinds(condition=Labels(2))[name].build((1, 4, 4), 1, 1).train()
    optimiser = torch.optim.Adam(net.parameters(), 0.02)
    cond = torch.tensor([0, 1, -1, -1] * 4)
    target = torch.tensor([1.0, -1.0, 1.0, -1.0] * 4)[:, None, None, None]
    for _ in range(30):
        loss = (net(0.1 * torch.randn(16, 1, 4, 4), torch.zeros(16), cond) - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    net.eval()
    told = [net(torch.zeros(1, 1, 4, 4), torch.zeros(1), torch.tensor([k])).mean().item() for k in (0, 1, -1)]
    assert told[0] > 0.5
    assert told[1] < -0.5
    assert abs(told[2]) < 0.3


@pytest.mark.parametrize("name", NAMES)
def test_nothing_told_is_the_same_in_all_its_spellings(name):
    x, c = torch.randn(2, 1, 4, 4), torch.zeros(2)
    net = awake(kinds(condition=Labels(3))[name].build((1, 4, 4), 1, 1)).eval()
    assert torch.equal(net(x, c), net(x, c, torch.tensor([-1, -1])))
    net = awake(kinds(condition=Embedded(3))[name].build((1, 4, 4), 1, 1)).eval()
    assert torch.equal(net(x, c), net(x, c, torch.zeros(2, 3)))
    assert not torch.equal(net(x, c), net(x, c, torch.full((2, 3), 1e-3)))


@pytest.mark.parametrize("condition", [None, Labels(3), Embedded(5)], ids=["alone", "labels", "embedded"])
@pytest.mark.parametrize("name", NAMES)
def test_a_denoiser_comes_back_from_disk_to_the_bit(name, condition):
    backbone = kinds(condition=condition, dropout=0.1, coordinates=True)[name]
    model = Preconditioned.Config((1, 5, 6), backbone, EDM(0.7)).build()
    awake(model.net)
    model.eval()
    again = unpack(pack(model).__getitem__)
    x, sigma = torch.randn(3, 1, 5, 6), torch.tensor([0.1, 1.0, 10.0])
    assert again.config == model.config
    assert torch.equal(model(x, sigma), again(x, sigma))


@pytest.mark.parametrize("name", NAMES)
def test_dropout_is_for_training_only(name):
    net = awake(kinds(dropout=0.5)[name].build((1, 4, 4), 1, 1)).eval()
    x, c = torch.randn(2, 1, 4, 4), torch.zeros(2)
    assert torch.equal(net(x, c), net(x, c))
    net.train()
    assert not torch.equal(net(x, c), net(x, c))


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_is_close_and_the_layout_in_memory_changes_nothing(name):
    net = awake(kinds()[name].build((2, 6, 6), 2, 2)).eval()
    x, c = torch.randn(4, 2, 6, 6), torch.zeros(4)
    exact = net(x, c)
    with torch.autocast("cpu", torch.bfloat16):
        rough = net(x, c).float()
    assert (rough - exact).square().mean() < 1e-3 * exact.square().mean()
    net = net.to(memory_format=torch.channels_last)
    torch.testing.assert_close(net(x.to(memory_format=torch.channels_last), c), exact, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["preserving", "rotary"])
def test_it_compiles_to_one_graph(name):
    net = awake(kinds(condition=Labels(3))[name].build((1, 5, 6), 1, 1)).train()
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    x, c, cond = torch.randn(2, 1, 5, 6), torch.randn(2), torch.tensor([-1, 2])
    compiled(x, c, cond)  # what is forced to unit length is so from here on
    torch.testing.assert_close(compiled(x, c, cond), net(x, c, cond), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("condition", "cond", "says"),
    [
        (None, torch.tensor([0, 1]), "no condition"),
        (Labels(3), torch.tensor([0, 3]), "label 3: give labels from 0 to 2"),
        (Labels(3), torch.tensor([-2, 1]), "label -2"),
        (Labels(3), torch.tensor([0.0, 1.0]), "float32 of shape .2,.: give 2 integer labels"),
        (Labels(3), torch.tensor([0]), "shape .1,.: give 2 integer labels"),
        (Labels(3), torch.tensor([[0], [1]]), "shape .2, 1.: give 2 integer labels"),
        (Embedded(3), torch.zeros(2, 4), "give 2 embeddings of 3 numbers"),
        (Embedded(3), torch.tensor([0, 1]), "int64 of shape .2,.: give 2 embeddings"),
    ],
)
def test_a_condition_of_another_kind_is_refused(name, condition, cond, says):
    net = kinds(condition=condition)[name].build((1, 4, 4), 1, 1)
    with pytest.raises(ValueError, match=says):
        net(torch.zeros(2, 1, 4, 4), torch.zeros(2), cond)


def test_away_from_the_cpu_a_wrong_label_spoils_its_own_row_only(monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    told = Labels(3)(torch.tensor([1, 9, -1]), 3, torch.device("cpu"))
    assert told.isnan().all(1).tolist() == [False, True, False]
    assert told.isnan().any(1).tolist() == [False, True, False]


@pytest.mark.parametrize("condition", [Labels(7), Embedded(7)])
def test_features_have_about_unit_variance(condition):
    cond = torch.randint(-1, 7, (4000,)) if isinstance(condition, Labels) else torch.randn(4000, 7)
    told = condition(cond, 4000, torch.device("cpu"))
    assert told.shape == (4000, condition.features)
    assert told.square().mean().item() == pytest.approx(7 / 8 if isinstance(condition, Embedded) else 1, rel=0.03)
    assert condition(None, 5, torch.device("cpu")).square().mean().item() == pytest.approx(1)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(1,), (1, 2, 2, 2, 2), (1, 0, 4)])
def test_shapes_that_are_no_image_are_refused(name, shape):
    with pytest.raises(ValueError, match="one to three sides"):
        kinds()[name].build(shape, 1, 1)


@pytest.mark.parametrize("name", NAMES)
def test_data_of_other_dimensions_than_built_for_are_refused(name):
    net = kinds()[name].build((1, 4, 4), 1, 1)
    with pytest.raises(ValueError, match="the network is for"):
        net(torch.zeros(2, 1, 4, 4, 4), torch.zeros(2))


@pytest.mark.parametrize(
    ("kind", "wrong", "says"),
    [
        (adm.Config, {"width": 12}, "multiple of 8"),
        (adm.Config, {"multipliers": ()}, "at least 1"),
        (adm.Config, {"multipliers": (1, 0)}, "at least 1"),
        (adm.Config, {"blocks": 0}, "at least 1"),
        (adm.Config, {"embedding": 0}, "at least 1"),
        (adm.Config, {"attention": (3,)}, "from 0 to 2"),
        (adm.Config, {"attention": (-1,)}, "from 0 to 2"),
        (adm.Config, {"head": 0}, "divisor"),
        (adm.Config, {"width": 24, "multipliers": (1,), "attention": (0,), "head": 5}, "divisor"),
        (adm.Config, {"dropout": 1.0}, "within"),
        (dit.Config, {"width": 100, "heads": 3}, "twice the heads"),
        (dit.Config, {"depth": 0}, "at least 1"),
        (dit.Config, {"patch": ()}, "patch"),
        (dit.Config, {"patch": (0,)}, "patch"),
        (dit.Config, {"dropout": -0.1}, "within"),
        (Labels, {"classes": 0}, "at least 1"),
        (Embedded, {"size": 0}, "at least 1"),
    ],
)
def test_sizes_that_cannot_be_are_refused(kind, wrong, says):
    with pytest.raises(ValueError, match=says):
        kind(**wrong)


@pytest.mark.slow
def test_networks_need_torch_alone(fresh):
    rooms = "adm, dit, presets, count, diffusers_model"
    code = f"import sys; from pipeline.backbones import {rooms}; "
    code += "print(*sorted(set(sys.modules) & {'ray', 'mlflow', 'pydantic', 'diffusers', 'safetensors', 'pyarrow'}))"
    assert fresh(code).split() == []
