"""What is exported computes what the denoiser does, for any number of rows, at every σ; what would not is refused."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import sys
from pathlib import Path

import pytest
import torch
from small_diffusers import DIT, U_NET
from torch import nn

from pipeline.backbones import adm, dit, mlp, unet
from pipeline.backbones.backbone import Backbone
from pipeline.backbones.condition import Embedded, Labels
from pipeline.backbones.magnitude import Preserving
from pipeline.diffusion.bins import Bins
from pipeline.diffusion.compose import Base, View
from pipeline.diffusion.joint import Joint
from pipeline.diffusion.precond import EDM, Preconditioned
from pipeline.diffusion.residual import Composed, Residual
from pipeline.learning import export
from pipeline.learning.diffusers_folder import diffusers
from pipeline.physics.views import Channel, Crop, Pool

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore::torch.jit.TracerWarning")

SMALL = {"width": 8, "multipliers": (1, 2), "blocks": 1, "attention": (1,), "head": 8, "embedding": 16}
BACKBONES = {
    "unet": unet.Config(width=8, embedding=8, mixing=8),
    "mlp": mlp.Config(width=16, blocks=1, embedding=8),
    "normed": adm.Config(**SMALL, condition=Labels(3), coordinates=True),
    "preserving": adm.Config(**SMALL, style=Preserving(), condition=Embedded(4)),
    "dit": dit.Config(width=16, depth=1, heads=2, condition=Labels(3), coordinates=True),
    "rotary": dit.Config(width=16, depth=1, heads=2, rotary=True, condition=Embedded(4)),
}
SIGMAS = torch.tensor([0.002, 0.02, 0.2, 0.7, 2.0, 10.0, 80.0])


def awake(model: nn.Module) -> nn.Module:
    """A network that would be zero, drawn at random; and every number that calibration sets."""
    generator = torch.Generator().manual_seed(0)
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.is_floating_point() and tensor.numel() and bool((tensor == tensor.flatten()[0]).all()):
            tensor.data = 0.2 + 0.1 * torch.randn(tensor.shape, generator=generator).clamp(-1, 1)
    return model.eval().requires_grad_(False)


FLAT = {"multipliers": (1,), "attention": (0,)}  # one resolution, for exporters that take seconds a block


def denoiser(name: str, shape=(2, 5, 6), bf16: bool = False, **other) -> Preconditioned:
    torch.manual_seed(0)
    backbone = dataclasses.replace(BACKBONES[name], **other)
    model = awake(Preconditioned.Config(shape, backbone, EDM(0.6), bf16).build())
    assert isinstance(model, Preconditioned)
    return model


def inputs(model, sigma: float, rows: int):
    """Noised images and, where the network is told one, conditions of which the first is none."""
    generator = torch.Generator().manual_seed(rows)
    x = torch.randn(rows, *model.config.shape, generator=generator) * (0.6**2 + sigma**2) ** 0.5
    condition = getattr(getattr(model.config, "backbone", None), "condition", None)
    told = {
        Labels: (torch.arange(rows) % 4 - 1,),
        Embedded: (torch.randn(rows, 4, generator=generator) * (torch.arange(rows) > 0)[:, None],),
    }.get(type(condition), ())
    return x, torch.full((rows,), sigma), *told


def agrees(model, run) -> None:
    """Within 1e-5 at every level, alone and in threes; and it is no constant."""
    with torch.jit.optimized_execution(False):
        for rows, sigma in itertools.product((1, 3), SIGMAS.tolist()):
            given = inputs(model, sigma, rows)
            wanted = model(*given)
            assert (run(*given) - wanted).abs().max() <= 1e-5, (rows, sigma)
            assert (wanted - given[0]).abs().max() > 1e-4 * sigma


def read_torchscript(data: bytes):
    notes = {export.NOTE: ""}
    return torch.jit.load(io.BytesIO(data), _extra_files=notes), json.loads(notes[export.NOTE])


@pytest.mark.parametrize("name", BACKBONES)
def test_torchscript_of_every_backbone(name):
    model = denoiser(name)
    made = export.torchscript(model, {"model": "me"})
    read, told = read_torchscript(made.files[""])
    assert told == {"model": "me"}
    assert made.difference <= 1e-5
    agrees(model, read)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["unet", "mlp", "normed", "preserving", "dit"])
def test_onnx_of_every_backbone(name):
    pytest.importorskip("onnxscript", reason="the extra `export` is not installed")
    import onnxruntime

    model = denoiser(name, **(FLAT if name in ("normed", "preserving") else {}))
    session = onnxruntime.InferenceSession(export.onnx(model, {"model": "me"}).files[""])
    assert json.loads(session.get_modelmeta().custom_metadata_map[export.NOTE]) == {"model": "me"}
    names = [i.name for i in session.get_inputs()]
    assert names == ["x", "sigma", "cond"][: len(inputs(model, 1.0, 1))]

    def run(*given):
        return torch.from_numpy(session.run(["denoised"], dict(zip(names, (g.numpy() for g in given), strict=True)))[0])

    agrees(model, run)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "shape"), [("normed", (1, 9)), ("rotary", (1, 3, 5, 4))])
def test_signals_and_clips_too(name, shape):
    model = denoiser(name, shape)
    agrees(model, read_torchscript(export.torchscript(model, {}).files[""])[0])


SHAPE = (3, 8, 8)
MAPS = (Crop(SHAPE, 0, 0, 8, 5), Crop(SHAPE, 0, 3, 8, 5), Pool(SHAPE, 2), Channel(SHAPE, (1,)))
VIEWS = tuple(View(A, Preconditioned.Config(A.out_shape, BACKBONES["unet"])) for A in MAPS)
BASE = Base.Config(SHAPE, VIEWS, Bins(0.05, 5.0, 4))


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [
        Joint.Config(SHAPE, MAPS, (0.5,) * 5, BACKBONES["unet"]),
        Composed.Config(SHAPE, BASE, Residual.Config(SHAPE, 4, BACKBONES["unet"])),
    ],
    ids=["joint", "composed"],
)
def test_a_model_of_several_parts(config):
    torch.manual_seed(0)
    model = awake(config.build())
    agrees(model, read_torchscript(export.torchscript(model, {}).files[""])[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", BACKBONES)
def test_the_graph_is_tied_to_no_device(name):
    """On the meta device nothing is computed, and a constant of another device is refused as it is on a GPU."""
    model = denoiser(name)
    read = export.traced(model).to("meta")
    out = read(*(given.to("meta") for given in inputs(model, 1.0, 3)))
    assert out.device.type == "meta"
    assert out.shape == (3, 2, 5, 6)


def test_what_computes_in_bfloat16_is_exported_in_float32():
    wanted = denoiser("mlp")
    read = read_torchscript(export.torchscript(denoiser("mlp", bf16=True), {}).files[""])[0]
    agrees(wanted, read)


@dataclasses.dataclass(frozen=True)
class Branching(Backbone):
    """A network that goes another way when its rows are several, which no trace can follow."""

    def build(self, shape, channels_in, channels_out):
        return _Branching()


class _Branching(nn.Module):
    def forward(self, x, c_noise, cond=None):
        return x if len(x) == 2 else torch.zeros_like(x)


def test_an_export_that_computes_something_else_is_refused():
    model = Preconditioned.Config((1, 4), Branching()).build()
    with pytest.raises(ValueError, match="TorchScript of this model differs from it by"):
        export.torchscript(model, {})


def test_parts_that_are_told_different_things_are_refused():
    views = tuple(
        View(A, Preconditioned.Config(A.out_shape, dataclasses.replace(BACKBONES["normed"], condition=told)))
        for A, told in zip(MAPS, (Labels(2), Labels(3)))
    )
    with pytest.raises(ValueError, match="different conditions"):
        export.torchscript(Base.Config(SHAPE, views).build(), {})


def test_what_is_too_large_or_not_installed_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ValueError, match=r"pip install 'kintsugi\[export\]'"):
        export.onnx(denoiser("mlp"), {})
    monkeypatch.undo()
    pytest.importorskip("onnxscript", reason="the extra `export` is not installed")
    monkeypatch.setattr(export, "MOST_ONNX", 100)
    with pytest.raises(ValueError, match="export to torchscript"):
        export.onnx(denoiser("mlp"), {})


@pytest.mark.parametrize("name", BACKBONES)
def test_diffusers_is_refused_networks_that_are_not_its_own(name):
    with pytest.raises(ValueError, match="export to torchscript or onnx"):
        diffusers(denoiser(name), {})


@pytest.mark.parametrize(
    ("kind", "options", "condition"),
    [("UNet2DModel", U_NET, None), ("UNet2DModel", U_NET, Labels(3)), ("DiTTransformer2DModel", DIT, None)],
)
def test_diffusers_loads_the_folder_and_the_note_makes_it_a_denoiser(tmp_path, kind, options, condition):
    library = pytest.importorskip("diffusers", reason="the extra `diffusers` is not installed")
    import safetensors.torch

    from pipeline.backbones.diffusers_model import Config

    torch.manual_seed(0)
    model = Preconditioned.Config((2, 5, 6), Config(kind, options, condition), EDM(0.6)).build()
    model.centre.normal_()
    made = diffusers(model, {"model": "me"})
    assert made.difference <= 1e-5
    for name, data in made.files.items():
        (tmp_path / name).write_bytes(data)
    net = getattr(library, kind).from_pretrained(str(tmp_path)).eval().requires_grad_(False)
    note = json.loads(Path(tmp_path / "preconditioning.json").read_text())
    centre = safetensors.torch.load_file(tmp_path / "centre.safetensors")["centre"]
    assert note["model"] == "me"

    def run(x, sigma, cond=None):
        s, level = note["sigma_data"], sigma[:, None, None, None]
        total = level**2 + s**2
        inside = torch.zeros(len(x), 2, *note["padded"])
        inside[..., :5, :6] = (x - centre) / total.sqrt()
        time = 1000 * (sigma.log() - torch.tensor(0.002).log()) / (torch.tensor(80.0) / 0.002).log()
        words = {note["input"]: inside, "timestep": time}
        if note["condition"] is not None:
            none = int(note["condition"].rsplit(" ", 1)[1])
            labels = torch.full((len(x),), -1) if cond is None else cond
            words["class_labels"] = torch.where(labels < 0, none, labels)
        F = net(**words).sample[..., :5, :6]
        return centre + s**2 / total * (x - centre) + level * s / total.sqrt() * F

    agrees(model, run)
