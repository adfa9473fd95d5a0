"""A network made a denoiser: D(x, σ) = c_skip x + c_out F(c_in x, c_noise), with F's input and target of unit variance.

For data of variance s² the input c_in (x₀ + σz) and the target (x₀ − c_skip x)/c_out have variance 1 at every σ, and
weight(σ) c_out² = 1, so that the weighted loss of D is the plain loss of F. All of it is around a centre μ (zero
unless set): with μ the data's mean, s² is the variance about it, and D begins as the best linear isotropic denoiser.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.backbones.backbone import Backbone
from pipeline.diffusion.denoiser import Network, Trained, expand


class Precond(ABC):
    """How a network's output becomes E[x₀ | x]; subclasses are frozen dataclasses."""

    @abstractmethod
    def coefficients(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """c_skip, c_out, c_in, c_noise, each shaped as σ."""

    @abstractmethod
    def weight(self, sigma: Tensor) -> Tensor:
        """The weight of |D − x₀|² at σ, shaped as σ."""


@dataclass(frozen=True)
class EDM(Precond):
    """The preconditioning of Karras et al. 2022 (Table 1, appendix B.6) for data of standard deviation `sigma_data`."""

    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        if not self.sigma_data > 0:
            raise ValueError(
                f"sigma_data is {self.sigma_data}: give the standard deviation of the data, above 0; images that are "
                "all alike have none"
            )

    def coefficients(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """c_skip = s²/(σ²+s²), c_out = σs/√(σ²+s²), c_in = 1/√(σ²+s²), c_noise = ln(σ)/4."""
        s, total = self.sigma_data, sigma**2 + self.sigma_data**2
        return s**2 / total, sigma * s / total.sqrt(), total.rsqrt(), sigma.log() / 4

    def weight(self, sigma: Tensor) -> Tensor:
        """(σ² + s²)/(σs)² = 1/c_out²."""
        return (sigma**2 + self.sigma_data**2) / (sigma * self.sigma_data) ** 2


class Preconditioned(Network):
    """A backbone that has become a denoiser; the arithmetic around the network is in float32."""

    @dataclass(frozen=True)
    class Config(Trained):
        """What to build: images of `shape` (C, *); `bf16` runs the network alone under bfloat16 autocast."""

        shape: tuple[int, ...]
        backbone: Backbone
        precond: Precond = EDM()
        bf16: bool = False

        @property
        def channels(self) -> tuple[int, int]:
            """Of the network's input and output."""
            return self.shape[0], self.shape[0]

        def build(self) -> Preconditioned:
            """The module, initialised from torch's global generator."""
            return Preconditioned(self)

    config: Config
    centre: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.net = config.backbone.build(tuple(config.shape), *config.channels)
        self.register_buffer("centre", torch.zeros(config.shape))

    def forward(self, x: Tensor, sigma: Tensor, cond: Tensor | None = None) -> Tensor:
        """E[x₀ | x] (B, *) in float32, from x (B, *) and σ (B,)."""
        x, sigma = x.float() - self.centre, sigma.float()
        c_skip, c_out, c_in, c_noise = self.config.precond.coefficients(sigma)
        with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=self.config.bf16):
            F = self.net(expand(c_in, x) * x, c_noise, cond)
        return self.centre + expand(c_skip, x) * x + expand(c_out, x) * F.float()
