"""A network that tells clean from damaged images under noise: p(damaged | x₀ + σz).

At σ large enough nobody can tell them apart: the noised damaged images have the noised clean images' law there, so that
they can teach what clean ones would ("Ambient Diffusion Omni", Daras et al., arXiv 2506.10038, section 4).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.backbones.backbone import Backbone
from pipeline.diffusion.denoiser import Network, Trained, expand
from pipeline.diffusion.precond import EDM


class Telltale(Network):
    """logit p(damaged | x, σ) (B,) of x = x₀ + σz (B, C, *): the mean over a backbone's output."""

    @dataclass(frozen=True)
    class Config(Trained):
        """What to build, for images of `shape` (C, *); `precond` scales the input."""

        shape: tuple[int, ...]
        backbone: Backbone
        precond: EDM = EDM()

        @property
        def channels(self) -> tuple[int, int]:
            """Of the network's input and output."""
            return self.shape[0], 1

        def build(self) -> Telltale:
            """The module, initialised from torch's global generator."""
            return Telltale(self)

    config: Config
    centre: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.net = config.backbone.build(tuple(config.shape), *config.channels)
        self.register_buffer("centre", torch.zeros(tuple(config.shape)))

    def forward(self, x: Tensor, sigma: Tensor, cond: Tensor | None = None) -> Tensor:
        """The logit of each row (B,), in float32."""
        *_, c_in, c_noise = self.config.precond.coefficients(sigma.float())
        x = expand(c_in, x) * (x.float() - self.centre)
        return self.net(x, c_noise, None).flatten(1).mean(1)
