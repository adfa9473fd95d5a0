"""What a denoiser is: D(x, σ) = E[x₀ | x₀ + σz = x], and the score and the noise are views of it.

With white z, Tweedie's formula gives ∇ log p_σ(x) = (D(x, σ) − x)/σ² and E[z | x] = (x − D(x, σ))/σ.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from typing import Protocol

import torch
from torch import Tensor, nn


class Trained(ABC):
    """The configuration of a denoiser with weights: a frozen dataclass that builds it, for images of `shape` (C, *)."""

    shape: tuple[int, ...]

    @abstractmethod
    def build(self) -> Network:
        """The module, a `Denoiser`, with this configuration in its `.config`."""


class Network(nn.Module):
    """A denoiser with weights and the configuration that builds it."""

    config: Trained

    @property
    def device(self) -> torch.device:
        """Where its weights are, or, of one that has none, the numbers that it was given."""
        return next(itertools.chain(self.parameters(), self.buffers())).device


class Denoiser(Protocol):
    """Whatever maps x (B, *) in data units and σ (B,) in the same units to E[x₀ | x] (B, *)."""

    def __call__(self, x: Tensor, sigma: Tensor, cond: Tensor | None = None) -> Tensor: ...


class Continued:
    """A denoiser that learned nothing below σ = `least`, with its score there taken to be that at `least`.

    D(x, σ) = x + (σ/least)² (D(x, least) − x) for σ < least, which is x itself at 0.
    """

    def __init__(self, D: Denoiser, least: float) -> None:
        self.D, self.least = D, least

    def __call__(self, x: Tensor, sigma: Tensor, cond: Tensor | None = None) -> Tensor:
        """E[x₀ | x] (B, *) at σ (B,)."""
        level = sigma.clamp_min(self.least)
        return x + expand((sigma / level) ** 2, x) * (self.D(x, level, cond) - x)


def expand(sigma: Tensor, x: Tensor) -> Tensor:
    """σ (B,) shaped (B, 1, ..., 1) to multiply x (B, *); raises ValueError unless it holds one number per example."""
    if sigma.shape != x.shape[:1]:
        raise ValueError(f"sigma has shape {tuple(sigma.shape)} but x holds {len(x)} examples: give one per example.")
    return sigma.reshape(-1, *(1,) * (x.ndim - 1))


def score(D: Denoiser, x: Tensor, sigma: Tensor, cond: Tensor | None = None) -> Tensor:
    """∇ₓ log p_σ(x) (B, *) by Tweedie's formula (Efron 2011, eq. 2.8, at σ of each example)."""
    return (D(x, sigma, cond) - x) / expand(sigma, x) ** 2


def noise(D: Denoiser, x: Tensor, sigma: Tensor, cond: Tensor | None = None) -> Tensor:
    """E[z | x] (B, *), which is also dx/dσ of the probability-flow ODE (Karras et al. 2022, eq. 3)."""
    return (x - D(x, sigma, cond)) / expand(sigma, x)
