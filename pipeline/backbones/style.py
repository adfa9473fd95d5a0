"""What a U-Net's layers are made of: a style makes the stem, the blocks, what joins them and the head."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn

from pipeline.backbones.condition import Condition


@dataclass(frozen=True)
class Place:
    """Where a block stands, with its channels in and out; `rising`: on the way up; without heads it does not attend."""

    into: int
    out: int
    dims: int
    embedding: int
    heads: int
    dropout: float
    rising: bool


class Style(ABC):
    """What a U-Net is made of; subclasses are frozen dataclasses."""

    @abstractmethod
    def stem(self, into: int, out: int, dims: int) -> nn.Module:
        """The first layer: x (B, into, *) -> (B, out, *)."""

    @abstractmethod
    def embed(self, width: int, condition: Condition | None) -> nn.Module:
        """(c_noise (B,), cond, x) -> (B, width)."""

    @abstractmethod
    def block(self, place: Place) -> nn.Module:
        """(h (B, into, *), e (B, embedding)) -> (B, out, *)."""

    @abstractmethod
    def join(self, h: Tensor, skip: Tensor) -> Tensor:
        """Of h (B, N, *) and skip (B, M, *) -> (B, N + M, *)."""

    @abstractmethod
    def head(self, into: int, out: int, dims: int) -> nn.Module:
        """The last layer, zero before training."""
