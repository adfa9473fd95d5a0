"""A denoiser for programs that do not know this project: D(x, σ[, cond]), preconditioned, as TorchScript or ONNX.

Both take any number of rows and compute in float32. TorchScript is traced: torch 2.13 calls `torch.jit` deprecated, but
what `torch.export` writes instead is read by torch of about the same version only, and this by any, and by libtorch. A
trace has no branches and ONNX may compute in another order, so what was made is run and compared before it is given.
"""

from __future__ import annotations

import dataclasses
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor

from pipeline.backbones.condition import Condition, Labels
from pipeline.diffusion.denoiser import Network, expand
from pipeline.diffusion.precond import Preconditioned

N = TypeVar("N", bound=Network)
NAMES = ("x", "sigma", "cond")
NOTE = "kintsugi.json"
MOST_ONNX = 2**31 - 2**24  # bytes: protobuf's 2 GiB, less the graph
AGREES = 1e-3  # of the largest number in D: ten times what float32 in another order costs a large network


class Made(NamedTuple):
    """Files by name, or one file without a name, and by how much what they compute differs from the denoiser."""

    files: Mapping[str, bytes]
    difference: float


def torchscript(network: Network, told: Mapping[str, Any]) -> Made:
    """A file for `torch.jit.load`, with `told` as its extra file `kintsugi.json`."""
    network, buffer = plain(network), io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # each warns of the deprecation, and of branches: those are compared below
        torch.jit.save(traced(network), buffer, _extra_files={NOTE: json.dumps(told)})
        read = torch.jit.load(io.BytesIO(buffer.getvalue()))
    # Optimising takes longer than two evaluations.
    with torch.jit.optimized_execution(False):  # pyright: ignore[reportPrivateImportUsage]
        return Made({"": buffer.getvalue()}, difference(network, read, "TorchScript"))


@torch.no_grad()
def traced(network: Network) -> Any:
    """The network as a graph of torch's own operations."""
    return torch.jit.trace(network, example(network, 2), check_trace=False)


def onnx(network: Network, told: Mapping[str, Any]) -> Made:
    """An ONNX file with inputs `x`, `sigma` and maybe `cond`, output `denoised`, and `told` as its metadata.

    Raises ValueError: the packages for it are not installed, or the network is larger than such a file may be.
    """
    try:
        import onnx as library  # pyright: ignore[reportMissingImports]
        import onnxruntime  # pyright: ignore[reportMissingImports]
        import onnxscript  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise ValueError(f"ONNX needs the package {error.name}: pip install 'kintsugi[export]'") from error
    network = plain(network)
    size = sum(tensor.nbytes for tensor in network.state_dict().values())
    if size > MOST_ONNX:
        raise ValueError(f"the weights take {size / 1e9:.1f} GB and an ONNX file at most 2.1: export to torchscript")
    inputs = example(network, 2)
    names, rows = NAMES[: len(inputs)], torch.export.Dim("batch", min=1)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        # strict=False: nothing is compiled, the network runs once on symbols.
        exported = torch.export.export(network, inputs, dynamic_shapes=tuple({0: rows} for _ in inputs), strict=False)
        made = torch.onnx.export(exported, dynamo=True, verbose=False, input_names=names, output_names=["denoised"])
    model = cast(torch.onnx.ONNXProgram, made).model_proto
    library.helper.set_model_props(model, {NOTE: json.dumps(told)})
    data = model.SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])

    def run(*arguments: Tensor) -> Tensor:
        feed = {name: argument.numpy() for name, argument in zip(names, arguments, strict=True)}
        return torch.from_numpy(session.run(None, feed)[0])

    return Made({"": data}, difference(network, run, "ONNX"))


def plain(network: N) -> N:
    """The same network on the CPU, without autocast."""
    network = network.cpu().eval().requires_grad_(False)
    for module in network.modules():
        if isinstance(module, Preconditioned):
            module.config = dataclasses.replace(module.config, bf16=False)
    return network


def example(network: Network, rows: int) -> tuple[Tensor, ...]:
    """Inputs of so many rows: images in noise of σ from 0.002 to 80, and conditions where the network has them."""
    generator = torch.Generator().manual_seed(rows)
    x, sigma = torch.randn(rows, *network.config.shape, generator=generator), torch.logspace(-2.7, 1.9, rows)
    x = x * expand(sigma + 0.5, x)
    told = condition_of(network)
    if told is None:
        return x, sigma
    if isinstance(told, Labels):
        return x, sigma, torch.arange(rows) % (told.classes + 1) - 1
    return x, sigma, torch.randn(rows, told.features - 1, generator=generator)


def condition_of(network: Network) -> Condition | None:
    """What the network is told. Raises ValueError: its parts are told different things."""
    found = set(_conditions(network.config))
    if len(found) > 1:
        raise ValueError("the parts of this model take different conditions: export one of them")
    return found.pop() if found else None


def _conditions(config: Any) -> Iterator[Condition]:
    if isinstance(config, Condition):
        yield config
    elif isinstance(config, tuple):
        for item in config:
            yield from _conditions(item)
    elif dataclasses.is_dataclass(config):
        for field in dataclasses.fields(config):
            yield from _conditions(getattr(config, field.name))


@torch.no_grad()
def difference(network: Network, made: Callable[..., Tensor], name: str) -> float:
    """The largest difference between two denoisers, over σ from 0.002 to 80, in batches of 1 and of 5.

    Raises ValueError: it is more than rounding.
    """
    largest = 0.0
    for rows in (1, 5):
        inputs = example(network, rows)
        wanted = network(*inputs)
        differs = (made(*inputs) - wanted).abs().max().item()
        if not differs <= AGREES * max(1.0, wanted.abs().max().item()):
            raise ValueError(f"{name} of this model differs from it by {differs:.1g}: export it to another format")
        largest = max(largest, differs)
    return largest
