"""A compact U-Net for small images and clips of any size: residual blocks down and up, all pixels mixed at the bottom.

Images that are centred and small (digits, crops of known position) reward a network that knows where it is: coordinates
enter as two channels, every pixel of the first layer has a learned offset, and at the lowest resolution a fully
connected residual block sees the whole image. The noise level scales and shifts the second half of each block
(Dhariwal and Nichol 2021, "adaptive group normalisation"); the last layer starts at zero.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.backbones.backbone import Backbone
from pipeline.backbones.spatial import Conv, enlarged, halved


@dataclass(frozen=True)
class Config(Backbone):
    """Sizes of a U-Net.

    Args:
        width: channels at full resolution.
        multipliers: channels at each resolution, in units of width; None: halve, at double width, until the short
            side of an image is at most 4.
        embedding: size of the noise level's embedding.
        mixing: hidden units of the fully connected block at the bottom; 0 leaves it out.
        dropout: probability with which a channel (or a hidden unit of the mixing block) is dropped in training.
        dropout_below: (σ, p): another probability at noise levels below σ, where fewer rows teach (the clean ones
            among noisy ones), which would be learned by heart with the dropout that suits the many.
    """

    width: int = 32
    multipliers: tuple[int, ...] | None = None
    embedding: int = 64
    mixing: int = 128
    dropout: float = 0.1
    dropout_below: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.width < 8 or self.width % 8:
            raise ValueError(f"width is {self.width}: give a multiple of 8")
        if not 0 <= self.dropout < 1 or self.mixing < 0 or self.embedding < 2 or self.embedding % 2:
            raise ValueError(f"{self}: give dropout within [0, 1), mixing >= 0, an even embedding")
        sigma, rate = self.dropout_below or (1.0, 0.0)
        if not (0 < sigma < math.inf and 0 <= rate < 1):
            raise ValueError(f"dropout_below is {self.dropout_below}: give a noise level above 0 and a probability < 1")
        if self.multipliers is not None and (not self.multipliers or min(self.multipliers) < 1):
            raise ValueError(f"multipliers is {self.multipliers}: give one or more numbers of at least 1")

    def build(self, shape: tuple[int, ...], channels_in: int, channels_out: int) -> UNet:
        """The network for images of `shape` (C, H, W) or clips (C, T, H, W). Raises: ValueError: they are neither."""
        if len(shape) not in (3, 4):
            raise ValueError(f"this U-Net is for images (C, H, W) and clips (C, T, H, W), not {tuple(shape)}")
        return UNet(self, shape[1:], channels_in, channels_out)

    def widths(self, size: tuple[int, ...]) -> list[int]:
        """Channels at each resolution of an image of `size`."""
        if self.multipliers is not None:
            return [self.width * m for m in self.multipliers]
        halvings = max(0, math.ceil(math.log2(min(size[-2:]) / 4)))
        return [self.width] + [2 * self.width] * halvings


class UNet(nn.Module):
    """net(x (B, channels_in, *), c_noise (B,), cond) -> (B, channels_out, *) of images (H, W) or clips (T, H, W)."""

    def __init__(self, config: Config, size: tuple[int, ...], channels_in: int, channels_out: int) -> None:
        super().__init__()
        widths, axes = config.widths(size), len(size)
        conv = Conv[axes - 1]
        self.coordinates: Tensor
        self.embed = LevelEmbedding(config.embedding)
        self.stem = conv(channels_in + axes, widths[0], 3, padding=1)
        self.offset = nn.Parameter(torch.zeros(1, widths[0], *size))
        places = [torch.linspace(-1, 1, n) if n > 1 else torch.zeros(1) for n in size]
        self.register_buffer("coordinates", torch.stack(torch.meshgrid(*places, indexing="ij"))[None], persistent=False)
        sizes = [size]
        for _ in widths[1:]:
            sizes.append(tuple(-(-n // 2) for n in sizes[-1]))
        into = [widths[0], *widths[:-1]]
        self.down = nn.ModuleList(_Block(i, o, config, axes) for i, o in zip(into, widths, strict=True))
        self.mix = _Mix(widths[-1], math.prod(sizes[-1]), config) if config.mixing else None
        rising = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.up = nn.ModuleList(_Block(below + here, here, config, axes) for below, here in rising)
        self.norm = _norm(widths[0])
        self.out = conv(widths[0], channels_out, 3, padding=1)
        for parameter in self.out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, c_noise: Tensor, cond: Tensor | None = None) -> Tensor:
        """F, of about unit variance once trained, zero before."""
        e = self.embed(c_noise)
        place = self.coordinates.to(x.dtype).expand(x.shape[0], *self.coordinates.shape[1:])
        h = self.stem(torch.cat([x, place], 1)) + self.offset
        skips = []
        for i, block in enumerate(self.down):
            h = block(halved(h) if i else h, e, c_noise)
            skips.append(h)
        if self.mix is not None:
            h = self.mix(h, e, c_noise)
        for block, skip in zip(self.up, skips[-2::-1], strict=True):
            h = block(torch.cat([enlarged(h, skip.shape[2:]), skip], 1), e, c_noise)
        return self.out(functional.silu(self.norm(h)))


class LevelEmbedding(nn.Module):
    """c_noise = ln(σ)/4 as sines and cosines of 16 frequencies, then two layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.frequencies: Tensor
        self.register_buffer("frequencies", torch.logspace(math.log10(0.5), math.log10(12.0), 16), persistent=False)
        self.net = nn.Sequential(nn.Linear(32, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())

    def forward(self, c_noise: Tensor) -> Tensor:
        angles = c_noise[:, None] * self.frequencies
        return self.net(torch.cat([angles.sin(), angles.cos()], 1))


class _Block(nn.Module):
    """Two convolutions around a noise-dependent scale and shift, beside a shortcut."""

    def __init__(self, into: int, out: int, config: Config, axes: int) -> None:
        super().__init__()
        conv = Conv[axes - 1]
        self.norm1, self.conv1 = _norm(into), conv(into, out, 3, padding=1)
        self.affine = nn.Linear(config.embedding, 2 * out)
        self.norm2, self.conv2 = _norm(out), conv(out, out, 3, padding=1)
        self.drop = _Dropout(config, (nn.Dropout2d if axes == 2 else nn.Dropout3d)(config.dropout))
        self.skip = conv(into, out, 1) if into != out else nn.Identity()
        for parameter in self.affine.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, e: Tensor, c_noise: Tensor) -> Tensor:
        h = self.conv1(functional.silu(self.norm1(x)))
        scale, shift = self.affine(e).reshape(h.shape[0], -1, *(1,) * (h.ndim - 2)).chunk(2, 1)
        h = functional.silu(self.norm2(h) * (1 + scale) + shift)
        return self.skip(x) + self.conv2(self.drop(h, c_noise))


class _Mix(nn.Module):
    """A fully connected residual block over all pixels and channels."""

    def __init__(self, channels: int, pixels: int, config: Config) -> None:
        super().__init__()
        self.norm = _norm(channels)
        self.into = nn.Linear(channels * pixels, config.mixing)
        self.level = nn.Linear(config.embedding, config.mixing)
        self.drop = _Dropout(config, nn.Dropout(config.dropout))
        self.out = nn.Linear(config.mixing, channels * pixels)

    def forward(self, x: Tensor, e: Tensor, c_noise: Tensor) -> Tensor:
        h = functional.silu(self.into(self.norm(x).flatten(1)) + self.level(e))
        return x + self.out(self.drop(h, c_noise)).view_as(x)


class _Dropout(nn.Module):
    """Channels or hidden units dropped in training, each row's with the probability that its noise level has."""

    def __init__(self, config: Config, even: nn.Module) -> None:
        super().__init__()
        self.even, self.rate, self.below = even, config.dropout, config.dropout_below

    def forward(self, h: Tensor, c_noise: Tensor) -> Tensor:
        if self.below is None or not self.training:
            return self.even(h)
        sigma, rate = self.below
        p = torch.where(c_noise < math.log(sigma) / 4, rate, self.rate)[:, None]
        kept = (torch.rand(h.shape[:2], device=h.device) >= p) / (1 - p)
        return h * kept.to(h.dtype).reshape(*h.shape[:2], *(1,) * (h.ndim - 2))


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(max(1, channels // 8), channels)
