"""Weights from elsewhere, read as if a stranger had made them: safetensors alone, of which nothing runs.

Before any number is read, what the file says it holds is compared with what the network wants; what is read is finite.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.module import register_module_parameter_registration_hook

from pipeline.diffusion.denoiser import Network, Trained

MOST_HEADER = 8 << 20  # bytes; a tensor takes about 100, and parsing many times what it parses
MOST_TENSORS = 1 << 15  # several times what the largest networks have
PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
FLOATS = {"F64", "F32", "F16", "BF16"}


@dataclass(frozen=True)
class Taken:
    """What one of our tensors is made of: the file's tensor `name` of `shape`, by `convert` where they differ.

    `once` is the name that it has in older files.
    """

    name: str
    shape: tuple[int, ...]
    convert: Callable[[Tensor], Tensor] = lambda tensor: tensor
    once: str | None = None

    def among(self, names: Set[str]) -> Taken:
        """The same, under the name that a file has for it."""
        return replace(self, name=self.once) if self.once in names and self.name not in names else self


Plan = Mapping[str, Taken]


def as_ours(network: Trained) -> tuple[Plan, frozenset[str]]:
    """The plan for a file with the names of this project, and the names that it may have and are not used: none."""
    return {name: Taken(name, shape) for name, shape in shapes(network).items()}, frozenset()


def shapes(network: Trained) -> dict[str, tuple[int, ...]]:
    """Of all tensors of a network, which is not built for it: a stranger's sizes must take no memory.

    Raises ValueError: it has more of them than any network.
    """
    with torch.device("meta"), _bounded():
        return {name: tuple(tensor.shape) for name, tensor in network.build().state_dict().items()}


@contextmanager
def _bounded() -> Iterator[None]:
    """An empty network's modules take memory too: what is built in the context ends at `MOST_TENSORS` parameters."""
    count = itertools.count(1)

    def registered(*_: object) -> None:
        if next(count) > MOST_TENSORS:
            raise ValueError(f"the network has over {MOST_TENSORS} tensors: give the configuration of a smaller one")

    hook = register_module_parameter_registration_hook(registered)
    try:
        yield
    finally:
        hook.remove()


def load(path: Path, network: Trained, plan: Plan, unused: frozenset[str]) -> Network:
    """The network with the weights of a safetensors file.

    Raises ValueError: the file is a pickle, is damaged, holds other tensors than planned, or a NaN.
    """
    import safetensors

    _check_header(path)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            there = set(file.keys())
            plan = {name: taken.among(there) for name, taken in plan.items()}
            _check_fit(path, file, plan, unused)
            tensors = {name: _finite(path, taken, file.get_tensor(taken.name)) for name, taken in plan.items()}
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"{path} is no whole safetensors file ({' '.join(str(error).split())}): fetch it anew"
        ) from error
    built = network.build()
    wanted = built.state_dict()
    built.load_state_dict({**{name: torch.zeros_like(wanted[name]) for name in wanted}, **tensors})
    return built


def _check_header(path: Path) -> None:
    with open(path, "rb") as file:
        start = file.read(8)
    if start.startswith(PICKLES) or path.suffix in (".pkl", ".pt", ".pth", ".ckpt", ".bin"):
        raise ValueError(
            f"{path} is a pickle, which can run anything when it is opened: in a sandbox (a container without network "
            "or your files) load it and write its state_dict() with safetensors.torch.save_file, and name that"
        )
    size, length = path.stat().st_size, int.from_bytes(start, "little")
    if len(start) < 8 or length > size - 8:
        raise ValueError(f"{path} is no whole safetensors file: its {size} bytes are fewer than its header says")
    if length > MOST_HEADER:
        raise ValueError(f"{path} has a header of {length} bytes: no network of this project needs over {MOST_HEADER}")


def _check_fit(path: Path, file: Any, plan: Plan, unused: frozenset[str]) -> None:
    """What is missing, too much or of another shape or kind, in one sentence."""
    there, wanted = set(file.keys()), {taken.name: taken.shape for taken in plan.values()}
    wrong = _told("it lacks", sorted(wanted.keys() - there))
    wrong += _told("it has besides", sorted(there - wanted.keys() - unused))
    slices = {name: file.get_slice(name) for name in sorted(wanted.keys() & there)}
    found = {name: tuple(part.get_shape()) for name, part in slices.items()}
    wrong += _told("of other shapes are", [f"{n} {found[n]} not {wanted[n]}" for n in found if found[n] != wanted[n]])
    kinds = {name: part.get_dtype() for name, part in slices.items()}
    wrong += _told("no floating-point numbers are", [f"{n} {kind}" for n, kind in kinds.items() if kind not in FLOATS])
    if wrong:
        raise ValueError(f"{path} does not fit the network: {'; '.join(wrong)}")


def _told(what: str, names: list[str]) -> list[str]:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return [f"{what} {', '.join(name[:60] for name in names[:3])}{more}"] if names else []


def _finite(path: Path, taken: Taken, tensor: Tensor) -> Tensor:
    tensor = tensor.float()
    if not bool(tensor.isfinite().all()):
        raise ValueError(f"{path} has NaN or infinite numbers in {taken.name[:60]}: it is of no use")
    return taken.convert(tensor)
