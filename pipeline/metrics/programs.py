"""Programs that strangers made: TorchScript and ONNX files of feature networks, opened so that they can only compute.

Neither is a Python pickle, and neither is harmless by itself: TorchScript has operations that read and write files, and
may run code when it is loaded (`__setstate__`); ONNX may take its weights from any file of the machine. Sizes are
bounded, and what could do any of this is refused, before anything of the file runs. It is still somebody's program: it
may take long, or memory.
"""

from __future__ import annotations

import io
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

Program = Callable[[Tensor], Any]
MOST = 4 << 30  # bytes of a file, and of what its archive holds unpacked
MOST_CODE = 16 << 20
MOST_ENTRIES = 1 << 16
PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
WORDS = re.compile(
    r"\b(from_file|save|load|__setstate__|__getstate__)\b|\b(classes)\s*\.|\bops\s*\.\s*(?!prim\b|aten\b)(\w+)"
)
DEEPEST = 64
ADVICE = "give TorchScript (torch.jit.trace(network, example).save(path)) or ONNX"


def is_onnx(data: bytes, name: str) -> bool:
    """Whether a file of that name is ONNX, which has no mark of its own. Raises ValueError: it is a Python pickle."""
    if data.startswith(PICKLES):
        raise ValueError(f"{name} is a pickle, which can run anything when it is opened: {ADVICE}")
    return not data.startswith(b"PK\x03\x04")


def torchscript(data: bytes, name: str, device: str | torch.device) -> Program:
    """The program of a TorchScript file, in evaluation mode.

    One that has an argument `return_features`, as the Inception of StyleGAN does, is asked for them.

    Raises ValueError: it is a pickle, no whole archive, too large, or would do more than compute.
    """
    _check_archive(data, name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # see learning/export.py
            module = torch.jit.load(io.BytesIO(data), map_location=device).eval()
        graph = str(module.inlined_graph)
    except (RuntimeError, AttributeError) as error:
        raise ValueError(f"{name} cannot be loaded as TorchScript ({_first(error)}): {ADVICE}") from error
    if found := re.search(r"= (aten::(?:from_file|save|load)|prim::PythonOp)\b", graph):
        raise ValueError(f"{name} would use {found[1]}: a feature network only computes")
    asked = {"return_features": True} if "return_features" in graph_arguments(module) else {}
    return lambda x: module(x, **asked)


def graph_arguments(module: Any) -> list[str]:
    """The names of a program's arguments."""
    return [argument.name for argument in module.forward.schema.arguments]


def _check_archive(data: bytes, name: str) -> None:
    if len(data) > MOST:
        raise ValueError(f"{name} has {len(data)} bytes, over {MOST}: give a smaller network")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            if len(entries) > MOST_ENTRIES or sum(entry.file_size for entry in entries) > MOST:
                raise ValueError(
                    f"{name} would unpack to more than {MOST} bytes or {MOST_ENTRIES} files: it is refused"
                )
            if len({entry.filename for entry in entries}) < len(entries) or archive.comment:
                raise ValueError(f"{name} is an archive that can be read in two ways: export it anew")
            parts = [entry.filename.split("/", 1)[-1] for entry in entries]
            if not any(part.startswith("code/") for part in parts) or "constants.pkl" not in parts:
                raise ValueError(f"{name} holds tensors or Python objects, no program: {ADVICE}")
            code = [
                e for e, part in zip(entries, parts, strict=True) if part.startswith("code/") and part[-3:] == ".py"
            ]
            if sum(entry.file_size for entry in code) > MOST_CODE:
                raise ValueError(f"{name} has over {MOST_CODE >> 20} MiB of code: no feature network needs as much")
            for entry in code:
                if found := WORDS.search(archive.read(entry).decode()):
                    word = next(filter(None, found.groups()))
                    raise ValueError(f"{name} uses '{word}' in {entry.filename}: a feature network only computes")
    except (zipfile.BadZipFile, UnicodeDecodeError, NotImplementedError, EOFError, RuntimeError) as error:
        raise ValueError(f"{name} is no whole TorchScript file ({_first(error)}): fetch it anew") from error


def onnx(data: bytes, name: str) -> Program:
    """The program of an ONNX file with one input of images.

    Raises ValueError: the packages are not installed, it is damaged, or its weights lie in other files.
    """
    if not data.startswith(b"\x08"):  # the field with which exporters begin, ir_version
        raise ValueError(f"{name} is neither TorchScript nor ONNX: {ADVICE}")
    try:
        import onnx as library  # pyright: ignore[reportMissingImports]
        import onnxruntime  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise ValueError(f"ONNX needs the package {error.name}: pip install 'kintsugi[export]'") from error
    if len(data) > MOST:
        raise ValueError(f"{name} has {len(data)} bytes, over {MOST}: give a smaller network")
    try:
        model = library.load_model_from_string(data)
    except Exception as error:  # protobuf has errors of its own, which are not to be imported
        raise ValueError(f"{name} is neither TorchScript nor ONNX ({_first(error)}): {ADVICE}") from error
    if not model.graph.node:
        raise ValueError(f"{name} is neither TorchScript nor ONNX: {ADVICE}")
    if any(tensor.external_data or tensor.data_location for tensor in _tensors(model)):
        raise ValueError(f"{name} takes weights from other files, which is refused: export it as one file")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(data, options, providers=onnxruntime.get_available_providers())
    except Exception as error:  # onnxruntime has a dozen of its own, below no common one
        raise ValueError(f"{name} cannot be loaded as ONNX ({_first(error)}): {ADVICE}") from error
    inputs = session.get_inputs()
    if len(inputs) != 1:
        raise ValueError(f"{name} has {len(inputs)} inputs: a feature network has one, the images")

    def run(x: Tensor) -> list[Tensor]:
        try:
            return [torch.from_numpy(out) for out in session.run(None, {inputs[0].name: x.cpu().float().numpy()})]
        except Exception as error:
            raise RuntimeError(_first(error)) from error

    return run


def _tensors(message: Any, depth: int = 0) -> Iterator[Any]:
    """Every tensor anywhere in a protobuf message."""
    if depth > DEEPEST:
        raise ValueError(f"an ONNX file lies deeper than {DEEPEST} levels: no feature network does")
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for item in value if isinstance(value, list) or hasattr(value, "__len__") else [value]:
            if not hasattr(item, "ListFields"):
                continue
            if field.message_type.name == "TensorProto":
                yield item
            yield from _tensors(item, depth + 1)


def _first(error: BaseException) -> str:
    """One line of what a library said."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines and lines[0].startswith("The following operation failed") else "".join(lines[:1]))[:160]
