"""The residual: what the views do not see, learned from a few full images and added to their combination.

    D = D_base + g(σ) c_r(σ) F(x, D_base, σ),     c_r(σ)² = mean (x₀ − D_base)²,     g in [0, 1],

with g measured on full images that trained neither F nor any view ("Bootstrapping Diffusion", Ma, arXiv 2505.11825).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor, nn

from pipeline.backbones.backbone import Backbone
from pipeline.diffusion.compose import Base, Evidence
from pipeline.diffusion.denoiser import Network, Trained, expand


class Feature(Enum):
    """What a residual may look at besides x and the views' combination."""

    DISAGREEMENT = "disagreement"  # what each view objects to the combination
    COVERAGE = "coverage"  # how much of the views' precision bears on each entry
    COORDINATES = "coordinates"  # each axis from −1 to 1


class Residual(nn.Module):
    """F: what the views do not see, from x, what they say, and further features; zero at first."""

    @dataclass(frozen=True)
    class Config:
        """A backbone on images of `shape` (C, *), seen by `views` views, of standard deviation `sigma_data`."""

        shape: tuple[int, ...]
        views: int
        backbone: Backbone
        sigma_data: float = 0.5
        features: tuple[Feature, ...] = (Feature.DISAGREEMENT,)

        def __post_init__(self) -> None:
            if len(set(self.features)) < len(self.features):
                raise ValueError(f"features are {[f.value for f in self.features]}: name each once")

        @property
        def channels(self) -> tuple[int, int]:
            """Of the network's input, x, what the views say and the features, and output."""
            C, axes = self.shape[0], len(self.shape) - 1
            planes = {Feature.DISAGREEMENT: self.views * C, Feature.COVERAGE: C, Feature.COORDINATES: axes}
            return 2 * C + sum(planes[feature] for feature in self.features), C

        def build(self) -> Residual:
            """The module; its output is zero if the backbone's is."""
            return Residual(self)

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.net = config.backbone.build(tuple(config.shape), *config.channels)

    def forward(self, x: Tensor, sigma: Tensor, seen: Evidence, unit: Tensor, cond: Tensor | None = None) -> Tensor:
        """F (B, *) in units of c_r = `unit` (B,), from features of at most about unit variance."""
        s = self.config.sigma_data
        scaled = (x - seen.mean) * expand((sigma**2 + s**2).rsqrt(), x)
        planes = [scaled, seen.mean / s, *self._features(seen, expand(unit, x))]
        return self.net(torch.cat(planes, 1), sigma.log() / 4, cond)

    def _features(self, seen: Evidence, unit: Tensor) -> Iterator[Tensor]:
        for feature in self.config.features:
            if feature is Feature.DISAGREEMENT:
                yield seen.objections / unit
            elif feature is Feature.COVERAGE:
                yield seen.coverage
            else:
                sides = seen.mean.shape[2:]
                axes = [torch.linspace(-1, 1, side, device=unit.device, dtype=unit.dtype) for side in sides]
                grid = torch.stack(torch.meshgrid(*axes, indexing="ij"))
                yield grid.expand(len(seen.mean), *grid.shape)


class Composed(Network):
    """Base plus gated residual: a denoiser like any other."""

    @dataclass(frozen=True)
    class Config(Trained):
        """The two parts, for images of `shape` (C, *)."""

        shape: tuple[int, ...]
        base: Base.Config
        residual: Residual.Config

        def build(self) -> Composed:
            """The module, uncalibrated: gates open."""
            return Composed(self)

    config: Config
    gate: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.base, self.residual = config.base.build(), config.residual.build()
        self.register_buffer("gate", torch.ones(config.base.bins.count))

    def forward(self, x: Tensor, sigma: Tensor, cond: Tensor | None = None) -> Tensor:
        """E[x₀ | x] (B, *)."""
        seen, bins = self.base.see(x, sigma, cond), self.config.base.bins
        unit, gate = bins.read(self.base.scale, sigma), bins.read(self.gate, sigma)
        return seen.mean + expand(gate * unit, x) * self.residual(x, sigma, seen, unit, cond)
