"""Residual blocks with adaptive group normalisation: the noise level scales and shifts what was normalised.

Dhariwal and Nichol 2021 ("Diffusion models beat GANs on image synthesis", arXiv 2105.05233, section 3.1), without their
resampling within a block. The last layer of each branch starts at zero, so that a block begins as its shortcut.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.backbones.condition import Condition, Embedding
from pipeline.backbones.spatial import Conv, attend
from pipeline.backbones.style import Place, Style

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Normed(Style):
    """Adaptive group normalisation, and a shortcut that is summed or concatenated as it is."""

    def stem(self, into: int, out: int, dims: int) -> nn.Module:
        return Conv[dims - 1](into, out, 3, padding=1)

    def embed(self, width: int, condition: Condition | None) -> nn.Module:
        return Embedding(width, condition)

    def block(self, place: Place) -> nn.Module:
        return _Block(place)

    def join(self, h: Tensor, skip: Tensor) -> Tensor:
        return torch.cat([h, skip], 1)

    def head(self, into: int, out: int, dims: int) -> nn.Module:
        return nn.Sequential(_norm(into), nn.SiLU(), _zero(Conv[dims - 1](into, out, 3, padding=1)))


class _Block(nn.Module):
    def __init__(self, place: Place) -> None:
        super().__init__()
        conv = Conv[place.dims - 1]
        self.norm1, self.conv1 = _norm(place.into), conv(place.into, place.out, 3, padding=1)
        self.affine = _zero(nn.Linear(place.embedding, 2 * place.out))
        self.norm2, self.conv2 = _norm(place.out), _zero(conv(place.out, place.out, 3, padding=1))
        self.drop = nn.Dropout(place.dropout)
        self.skip = conv(place.into, place.out, 1) if place.into != place.out else nn.Identity()
        self.attention = _Attention(place) if place.heads else None

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        h = self.conv1(functional.silu(self.norm1(x)))
        scale, shift = self.affine(e).reshape(e.shape[0], -1, *(1,) * (x.ndim - 2)).chunk(2, 1)
        h = functional.silu(self.norm2(h) * (1 + scale) + shift)
        x = self.skip(x) + self.conv2(self.drop(h))
        return x if self.attention is None else x + self.attention(x)


class _Attention(nn.Module):
    def __init__(self, place: Place) -> None:
        super().__init__()
        conv = Conv[place.dims - 1]
        self.heads, self.norm = place.heads, _norm(place.out)
        self.into, self.out = conv(place.out, 3 * place.out, 1), _zero(conv(place.out, place.out, 1))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.into(self.norm(x)).unflatten(1, (3, self.heads, -1)).unbind(1)
        return self.out(attend(q, k, v).flatten(1, 2))


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(32, channels // 4), channels)


def _zero(module: M) -> M:
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module
