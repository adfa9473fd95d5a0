"""Layers that keep the magnitude of what goes through: unit variance in, unit variance out.

Karras et al. 2024 ("Analyzing and improving the training dynamics of diffusion models", 2312.02696), configuration
G: every weight vector has unit length, in use and (forced, in training) in memory, where its root mean square is 1;
sums, concatenations and SiLU are divided by what they do to the magnitude of independent inputs; there are no biases,
but a constant input channel. Without weight decay, the rate alone then says how fast weights turn.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.backbones.condition import Condition, features
from pipeline.backbones.spatial import attend, convolve
from pipeline.backbones.style import Place, Style

SILU = 0.596  # √E[silu(z)²] of white z (eq. 81)


@dataclass(frozen=True)
class Preserving(Style):
    """Magnitude-preserving blocks: `branch` is the weight of a block's branch against its shortcut."""

    branch: float = 0.3

    def __post_init__(self) -> None:
        if not 0 < self.branch < 1:
            raise ValueError(f"branch is {self.branch}: give the weight of a branch, within (0, 1)")

    def stem(self, into: int, out: int, dims: int) -> nn.Module:
        return _Stem(into, out, dims)

    def embed(self, width: int, condition: Condition | None) -> nn.Module:
        return _Embedding(width, condition)

    def block(self, place: Place) -> nn.Module:
        return _Block(place, self.branch)

    def join(self, h: Tensor, skip: Tensor) -> Tensor:
        return joined(h, skip)

    def head(self, into: int, out: int, dims: int) -> nn.Module:
        return _Head(into, out, dims)


class Linear(nn.Module):
    """x (B, I, *) by unit weight vectors: a convolution of `sides`, or of the rows (B, I) without any."""

    def __init__(self, into: int, out: int, sides: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out, into, *sides))

    def forward(self, x: Tensor, gain: Tensor | float = 1.0) -> Tensor:
        """Of `gain` times the magnitude of x."""
        if self.training:
            self.settle()
        axes = tuple(range(1, self.weight.ndim))
        weight = normalised(self.weight, axes) * (gain / math.sqrt(self.weight[0].numel()))
        return functional.linear(x, weight) if self.weight.ndim == 2 else convolve(x, weight.to(x.dtype))

    @torch.no_grad()
    def settle(self) -> None:
        """Bring the weights in memory to the length that they have in use."""
        # .data: a second forward pass before the backward one must not count as a change
        self.weight.data.copy_(normalised(self.weight, tuple(range(1, self.weight.ndim))))


def normalised(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """The same x with root mean square 1 along `axes`, in its own precision."""
    length = torch.linalg.vector_norm(x, dim=axes, keepdim=True, dtype=torch.float32)
    count = math.prod([x.shape[axis] for axis in axes])  # a list: torch.compile takes no generator
    return x / (length * math.sqrt(1 / count)).clamp_min(1e-4).to(x.dtype)


def summed(a: Tensor, b: Tensor, t: float) -> Tensor:
    """(1 − t) a + t b, brought back to unit magnitude (eq. 88)."""
    return ((1 - t) * a + t * b) / math.hypot(1 - t, t)


def joined(a: Tensor, b: Tensor) -> Tensor:
    """Both a (B, N, *) and b (B, M, *) in one, each with half of the whole's magnitude (eq. 103)."""
    n, m = a.shape[1], b.shape[1]
    return torch.cat([a * math.sqrt((n + m) / (2 * n)), b * math.sqrt((n + m) / (2 * m))], 1)


def silu(x: Tensor) -> Tensor:
    """SiLU of unit magnitude (eq. 81)."""
    return functional.silu(x) / SILU


class _Stem(nn.Module):
    def __init__(self, into: int, out: int, dims: int) -> None:
        super().__init__()
        self.conv = Linear(into + 1, out, (3,) * dims)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(torch.cat([x, torch.ones_like(x[:, :1])], 1))


class _Head(nn.Module):
    def __init__(self, into: int, out: int, dims: int) -> None:
        super().__init__()
        self.conv, self.gain = Linear(into, out, (3,) * dims), nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x, self.gain)


class _Embedding(nn.Module):
    """The noise level by random frequencies (section B.3), and the condition at equal weight."""

    def __init__(self, width: int, condition: Condition | None) -> None:
        super().__init__()
        self.condition = condition
        self.frequencies: Tensor
        self.phases: Tensor
        self.register_buffer("frequencies", 2 * math.pi * torch.randn(width))
        self.register_buffer("phases", 2 * math.pi * torch.rand(width))
        self.level = Linear(width, width)
        self.told = None if condition is None else Linear(condition.features, width)

    def forward(self, c_noise: Tensor, cond: Tensor | None, x: Tensor) -> Tensor:
        angles = c_noise[:, None] * self.frequencies + self.phases
        e = self.level(math.sqrt(2) * angles.cos())
        told = features(self.condition, cond, x)
        return silu(e if self.told is None or told is None else summed(e, self.told(told), 0.5))


class _Block(nn.Module):
    def __init__(self, place: Place, branch: float) -> None:
        super().__init__()
        sides, ones = (3,) * place.dims, (1,) * place.dims
        self.rising, self.branch, self.heads = place.rising, branch, place.heads
        self.skip = Linear(place.into, place.out, ones) if place.into != place.out else nn.Identity()
        self.conv1 = Linear(place.into if place.rising else place.out, place.out, sides)
        self.affine, self.gain = Linear(place.embedding, place.out), nn.Parameter(torch.zeros(1))
        self.drop = nn.Dropout(place.dropout)
        self.conv2 = Linear(place.out, place.out, sides)
        self.qkv = Linear(place.out, 3 * place.out, ones) if place.heads else None
        self.out = Linear(place.out, place.out, ones) if place.heads else None

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        if not self.rising:
            x = normalised(self.skip(x), (1,))
        h = self.conv1(silu(x))
        scale = 1 + self.affine(e, self.gain).reshape(e.shape[0], -1, *(1,) * (x.ndim - 2))
        h = self.conv2(self.drop(silu(h * scale)))
        x = summed(self.skip(x) if self.rising else x, h, self.branch)
        if self.qkv is None or self.out is None:
            return x
        qkv = self.qkv(x).unflatten(1, (3, self.heads, -1))
        q, k, v = normalised(qkv, (3,)).unbind(1)
        return summed(x, self.out(attend(q, k, v).flatten(1, 2)), self.branch)
