"""A denoiser that sees a picture beside its image: D(x, σ; y) = E[x₀ | x₀ + σz = x, y], a bridge from y to x₀.

The straight path from an endpoint y + s ε to x₀, x_t = (1 − t) x₀ + t (y + s ε), is for whoever knows y the same thing
as x₀ + σ ε at σ = t s/(1 − t): take t y off and divide by 1 − t. So what is learned of one is learned of the other, and
paths begin at white noise. (Conditional flow matching, as in SFBD-OMNI, Lu et al., arXiv 2512.17051, needs noise at its
endpoint for the same reason: without it the path is a function of y, and no draw from a posterior.)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from pipeline.backbones.backbone import Backbone
from pipeline.diffusion.denoiser import Network, Trained, expand
from pipeline.diffusion.precond import EDM


class Beside(Network):
    """D(x, σ; y) (B, *) in float32; y (B, *out) is stretched to the size of x, its channels are the network's own."""

    @dataclass(frozen=True)
    class Config(Trained):
        """Images of `shape` (C, *), and of `out` (C', *) what is seen beside them."""

        shape: tuple[int, ...]
        out: tuple[int, ...]
        backbone: Backbone
        precond: EDM = EDM()

        def __post_init__(self) -> None:
            if len(self.out) != len(self.shape):
                raise ValueError(f"{tuple(self.out)} cannot be seen beside {tuple(self.shape)}: give as many axes")

        @property
        def channels(self) -> tuple[int, int]:
            """Of the network's input and output."""
            return self.shape[0] + self.out[0], self.shape[0]

        def build(self) -> Beside:
            """The module, initialised from torch's global generator."""
            return Beside(self)

    config: Config
    centre: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.net = config.backbone.build(tuple(config.shape), *config.channels)
        self.register_buffer("centre", torch.zeros(tuple(config.shape)))

    def forward(self, x: Tensor, sigma: Tensor, cond: Tensor | None = None, beside: Tensor | None = None) -> Tensor:
        """Raises ValueError: nothing is beside x, or a picture of another shape than was learned from."""
        if beside is None or tuple(beside.shape) != (len(x), *self.config.out):
            found = "nothing" if beside is None else f"{tuple(beside.shape[1:])}"
            raise ValueError(f"this model is shown a picture {tuple(self.config.out)} beside its image, not {found}")
        x, sigma, y = x.float() - self.centre, sigma.float(), beside.float()
        if y.shape[2:] != x.shape[2:]:
            y = interpolate(y, tuple(x.shape[2:]), mode="nearest")
        c_skip, c_out, c_in, c_noise = self.config.precond.coefficients(sigma)
        F = self.net(torch.cat([expand(c_in, x) * x, y], 1), c_noise, cond)
        return self.centre + expand(c_skip, x) * x + expand(c_out, x) * F.float()
