"""A transformer on patches, whose noise level and condition scale, shift and gate every block: DiT.

Peebles and Xie 2023 ("Scalable diffusion models with transformers", arXiv 2212.09748), blocks of kind adaLN-zero: each
block begins as the identity, the whole network as zero. Places are fixed sines and cosines added to the tokens, or
rotations of queries and keys by their place (Su et al., "RoFormer", arXiv 2104.09864, a share of the channels an axis),
with which attention knows of relative places only. Data (C, *) have one to three spatial dimensions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.backbones.backbone import Backbone
from pipeline.backbones.condition import Condition, Embedding
from pipeline.backbones.spatial import Conv, dimensions, located


@dataclass(frozen=True)
class Config(Backbone):
    """Sizes of a DiT.

    Args:
        width: channels of a token.
        depth: how many blocks.
        heads: heads of attention in each.
        patch: side of a patch, one for all axes or one an axis; sides that it does not divide are padded with zeros.
        expansion: hidden units of a block's perceptron, in units of width.
        rotary: relative places by rotation instead of absolute ones by addition.
        dropout: probability with which a number of a branch's result is dropped in training.
        condition: what the network is told beside the image.
        coordinates: whether every entry is told where it is.
    """

    width: int = 384
    depth: int = 12
    heads: int = 6
    patch: tuple[int, ...] = (2,)
    expansion: int = 4
    rotary: bool = False
    dropout: float = 0.0
    condition: Condition | None = None
    coordinates: bool = False

    def __post_init__(self) -> None:
        if min(self.width, self.depth, self.heads, self.expansion) < 1 or self.width % (2 * self.heads):
            raise ValueError(
                f"width is {self.width}, depth {self.depth}, heads {self.heads}, expansion {self.expansion}: give at "
                "least 1 of each, and a width that is a multiple of twice the heads"
            )
        if not self.patch or min(self.patch) < 1:
            raise ValueError(f"patch is {self.patch}: give its side, at least 1, once or for each axis")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}: give a probability within [0, 1)")

    def build(self, shape: tuple[int, ...], channels_in: int, channels_out: int) -> DiT:
        """The network for data of `shape` (C, *). Raises ValueError: `patch` or the width do not fit its dimensions."""
        dims = dimensions(shape)
        patch = self.patch * dims if len(self.patch) == 1 else self.patch
        if len(patch) != dims:
            raise ValueError(
                f"patch is {self.patch} but the data have {dims} spatial dimensions: give one side or {dims}"
            )
        angles = self.width // self.heads // 2 if self.rotary else self.width // 2
        if angles < dims:
            what = f"a head of {self.width // self.heads}" if self.rotary else f"width {self.width}"
            raise ValueError(f"{what} has no channels for places on {dims} axes: give at least {2 * dims}")
        return DiT(self, tuple(shape[1:]), patch, channels_in, channels_out)


class DiT(nn.Module):
    """net(x (B, channels_in, *), c_noise (B,), cond) -> (B, channels_out, *), zero before training."""

    def __init__(
        self, config: Config, size: tuple[int, ...], patch: tuple[int, ...], channels_in: int, channels_out: int
    ) -> None:
        super().__init__()
        self.config, self.size, self.patch = config, size, patch
        self.grid = tuple(-(-n // p) for n, p in zip(size, patch, strict=True))
        places = torch.stack(torch.meshgrid(*map(torch.arange, self.grid), indexing="ij"), -1).flatten(0, -2)
        angles = angles_of(places, config.width // config.heads // 2 if config.rotary else config.width // 2)
        self.angles: Tensor
        self.register_buffer("angles", angles, persistent=False)
        into = channels_in + len(size) * config.coordinates
        self.stem = Conv[len(size) - 1](into, config.width, patch, stride=patch)
        self.embed = Embedding(config.width, config.condition)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.affine = _zero(nn.Linear(config.width, 2 * config.width))
        self.head = _zero(nn.Linear(config.width, math.prod(patch) * channels_out))

    def forward(self, x: Tensor, c_noise: Tensor, cond: Tensor | None = None) -> Tensor:
        """F, of about unit variance once trained. Raises ValueError when x is not of the size it was built for."""
        if tuple(x.shape[2:]) != self.size:
            raise ValueError(f"x has shape {tuple(x.shape)} but the network is for data of {self.size}: build another")
        e = self.embed(c_noise, cond, x)
        h = located(x) if self.config.coordinates else x
        rest = [(0, g * p - n) for g, p, n in zip(self.grid, self.patch, self.size, strict=True)]
        h = self.stem(functional.pad(h, [side for pair in reversed(rest) for side in pair]))
        h = h.flatten(2).transpose(1, 2)
        if not self.config.rotary:
            h = h + torch.cat([self.angles.sin(), self.angles.cos()], -1).to(h.dtype)
        for block in self.blocks:
            h = block(h, e, self.angles if self.config.rotary else None)
        shift, scale = self.affine(e)[:, None].chunk(2, -1)
        return self.unpatched(self.head(modulated(h, shift, scale)))

    def unpatched(self, tokens: Tensor) -> Tensor:
        """Tokens (B, N, channels · patch) laid out as data (B, channels, *), without what was padded."""
        dims = len(self.size)
        apart = tokens.reshape(tokens.shape[0], *self.grid, -1, *self.patch)
        woven = [side for axis in range(dims) for side in (1 + axis, 2 + dims + axis)]
        sides = [g * p for g, p in zip(self.grid, self.patch, strict=True)]
        whole = apart.permute(0, 1 + dims, *woven).reshape(tokens.shape[0], -1, *sides)
        return whole[(..., *(slice(n) for n in self.size))]


class Block(nn.Module):
    """Attention and a perceptron, each scaled, shifted and gated by the embedding; the identity before training."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width, hidden = config.width, config.expansion * config.width
        self.heads = config.heads
        self.affine = _zero(nn.Linear(width, 6 * width))
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.rise, self.fall = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.drop = nn.Dropout(config.dropout)
        for layer in (self.qkv, self.out, self.rise, self.fall):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, h: Tensor, e: Tensor, angles: Tensor | None = None) -> Tensor:
        """Tokens h (B, N, width), the embedding e (B, width), and the angles (N, ·) of rotary places."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.affine(e)[:, None].chunk(6, -1)
        h = h + gate1 * self.drop(self.attend(modulated(h, shift1, scale1), angles))
        inner = self.rise(modulated(h, shift2, scale2))
        return h + gate2 * self.drop(self.fall(functional.gelu(inner, approximate="tanh")))

    def attend(self, h: Tensor, angles: Tensor | None) -> Tensor:
        """Self-attention of tokens (B, N, width)."""
        q, k, v = self.qkv(h).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        if angles is not None:
            q, k = rotated(q, angles), rotated(k, angles)
        return self.out(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def modulated(h: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Tokens h (B, N, C) normalised, then scaled and shifted."""
    return functional.layer_norm(h, h.shape[-1:], eps=1e-6) * (1 + scale) + shift


def angles_of(places: Tensor, count: int) -> Tensor:
    """Angles (N, count) of places (N, axes): an equal share of them an axis, at falling frequencies; the rest zero."""
    axes = places.shape[1]
    share = count // axes
    frequencies = 100.0 ** -(torch.arange(share, device=places.device) / max(1, share))
    angles = (places[:, :, None] * frequencies).flatten(1)
    return functional.pad(angles, (0, count - axes * share))


def rotated(x: Tensor, angles: Tensor) -> Tensor:
    """The halves of x (..., N, 2 count) as pairs, turned by angles (N, count)."""
    a, b = x.chunk(2, -1)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


def _zero(layer: nn.Linear) -> nn.Linear:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
