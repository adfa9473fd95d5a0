"""Feature networks from files: what they are given, what they give, and what is refused before any of it runs."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.metrics.classifier import Classifier
from pipeline.metrics.features import Pixels, described, finite, undescribed
from pipeline.metrics.files import WEIGHTS, DINOv2, File, Inception


class Flat(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1) * 1.0


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.conv(x).mean((2, 3), keepdim=True)
        return features, features[:, :2, 0, 0]


class Asked(nn.Module):
    def forward(self, x: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        return x.mean((2, 3)) if return_features else x.mean((1, 2, 3)).unsqueeze(1)


class Reads(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1) + torch.from_file("/etc/hostname", False, 1, dtype=torch.uint8)


class Wakes(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)

    @torch.jit.export
    def __getstate__(self):
        return (1, self.training)

    @torch.jit.export
    def __setstate__(self, state: tuple[int, bool]) -> None:
        self.training = state[1]


def program(module: nn.Module) -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(module), buffer)
    return buffer.getvalue()


def opened(data: bytes, file: File = File()):
    file = replace(file, sha256=hashlib.sha256(data).hexdigest())
    return undescribed(described(file).encode()).open({WEIGHTS: data}.__getitem__)


def images(channels: int = 3, side: int = 4) -> torch.Tensor:
    return torch.rand(5, channels, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_a_network_is_given_what_it_expects():
    x = images()
    torch.testing.assert_close(opened(program(Flat()))(x), ((x + 1) * 127.5).flatten(1).double())
    half = opened(program(Flat()), File(low=-1, high=1, size=2))(x)
    torch.testing.assert_close(
        half, nn.functional.interpolate(x, (2, 2), mode="bilinear", antialias=True).flatten(1).double()
    )
    grey = opened(program(Flat()))(images(1))
    assert grey.shape == (5, 48)
    assert torch.equal(grey[:, :16], grey[:, 32:]), "grey is repeated"


def test_known_networks_are_prepared_for_as_their_authors_did():
    white = torch.ones(1, 3, 8, 8)
    found = DINOv2().prepared(white)
    assert found.shape == (1, 3, 224, 224)
    want = (1 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(found[0, :, 7, 7], want)
    assert torch.equal(Inception().prepared(-white), torch.zeros(1, 3, 8, 8))
    x = images()
    torch.testing.assert_close(opened(program(Asked()), Inception())(x), ((x + 1) * 127.5).mean((2, 3)).double())
    assert "Inception" in Inception().card["features"]


def test_of_several_outputs_one_is_named():
    data = program(Pair())
    assert opened(data)(images()).shape == (5, 4)
    assert opened(data, File(output=1))(images()).shape == (5, 2)
    with pytest.raises(ValueError, match="output is 2 and the feature network has 2"):
        opened(data, File(output=2))(images())


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (torch.zeros(2, 2, 4, 4), r"takes 3 channels and these are images \(2, 4, 4\)"),
        (images(3, 2), "does not take images"),
    ],
)
def test_images_that_do_not_fit_are_a_sentence(x, says):
    with pytest.raises(ValueError, match=says) as refused:
        opened(program(Pair()))(x)
    assert "\n" not in str(refused.value)


class Single(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sum()


class Maps(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 1.0


@pytest.mark.parametrize("module", [Single(), Maps()])
def test_what_is_no_vector_an_image_is_refused(module):
    with pytest.raises(ValueError, match=r"it must give numbers|ends in a vector"):
        opened(program(module))(images())


def saved(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def bomb() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/constants.pkl", b"")
        archive.writestr("x/code/__torch__.py", b" " * (17 << 20))
    return buffer.getvalue()


def twice() -> bytes:
    buffer = io.BytesIO(program(Flat()))
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr(next(n for n in archive.namelist() if n.endswith(".py")), b"")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (pickle.dumps({"weights": 1}), "is a pickle, which can run anything"),
        (saved({"weight": torch.zeros(2)}), "holds tensors or Python objects, no program"),
        (program(Flat())[:900], "is no whole TorchScript file"),
        (program(Reads()), "uses 'from_file' in .*only computes"),
        (program(Wakes()), "uses '__.etstate__' in"),
        (bomb(), "over 16 MiB of code"),
        (twice(), "can be read in two ways"),
        (b"", "neither TorchScript nor ONNX"),
        (b"hello, I am a JPEG", "neither TorchScript nor ONNX"),
    ],
)
def test_files_that_are_no_feature_network_are_refused_in_one_sentence(data, says):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    with pytest.raises(ValueError, match=says) as refused:
        opened(data)
    assert "\n" not in str(refused.value)


def test_an_onnx_file_computes_as_its_network_and_takes_no_weights_from_elsewhere(tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper = onnx.helper
    shape = ["n", 3, "h", "w"]
    weight = helper.make_tensor("w", onnx.TensorProto.FLOAT, [1], np.float32([2.0]).tobytes(), raw=True)
    nodes = [helper.make_node("Mul", ["x", "w"], ["y"]), helper.make_node("Flatten", ["y"], ["z"])]
    ends = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, s) for n, s in (("x", shape), ("z", ["n", "m"]))]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    x = images()
    found = opened(model.SerializeToString())(x)
    torch.testing.assert_close(found, ((x + 1) * 255).flatten(1).double(), atol=1e-3, rtol=1e-5)
    onnx.external_data_helper.set_external_data(model.graph.initializer[0], "../../secret")
    with pytest.raises(ValueError, match="takes weights from other files"):
        opened(model.SerializeToString())


def test_another_file_than_the_described_one_is_refused():
    data = program(Flat())
    file = File(sha256=hashlib.sha256(data + b" ").hexdigest())
    with pytest.raises(ValueError, match="not the one that was described"):
        file.open({WEIGHTS: data}.__getitem__)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [({"size": 0}, "size is 0"), ({"std": (1.0, 0.0, 1.0)}, "std has a zero"), ({"mean": (0.5,)}, "one for each of 3")],
)
def test_options_that_make_no_sense(wrong, says):
    with pytest.raises(ValueError, match=says):
        File(**wrong)


def test_features_that_are_not_finite_name_their_image():
    features = torch.zeros(3, 2)
    features[1, 0] = torch.nan
    with pytest.raises(ValueError, match="image 'b' are not finite"):
        finite(features, ["a", "b", "c"], Pixels().card)


@pytest.mark.slow
def test_a_classifier_learns_and_its_features_tell_classes_apart():
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(3, (256,), generator=generator)
    x = 0.3 * torch.randn(256, 1, 8, 8, generator=generator)
    x[torch.arange(256), 0, :, 2 * label] += 1
    spec = Classifier(width=8, images=6400, batch=64, shape=(1, 8, 8), classes=3)

    def batches():
        while True:
            for i in range(0, 256, 64):
                yield x[i : i + 64], label[i : i + 64]

    network = spec.train(batches())
    with torch.no_grad():
        features, logits = network(x)
    assert (logits.argmax(1) == label).float().mean() > 0.9
    assert features.shape == (256, 32)
    again = spec.train(batches())
    assert all(torch.equal(p, q) for p, q in zip(network.parameters(), again.parameters()))

    import safetensors.torch

    data = safetensors.torch.save(dict(network.state_dict()))
    made = replace(spec, sha256=hashlib.sha256(data).hexdigest())
    extract = undescribed(described(made).encode()).open({"weights.safetensors": data}.__getitem__)
    torch.testing.assert_close(extract(x), features.double())
    with pytest.raises(ValueError, match=r"learned images \(1, 8, 8\), these are \(1, 4, 4\)"):
        extract(torch.zeros(2, 1, 4, 4))
    with pytest.raises(ValueError, match="not the ones that were described"):
        spec.open({"weights.safetensors": data}.__getitem__)
    with pytest.raises(ValueError, match="at least two"):
        replace(spec, classes=1).build()


DATA = os.environ.get("KINTSUGI_DATA")


@pytest.mark.slow
@pytest.mark.skipif(not DATA, reason="KINTSUGI_DATA names no folder with feature networks")
@pytest.mark.parametrize(("file", "n"), [("cifar10_resnet20_features", 64), ("mobilenetv2_imagenet_features", 1280)])
def test_networks_of_others_are_read(file, n):
    data = (Path(DATA or "") / f"extractors/{file}.pt").read_bytes()
    assert opened(data)(images(3, 32)).shape == (5, n)
    assert opened(data, File(size=32))(images(1, 8)).isfinite().all()
