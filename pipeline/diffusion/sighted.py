"""A denoiser of images of which only linear measurements are seen: D(u, σ; G) = E[x₀ | Ã(x₀ + σz), Ã].

u = Ãᵀỹ is what was measured, put back among the pixels, and G = ÃᵀÃ how. The network sees u, G 1 and G w for a white
image w that it keeps, from which almost every Ã can be told. It is preconditioned like `filling.py`, of which G is the
mask: D = μ + c_skip v + c_out G F + s (F − G F) with v = u − G μ. A is brought to a norm of 1 at most.

Asked as an ordinary denoiser it looks through an Ã of its own, drawn as those of its rows were.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.backbones.backbone import Backbone
from pipeline.diffusion.denoiser import Network, Trained, expand
from pipeline.diffusion.precond import EDM


class Sighted(Network):
    """D (B, *) in float32."""

    @dataclass(frozen=True)
    class Config(Trained):
        """What to build, for images of `shape` (C, *)."""

        shape: tuple[int, ...]
        backbone: Backbone
        precond: EDM = EDM()

        @property
        def channels(self) -> tuple[int, int]:
            """Of the network's input and output."""
            return 3 * self.shape[0], self.shape[0]

        def build(self) -> Sighted:
            """The module, initialised from torch's global generator; its own G sees everything."""
            return Sighted(self)

    config: Config
    centre: Tensor
    gram: Tensor
    probe: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.net = config.backbone.build(tuple(config.shape), *config.channels)
        self.register_buffer("centre", torch.zeros(tuple(config.shape)))
        self.register_buffer("gram", torch.eye(math.prod(config.shape)))
        self.register_buffer("probe", torch.randn(tuple(config.shape)))

    def forward(self, x: Tensor, sigma: Tensor, cond: Tensor | None = None, gram: Tensor | None = None) -> Tensor:
        """Of u = x by each row's G (B, n, n); without one, of an image x (B, *) by the network's own."""
        if gram is None:
            gram = self.gram[None]
            x = through(gram, x.float())
        sigma, gram, precond = sigma.float(), gram.float(), self.config.precond
        c_skip, c_out, c_in, c_noise = precond.coefficients(sigma)
        one, other, centre = (
            through(gram, image[None]).expand_as(x) for image in (torch.ones_like(self.probe), self.probe, self.centre)
        )
        v = x.float() - centre
        F = self.net(torch.cat([expand(c_in, v) * v, one, other], 1), c_noise, cond)
        seen = through(gram, F)
        s = precond.sigma_data
        return self.centre + expand(c_skip, v) * v + expand(c_out, v) * seen + s * (F - seen)


def through(gram: Tensor, x: Tensor) -> Tensor:
    """G x (B, *), for G (B or 1, n, n) and x (B or 1, *)."""
    return (gram @ x.flatten(1)[..., None])[..., 0].view(-1, *x.shape[1:])
