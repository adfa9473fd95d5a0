"""`export` writes a model whole or not at all and over nothing of anybody's; `adopt` makes a model of a file."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_diffusers import pipeline_at

from pipeline.backbones import mlp
from pipeline.diffusion.precond import EDM, Preconditioned
from pipeline.engine import cluster
from pipeline.learning.export import Made
from pipeline.learning.weights import unpack
from pipeline.store import Store

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")


@pytest.fixture
def model(alone, toy, tmp_path):
    """The command, with an untrained model in the store and its two files in `given/`."""
    assert alone("run", "model").code == 0
    (described,) = tmp_path.rglob("denoiser.json")
    (tmp_path / "given").mkdir()
    for name in ("denoiser.json", "weights.safetensors"):
        shutil.copy(described.with_name(name), tmp_path / "given" / name)
    return alone


@pytest.mark.slow
def test_a_model_is_exported_once(model, tmp_path):
    words = ("export", "model/model", "--format", "torchscript", "--out", "new/model.pt")
    said = model(*words, "--json")
    assert said.code == 0, said.err
    assert said.json["difference"] <= 1e-5
    notes = {"kintsugi.json": ""}
    read = torch.jit.load(tmp_path / "new/model.pt", _extra_files=notes)
    assert json.loads(notes["kintsugi.json"])["model"] == said.json["model"]
    D, x, sigma = unpack(Store("runs").artifact(said.json["model"]).read), torch.randn(3, 1, 8, 8), torch.rand(3) + 0.1
    assert torch.equal(read(x, sigma), D(x, sigma))

    model(*words).refused("new/model.pt exists", "--force")
    (tmp_path / "new/model.pt").write_text("mine")
    assert "wrote new/model.pt" in model(*words, "--force").out
    assert torch.equal(torch.jit.load(tmp_path / "new/model.pt")(x, sigma), D(x, sigma))
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["model.pt"]


def test_what_cannot_be_exported_is_refused(model, tmp_path):
    words = ("export", "model/model", "--out", "out")
    model(*words, "--format", "diffusers").refused("this is a unet", "torchscript or onnx")
    model(*words, "--format", "tensorflow").refused("tensorflow")
    model(*words).refused("--format")
    model("export", "nobody", "--out", "out", "--format", "onnx").refused("there is no 'nobody'")
    assert not (tmp_path / "out").exists()
    words = ("export", "model/model", "--format", "torchscript")
    model(*words, "--out", str(tmp_path), "--force").refused("is a folder")
    model(*words, "--out", "s3://bucket/model.pt").refused("not on this machine")
    model(*words, "--out", "given/denoiser.json/model.pt").refused("denoiser.json")


def test_a_write_that_fails_leaves_what_was_there(model, tmp_path, monkeypatch):
    def fails(*ignored):
        raise OSError(28, "No space left on device")

    (tmp_path / "model.pt").write_text("before")
    monkeypatch.setattr("os.replace", fails)
    said = model("export", "model/model", "--format", "torchscript", "--out", "model.pt", "--force")
    said.refused("the disk is full", code=1)
    assert (tmp_path / "model.pt").read_text() == "before"
    assert not list(tmp_path.glob("model.pt.*"))


def test_a_folder_replaces_an_earlier_export_and_nothing_else(model, tmp_path, monkeypatch):
    files = {"preconditioning.json": b"{}", "config.json": b"1"}
    monkeypatch.setattr("pipeline.learning.diffusers_folder.diffusers", lambda *ignored: Made(dict(files), 0.0))
    words = ("export", "model/model", "--format", "diffusers", "--out", "deep/folder")
    folder = tmp_path / "deep/folder"
    folder.mkdir(parents=True)  # an empty one may be taken
    assert model(*words).code == 0
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files

    model(*words).refused("holds an earlier export", "--force")
    files["config.json"] = b"2"
    assert model(*words, "--force").code == 0
    assert (folder / "config.json").read_bytes() == b"2"
    assert [path.name for path in folder.parent.iterdir()] == ["folder"]

    (folder / "notes.txt").write_text("mine")
    model(*words, "--force").refused("also holds notes.txt")
    (folder / "preconditioning.json").unlink()
    model(*words, "--force").refused("holds other things")
    assert (folder / "notes.txt").read_text() == "mine"
    assert [path.name for path in folder.parent.iterdir()] == ["folder"]
    (tmp_path / "file").write_text("mine")
    model(*words[:-1], "file", "--force").refused("is a file")


def test_adopted_weights_are_a_model_like_any_other(model, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "call", lambda scale, function, *items: function(*items))
    said = model("adopt", "given/weights.safetensors", "--json")
    assert said.code == 0, said.err
    assert said.json["name"] == "adopted/weights"
    kept, given = Store("runs").artifact(said.json["model"]), tmp_path / "given"
    assert kept.read("denoiser.json") == (given / "denoiser.json").read_bytes()
    (tmp_path / "kept.safetensors").write_bytes(kept.read("weights.safetensors"))
    kept_tensors, tensors = load_file(tmp_path / "kept.safetensors"), load_file(given / "weights.safetensors")
    assert kept_tensors.keys() == tensors.keys()
    assert all(torch.equal(kept_tensors[name], tensors[name]) for name in tensors)

    drawn = model("sample", "adopted/weights", "--count", "2", "--steps", "2", "--json")
    assert drawn.code == 0, drawn.err
    judged = model("evaluate", "adopted/weights", "--test", "model/model", "--samples", "0", "--json")
    assert judged.code == 0, judged.err
    assert set(judged.json["metrics"]) == {"denoising_error"}

    (tmp_path / "other.safetensors").write_bytes((given / "weights.safetensors").read_bytes())
    described = (given / "denoiser.json").read_text()
    again = model("adopt", "other.safetensors", "--network", described, "--name", "Mine, again!", "--json")
    assert again.json == {"model": said.json["model"], "name": "adopted/Mine-again"}, "known by content, not by place"


def test_a_folder_of_diffusers_is_a_model_and_its_autoencoder(alone, tmp_path, monkeypatch):
    diffusers = pytest.importorskip("diffusers", reason="the extra `diffusers` is not installed")
    monkeypatch.setattr(cluster, "call", lambda scale, function, *items: function(*items))
    pipeline_at(tmp_path / "given", diffusers)
    said = alone("adopt", "given", "--json")
    assert said.code == 0, said.err
    assert said.json["name"] == "adopted/given"
    assert json.loads(Store("runs").artifact(said.json["autoencoder"]).read("denoiser.json"))["shape"] == [1, 8, 8]
    draw = ("sample", "adopted/given", "--count", "2", "--steps", "2", "--json")
    shutil.rmtree(tmp_path / "given")  # what is in the store needs it no more
    drawn = alone(*draw, "--decoder", "adopted/given-vae")
    assert drawn.code == 0, drawn.err
    assert json.loads(Store("runs").artifact(drawn.json["samples"]).read("dataset.json"))["shape"] == [1, 8, 8]
    alone(*draw).refused("latents of 4 channels", "give its decoder")
    alone(*draw, "--decoder", "adopted/given").refused("a Autoencoder is needed")


def test_what_cannot_be_adopted_is_refused(model, tmp_path):
    given = tmp_path / "given"
    model("adopt", "nothing.safetensors").refused("nothing.safetensors is no file")
    model("adopt", "given").refused("config.json cannot be read", "it is not there")
    model("adopt", "given/weights.safetensors", "--names", "edm3").refused("edm3", "ours, edm2")
    model("adopt", "given/weights.safetensors", "--names", "edm2").refused("none of EDM2")
    (tmp_path / "model.pt").write_bytes(b"\x80\x04anything")
    described = ("--network", (given / "denoiser.json").read_text())
    model("adopt", "model.pt", *described).refused("is a pickle", "sandbox", "safetensors.torch.save_file")
    model("adopt", "model.pt").refused("denoiser.json is not there", "--network")
    model("adopt", "given/weights.safetensors", "--network", "{is: os.system}").refused("os.system")
    model("adopt", "given/weights.safetensors", "--network", "[").refused("--network")
    (given / "denoiser.json").write_bytes(b"\xff\xfe")
    model("adopt", "given/weights.safetensors").refused("denoiser.json")

    other = Preconditioned.Config((1, 2, 2), mlp.Config(width=4, blocks=1, embedding=2), EDM(0.7)).build()
    save_file(other.state_dict(), tmp_path / "other.safetensors")
    model("adopt", "other.safetensors", *described).refused(
        "does not fit", "it lacks", "besides", "(1, 2, 2) not (1, 8, 8)"
    )
    tensors = load_file(given / "weights.safetensors")
    save_file({name: tensor * float("nan") for name, tensor in tensors.items()}, tmp_path / "nan.safetensors")
    model("adopt", "nan.safetensors", *described).refused("nan.safetensors has NaN")
    assert not [address for address in Store("runs").addresses() if address.startswith("adopt/")]
