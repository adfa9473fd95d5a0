"""Low-rank adapters: W + (α/r) B A in place of some of a network's weights W, of which A and B alone are trained.

A (r, in) is Gaussian and B (out, r) zero at first, so that the network is at step 0 what it was to the bit ("LoRA", Hu
et al., arXiv 2106.09685). They are parametrisations of torch, which averages and checkpoints take like any module;
merged, the network has the names and the cost that it had before.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


class Where(Enum):
    """Which weights are adapted: the projections of attention, or all linear layers and convolutions of one pixel."""

    ATTENTION = "attention"
    LINEAR = "linear"


@dataclass(frozen=True)
class Adapters:
    """What is added to a network.

    Args:
        rank: that of what is added to a weight, r.
        alpha: α; B A is multiplied by α/r (None: by 1).
        where: to which weights.
    """

    unprefixed = True  # the command line has --rank, not --adapters.rank

    rank: int = 4
    alpha: float | None = None
    where: Where = Where.ATTENTION

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank is {self.rank}: give at least 1")
        if self.alpha is not None and not 0 < self.alpha < math.inf:
            raise ValueError(f"alpha is {self.alpha}: give a number above 0, such as the rank")

    @property
    def scale(self) -> float:
        """α/r."""
        return 1.0 if self.alpha is None else self.alpha / self.rank


class LowRank(nn.Module):
    """W (out, in, ...) -> W + scale · B A; the std of A is 1/r, as it is elsewhere (peft's `gaussian`)."""

    def __init__(self, weight: Tensor, adapters: Adapters) -> None:
        super().__init__()
        out, into = weight.flatten(1).shape
        self.scale = adapters.scale
        self.A = nn.Parameter(torch.randn(adapters.rank, into, device=weight.device) / adapters.rank)
        self.B = nn.Parameter(torch.zeros(out, adapters.rank, device=weight.device))

    def forward(self, weight: Tensor) -> Tensor:
        """The adapted weight, shaped as it was."""
        return weight + self.scale * (self.B @ self.A).view_as(weight)


def adapt(network: nn.Module, adapters: Adapters) -> list[str]:
    """Freeze a network, in place, and adapt it, from torch's global generator; the names of the layers adapted.

    Raises ValueError where it has no such weights.
    """
    chosen = [(name, layer) for name, layer in network.named_modules() if _suits(network, name, layer, adapters.where)]
    if not chosen:
        rest = "choose where: linear" if adapters.where is Where.ATTENTION else "train it whole"
        raise ValueError(f"this network has no {adapters.where.value} weights to be adapted: {rest}")
    network.requires_grad_(False)
    for _, layer in chosen:
        parametrize.register_parametrization(layer, "weight", LowRank(layer.weight, adapters))  # pyright: ignore[reportArgumentType]
    return [name for name, _ in chosen]


def merge(network: nn.Module) -> None:
    """Put W + (α/r) B A in the place of W wherever it was adapted, in place: a plain network again."""
    for layer in list(network.modules()):
        if parametrize.is_parametrized(layer, "weight"):
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)


def _suits(network: nn.Module, name: str, layer: nn.Module, where: Where) -> bool:
    """Whether a layer is of the kind: attention's have names of their own in diffusers and in our networks."""
    conv = isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d) and set(layer.kernel_size) == {1} and layer.groups == 1
    if not (isinstance(layer, nn.Linear) or conv):
        return False
    if where is Where.LINEAR:
        return True
    above, _, last = name.rpartition(".")
    around = network.get_submodule(above)
    ours = hasattr(around, "qkv") or "Attention" in type(around).__name__
    return (
        last in ("to_q", "to_k", "to_v", "qkv")
        or f".{name}".endswith(".to_out.0")
        or (ours and last in ("into", "out"))
    )
