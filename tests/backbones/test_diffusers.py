"""Networks of diffusers as backbones: they learn, know labels, take any size, and are refused in a sentence."""

from __future__ import annotations

import sys

import pytest
import torch
from small_diffusers import DIT, U_NET

from pipeline.backbones.condition import Embedded, Labels
from pipeline.backbones.count import count
from pipeline.backbones.diffusers_model import Config
from pipeline.diffusion.precond import EDM, Preconditioned
from pipeline.learning.weights import pack, unpack

TEXT = U_NET | {
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "attention_head_dim": 2,
}
PIXART = DIT | {"cross_attention_dim": 16}
SANA = DIT | {
    "cross_attention_dim": 16,
    "num_cross_attention_heads": 2,
    "cross_attention_head_dim": 8,
    "patch_size": 2,
}
KINDS = [
    Config("UNet2DModel", U_NET),
    Config("UNet2DModel", U_NET, Labels(3)),
    Config("DiTTransformer2DModel", DIT),
    Config("DiTTransformer2DModel", DIT, Labels(3)),
    Config("UNet2DConditionModel", TEXT, Embedded(6)),
    Config("PixArtTransformer2DModel", PIXART, Embedded(6)),
    Config("SanaTransformer2DModel", SANA, Embedded(6)),
]
NAMES = [f"{k.model}-{type(k.condition).__name__}" for k in KINDS]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture
def diffusers():
    return pytest.importorskip("diffusers", reason="the extra `diffusers` is not installed")


def conditions(config, rows):
    """A condition for every row, the first being none."""
    if config.condition is None:
        return None
    if isinstance(config.condition, Labels):
        return torch.arange(rows) - 1
    return torch.randn(rows, config.condition.size) * (torch.arange(rows) > 0)[:, None]


@pytest.mark.parametrize("size", [(8, 8), (7, 5), (1, 9)])
@pytest.mark.parametrize("config", KINDS, ids=NAMES)
def test_any_size_goes_through_and_it_is_counted(diffusers, config, size):
    net = config.build((2, *size), 3, 2).eval()
    x, c, cond = torch.randn(3, 3, *size), torch.tensor([-1.5, 0.0, 1.0]), conditions(config, 3)
    out = net(x, c, cond)
    assert out.shape == (3, 2, *size)
    assert (net(x, c + 0.1, cond) - out).abs().max() > 1e-5
    alone = net(x[1:2], c[1:2], None if cond is None else cond[1:2])
    torch.testing.assert_close(alone[0], out[1], atol=1e-5, rtol=1e-4)
    found = count(config, (2, *size), 3, 2)
    assert found.parameters == sum(p.numel() for p in net.parameters())
    assert found.flops > 0


@pytest.mark.parametrize("config", KINDS, ids=NAMES)
def test_it_learns_and_comes_back_from_disk(diffusers, config):
    model = Preconditioned.Config((1, 8, 8), config, EDM(0.5)).build()
    optimiser = torch.optim.Adam(model.parameters(), 0.01)
    x0, z, cond, losses = torch.rand(8, 1, 1, 1) - 0.5, torch.randn(8, 1, 8, 8), torch.arange(8) % 3, []
    cond = {Labels: cond, Embedded: torch.randn(8, 6), type(None): None}[type(config.condition)]
    for _ in range(30):
        loss = (model(x0 + z, torch.ones(8), cond) - x0).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    model.eval()
    again = unpack(pack(model).__getitem__)
    assert again.config == model.config
    assert torch.equal(again(x0 + z, torch.ones(8), cond), model(x0 + z, torch.ones(8), cond))


@pytest.mark.parametrize("config", [KINDS[1], KINDS[3], KINDS[4]], ids=[NAMES[1], NAMES[3], NAMES[4]])
def test_conditions_matter_and_none_is_none(diffusers, config):
    net = config.build((1, 8, 8), 1, 1).eval()
    for parameter in net.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    x, c = torch.randn(1, 1, 8, 8).expand(3, -1, -1, -1), torch.zeros(3)
    out = net(x, c, conditions(config, 3))
    assert (out[1] - out[2]).abs().max() > 1e-4
    torch.testing.assert_close(net(x, c)[0], out[0], atol=1e-5, rtol=1e-4)


def test_the_weights_are_those_of_diffusers(diffusers):
    net = KINDS[0].build((1, 8, 8), 1, 1)
    own = diffusers.UNet2DModel(**U_NET, sample_size=8, in_channels=1, out_channels=1)
    own.load_state_dict({name.removeprefix("model."): weight for name, weight in net.state_dict().items()})
    x = torch.randn(2, 1, 8, 8)
    level = torch.log(torch.tensor([0.002, 80.0])) / 4
    torch.testing.assert_close(own(x, torch.tensor([0.0, 1000.0])).sample, net(x, level), atol=1e-4, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "says"),
    [
        (Config("UNet"), "has no network 'UNet'"),
        (Config("os.system"), "has no network 'os.system'"),
        (Config("DDPMPipeline"), "has no network"),
        (Config("AutoencoderKL"), "not called as a denoiser"),
        (Config("PriorTransformer"), "not called as a denoiser"),
        (Config("UNet1DModel"), "does not take images"),
        (Config("UNet3DConditionModel", {}, Embedded(6)), r"does not take images|cannot be built"),
        (Config("UNetMotionModel", {}, Embedded(6)), "does not take images"),
        (Config("SD3Transformer2DModel", DIT), "does not take images"),
        (Config("Transformer2DModel", DIT), r"does not take images|cannot be built"),
        (Config("FluxTransformer2DModel", DIT | {"num_single_layers": 1}), r"does not take images|cannot be built"),
        (Config("UNet2DModel", {"widht": 1}), "no option widht"),
        (Config("UNet2DModel", {"in_channels": 7}), "no option in_channels"),
        (Config("UNet2DModel", {"block_out_channels": [8]}), "cannot be built"),
        (Config("UNet2DModel", U_NET, Embedded(3)), "no such condition"),
        (Config("UNet2DConditionModel", TEXT), "without a text"),
    ],
)
def test_what_cannot_be_built_is_refused(diffusers, config, says):
    with pytest.raises(ValueError, match=says) as refused:
        config.build((1, 8, 8), 1, 1)
    assert "\n" not in str(refused.value)


def test_clips_are_refused():
    with pytest.raises(ValueError, match="C, H, W"):
        Config().build((1, 4, 8, 8), 1, 1)


def test_without_diffusers_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ValueError, match=r"pip install 'kintsugi\[diffusers\]'"):
        Config().build((1, 8, 8), 1, 1)
