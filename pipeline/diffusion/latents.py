"""An autoencoder between images and the latents in which a pretrained model works: `AutoencoderKL` of diffusers.

z = (m(x) − shift) · scaling with m the mean of its posterior q(z | x), so that latents have about unit variance and are
the same for the same image; back, x = decoder(z/scaling + shift) ("High-Resolution Image Synthesis with Latent
Diffusion Models", Rombach et al., arXiv 2112.10752, section 4.3.2).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pipeline.backbones.diffusers_exact import built
from pipeline.backbones.diffusers_model import package
from pipeline.diffusion.denoiser import Network, Trained


class Autoencoder(Network):
    """Images (B, C, H, W) in [-1, 1] to latents (B, c, h, w) and back."""

    @dataclass(frozen=True)
    class Config(Trained):
        """For images of `shape`; `options` are the arguments of `AutoencoderKL`."""

        shape: tuple[int, ...]
        options: Mapping[str, Any] = field(default_factory=dict)

        def __post_init__(self) -> None:
            if len(self.shape) != 3 or any(side % self.factor for side in self.shape[1:]):
                raise ValueError(f"images are {tuple(self.shape)}: give (C, H, W) with sides divided by {self.factor}")
            if self.options.get("latents_mean") is not None or self.options.get("latents_std") is not None:
                raise ValueError("its latents are scaled each channel for itself: only scaling_factor is taken")
            if type(channels := self.options.get("latent_channels", 4)) is not int or channels < 1:
                raise ValueError(f"latent_channels is {channels!r:.40}: give a number of channels")
            if not (isinstance(self.scaling, int | float) and 0 < self.scaling < math.inf):
                raise ValueError(f"scaling_factor is {self.scaling!r:.40}: give a number above 0")
            if not (isinstance(self.shift, int | float) and math.isfinite(self.shift)):
                raise ValueError(f"shift_factor is {self.shift!r:.40}: give a number")

        @property
        def factor(self) -> int:
            """How many times smaller the sides of latents are."""
            levels = self.options.get("block_out_channels", (64,))
            if not isinstance(levels, list | tuple) or not 1 <= len(levels) <= 16:
                raise ValueError(f"block_out_channels is {levels!r:.60}: give 1 to 16 numbers")
            return 2 ** (len(levels) - 1)

        @property
        def latent(self) -> tuple[int, int, int]:
            """The shape of an image's latent."""
            return (self.options.get("latent_channels", 4), *(side // self.factor for side in self.shape[1:]))  # pyright: ignore[reportReturnType]

        @property
        def scaling(self) -> Any:
            """What latents are multiplied by."""
            return self.options.get("scaling_factor", 0.18215)

        @property
        def shift(self) -> Any:
            """What is taken off them before."""
            return self.options.get("shift_factor") or 0.0

        def build(self) -> Autoencoder:
            """The module. Raises ValueError: diffusers is not installed or refuses the options."""
            return Autoencoder(self)

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.model: Any = built(package("AutoencoderKL").AutoencoderKL, config.options)

    def encode(self, x: Tensor) -> Tensor:
        """The scaled mean (B, c, h, w) of the posterior of images x (B, C, H, W)."""
        return (self.model.encode(x).latent_dist.mean - self.config.shift) * self.config.scaling

    def decode(self, z: Tensor) -> Tensor:
        """Images (B, C, H, W), about within [-1, 1], of latents z (B, c, h, w)."""
        return self.model.decode(z / self.config.scaling + self.config.shift).sample

    def forward(self, x: Tensor) -> Tensor:
        """What is left of images on the way there and back."""
        return self.decode(self.encode(x))


def in_pieces(each: Any, x: Tensor, rows: int) -> Tensor:
    """`each` of x (B, *), so many rows at a time, on the CPU, without gradients."""
    with torch.no_grad():
        return torch.cat([each(piece).cpu() for piece in x.split(rows)])
