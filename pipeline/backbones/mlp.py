"""A multilayer perceptron on flattened pixels: no idea of what an image is, which is what makes it a baseline."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.backbones.backbone import Backbone
from pipeline.backbones.unet import LevelEmbedding


@dataclass(frozen=True)
class Config(Backbone):
    """`blocks` residual blocks of `width` hidden units; `dropout` within each block."""

    width: int = 256
    blocks: int = 3
    embedding: int = 64
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if min(self.width, self.blocks, self.embedding) < 1 or not 0 <= self.dropout < 1:
            raise ValueError(f"{self}: give sizes of at least 1 and dropout within [0, 1)")

    def build(self, shape: tuple[int, ...], channels_in: int, channels_out: int) -> MLP:
        """The network for images of `shape` (C, *)."""
        return MLP(self, shape[1:], channels_in, channels_out)


class MLP(nn.Module):
    """net(x (B, channels_in, *), c_noise (B,), cond) -> (B, channels_out, *), zero before training."""

    def __init__(self, config: Config, size: tuple[int, ...], channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.out_shape = (channels_out, *size)
        self.embed = LevelEmbedding(config.embedding)
        self.into = nn.Linear(channels_in * math.prod(size), config.width)
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(config.width)
        self.out = nn.Linear(config.width, math.prod(self.out_shape))
        for parameter in self.out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, c_noise: Tensor, cond: Tensor | None = None) -> Tensor:
        """F, of about unit variance once trained."""
        e, h = self.embed(c_noise), self.into(x.flatten(1))
        for block in self.blocks:
            h = block(h, e)
        return torch.unflatten(self.out(functional.silu(self.norm(h))), 1, self.out_shape)


class _Block(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.norm, self.into = nn.LayerNorm(config.width), nn.Linear(config.width, config.width)
        self.level, self.drop = nn.Linear(config.embedding, config.width), nn.Dropout(config.dropout)
        self.out = nn.Linear(config.width, config.width)

    def forward(self, h: Tensor, e: Tensor) -> Tensor:
        return h + self.out(self.drop(functional.silu(self.into(self.norm(h)) + self.level(e))))
