"""Weights from elsewhere: what fits is taken to the bit, whatever else is refused in a sentence and runs nothing."""

from __future__ import annotations

import dataclasses
import json
import pickle

import pytest
import torch
from edm2_reference import denoised, state
from safetensors.torch import save, save_file

from pipeline.backbones import adm, mlp
from pipeline.backbones.condition import Labels
from pipeline.backbones.magnitude import Preserving
from pipeline.diffusion.precond import EDM, Preconditioned
from pipeline.learning import foreign
from pipeline.learning.edm2 import as_edm2
from pipeline.learning.foreign import as_ours, load

MLP = Preconditioned.Config((1, 2, 2), mlp.Config(width=4, blocks=1, embedding=2), EDM(0.7))
SIZES = {"width": 16, "multipliers": (1, 2, 2), "blocks": 2, "attention": (1, 2)}
EDM2 = adm.Config(**SIZES, head=16, embedding=48, style=Preserving())
SQUARE = Preconditioned.Config((3, 8, 8), EDM2)


@pytest.fixture
def weights():
    """Our own state of the small perceptron."""
    torch.manual_seed(0)
    return {name: torch.randn_like(tensor) for name, tensor in MLP.build().state_dict().items()}


def taken(path, network=MLP, plan=as_ours):
    return load(path, network, *plan(network))


def test_a_strangers_network_of_a_hundred_million_blocks_is_refused_before_it_takes_memory(
    weights, tmp_path, monkeypatch
):
    monkeypatch.setattr(foreign, "MOST_TENSORS", 1000)
    save_file(weights, tmp_path / "w.safetensors")
    vast = dataclasses.replace(MLP, backbone=mlp.Config(width=4, blocks=10**8, embedding=2))
    with pytest.raises(ValueError, match=r"over 1000 tensors: give the configuration of a smaller one"):
        taken(tmp_path / "w.safetensors", vast)
    taken(tmp_path / "w.safetensors")  # the next network is counted from nothing


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_our_own_names_are_taken_to_the_bit(tmp_path, weights, kind):
    stored = {name: tensor.to(kind) for name, tensor in weights.items()}
    save_file(stored, tmp_path / "w.safetensors")
    found = taken(tmp_path / "w.safetensors").state_dict()
    assert found.keys() == stored.keys()
    assert all(torch.equal(found[name], stored[name].float()) for name in stored)


@pytest.mark.parametrize(("eps", "most"), [(0.0, 1e-5), (1e-4, 5e-3)], ids=["exact", "with-epsilon"])
def test_weights_of_edm2_make_the_denoiser_that_its_paper_describes(tmp_path, eps, most):
    found = state(3, 8, **SIZES, embedding=48)
    save_file(found, tmp_path / "w.safetensors")
    D = taken(tmp_path / "w.safetensors", SQUARE, as_edm2).eval().requires_grad_(False)
    sigma = torch.tensor([0.002, 0.1, 1.0, 80.0])
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * (sigma + 0.5)[:, None, None, None]
    wanted = denoised(found, x, sigma, EDM2.heads, eps)
    assert (D(x, sigma) - wanted).abs().max() <= most
    assert wanted.abs().max() > 0.5
    if eps:
        assert (D(x, sigma) - wanted).abs().max() > 1e-5, "the difference that the documentation speaks of"


def test_networks_that_are_none_of_edm2_are_refused():
    def refused(says, shape=(3, 8, 8), **other):
        with pytest.raises(ValueError, match=says):
            as_edm2(Preconditioned.Config(shape, adm.Config(**{**SIZES, "head": 16, "style": Preserving(), **other})))

    with pytest.raises(ValueError, match="none of EDM2"):
        as_edm2(MLP)
    refused("none of EDM2", style=adm.Config().style)
    refused("without condition", condition=Labels(3))
    refused("square", shape=(3, 8, 4))
    refused("a longer one", embedding=8)


class Bomb:
    """A pickle that says so when it is opened."""

    def __reduce__(self):
        return print, ("opened",)


def header(tensors, data=b""):
    text = json.dumps(tensors).encode()
    return len(text).to_bytes(8, "little") + text + data


def tensor(begin, end, shape=(1,), kind="F32"):
    return {"dtype": kind, "shape": list(shape), "data_offsets": [begin, end]}


HOSTILE = {  # the file's bytes, and what is said of it
    "empty": (b"", "no whole safetensors file"),
    "text": (b"these are no weights at all", "no whole safetensors file"),
    "longer-than-the-file": ((2 << 30).to_bytes(8, "little") + b"{}", "no whole safetensors file"),
    "negative": (b"\xff" * 8 + b"{}", "no whole safetensors file"),
    "no-json": ((4).to_bytes(8, "little") + b"{{{{", "no whole safetensors file"),
    "overlapping": (header({"a": tensor(0, 4), "b": tensor(2, 6)}, bytes(6)), "no whole safetensors file"),
    "beyond-the-end": (header({"a": tensor(0, 4)}, bytes(2)), "no whole safetensors file"),
    "with-a-hole": (header({"a": tensor(0, 4), "b": tensor(8, 12)}, bytes(12)), "no whole safetensors file"),
    "shape-that-lies": (header({"a": tensor(0, 4, (10**9, 10**9))}, bytes(4)), "no whole safetensors file"),
    "unknown-kind": (header({"a": tensor(0, 4, kind="pickle")}, bytes(4)), "no whole safetensors file"),
    "pickle": (pickle.dumps(Bomb()), "is a pickle, .* sandbox"),
    "zip": (b"PK\x03\x04" + bytes(60), "is a pickle, .* sandbox"),
    "many-tensors": (header({f"{i:05}": tensor(0, 0, (0,)) for i in range(20_000)}), "does not fit the network"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(tmp_path, capfd, name):
    data, says = HOSTILE[name]
    path = tmp_path / "w.safetensors"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=says) as refused:
        taken(path)
    assert str(path) in str(refused.value)
    assert len(str(refused.value)) < 450 + len(str(path))
    assert "opened" not in capfd.readouterr().out


@pytest.mark.parametrize("suffix", [".pkl", ".pt", ".pth", ".ckpt", ".bin"])
def test_a_pickle_is_known_by_its_name_too(tmp_path, suffix):
    (tmp_path / f"w{suffix}").write_bytes(b"whatever it is")
    with pytest.raises(ValueError, match="sandbox"):
        taken(tmp_path / f"w{suffix}")


def test_a_huge_header_is_refused_before_it_is_parsed(tmp_path, monkeypatch):
    path = tmp_path / "w.safetensors"
    length = foreign.MOST_HEADER + 1
    with open(path, "wb") as file:
        file.write(length.to_bytes(8, "little"))
        file.truncate(length + 8)  # a file of zeros that takes no room
    monkeypatch.setattr("safetensors.safe_open", None)
    with pytest.raises(ValueError, match="has a header of 8388609 bytes"):
        taken(path)


def test_what_does_not_fit_is_told_by_shapes(tmp_path, weights):
    weights["net.more"], weights["net.out.weight"] = torch.zeros(1), torch.zeros(3, 4)
    weights["net.out.bias"] = torch.zeros(4, dtype=torch.int32)
    del weights["centre"]
    (tmp_path / "w.safetensors").write_bytes(save(weights))
    with pytest.raises(ValueError, match="does not fit the network") as refused:
        taken(tmp_path / "w.safetensors")
    said = str(refused.value)
    assert "it lacks centre; it has besides net.more" in said
    assert "of other shapes are net.out.weight (3, 4) not (4, 4)" in said
    assert "no floating-point numbers are net.out.bias I32" in said


@pytest.mark.parametrize("number", [float("nan"), float("inf"), 1e300])
def test_weights_that_are_no_numbers_are_refused(tmp_path, weights, number):
    weights = {name: tensor.double() for name, tensor in weights.items()}
    weights["net.out.weight"][1, 2] = number
    (tmp_path / "w.safetensors").write_bytes(save(weights))
    with pytest.raises(ValueError, match=r"NaN or infinite numbers in net\.out\.weight"):
        taken(tmp_path / "w.safetensors")


def test_a_network_too_large_for_the_machine_takes_no_memory_when_the_weights_are_not_its_own(tmp_path, weights):
    (tmp_path / "w.safetensors").write_bytes(save(weights))
    huge = Preconditioned.Config((1, 2, 2), mlp.Config(width=10**6, blocks=2))  # 8 TB
    with pytest.raises(ValueError, match="does not fit the network"):
        taken(tmp_path / "w.safetensors", huge)
