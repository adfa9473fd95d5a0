"""The U-Net of large diffusion models, on signals, images and clips of any size; its blocks are of a chosen style.

Residual blocks at each of several resolutions, down and up again, with a shortcut from each block down to one on the
way up; self-attention at chosen resolutions (Ho et al. 2020; Dhariwal and Nichol 2021; Karras et al. 2022, table 7).
In clips (C, T, H, W) time is an axis like the others.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from pipeline.backbones.backbone import Backbone
from pipeline.backbones.condition import Condition
from pipeline.backbones.normed import Normed
from pipeline.backbones.spatial import dimensions, enlarged, halved, located
from pipeline.backbones.style import Place, Style


@dataclass(frozen=True)
class Config(Backbone):
    """Sizes of a U-Net.

    Args:
        width: channels at full resolution, in units of which `multipliers` are.
        multipliers: channels at each resolution, each half the one before.
        blocks: residual blocks at each resolution on the way down; one more on the way up.
        attention: resolutions whose blocks attend, 0 being the full one; the middle attends if any does.
        head: channels of a head of attention.
        embedding: size of the vector that says noise level and condition.
        dropout: probability with which a number within a block is dropped in training.
        style: what the blocks are made of.
        condition: what the network is told beside the image.
        coordinates: whether every place is told where it is.
    """

    width: int = 128
    multipliers: tuple[int, ...] = (1, 2, 2)
    blocks: int = 2
    attention: tuple[int, ...] = (1,)
    head: int = 64
    embedding: int = 256
    dropout: float = 0.0
    style: Style = Normed()
    condition: Condition | None = None
    coordinates: bool = False

    def __post_init__(self) -> None:
        if self.width < 8 or self.width % 8:
            raise ValueError(f"width is {self.width}: give a multiple of 8")
        if not self.multipliers or min(self.multipliers) < 1 or self.blocks < 1 or self.embedding < 1:
            raise ValueError(
                f"multipliers is {self.multipliers}, blocks {self.blocks}, embedding {self.embedding}: give at least 1"
            )
        if not set(self.attention) <= set(range(len(self.multipliers))):
            raise ValueError(
                f"attention is {self.attention}: give resolutions from 0 to {len(self.multipliers) - 1}, as many as "
                "there are multipliers"
            )
        if self.head < 1 or any(n > self.head and n % self.head for n in self.attending):
            raise ValueError(f"head is {self.head}: give a divisor of the channels {self.attending} that attend")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}: give a probability within [0, 1)")

    @property
    def attending(self) -> list[int]:
        """The channels of the resolutions at which there is attention."""
        levels = sorted({*self.attention, len(self.multipliers) - 1}) if self.attention else []
        return [self.width * self.multipliers[level] for level in levels]

    def heads(self, channels: int) -> int:
        """How many heads attend in so many channels."""
        return max(1, channels // self.head)

    def build(self, shape: tuple[int, ...], channels_in: int, channels_out: int) -> UNet:
        """The network for data of `shape` (C, *), with one to three spatial dimensions."""
        return UNet(self, dimensions(shape), channels_in, channels_out)


class UNet(nn.Module):
    """net(x (B, channels_in, *), c_noise (B,), cond) -> (B, channels_out, *), zero before training."""

    def __init__(self, config: Config, dims: int, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.config, self.dims, style = config, dims, config.style
        widths = [config.width * m for m in config.multipliers]

        def block(into: int, out: int, attends: bool = False, rising: bool = False) -> nn.Module:
            heads = config.heads(out) if attends else 0
            return style.block(Place(into, out, dims, config.embedding, heads, config.dropout, rising))

        self.embed = style.embed(config.embedding, config.condition)
        self.stem = style.stem(channels_in + dims * config.coordinates, widths[0], dims)
        self.down, here, skips = nn.ModuleList(), widths[0], [widths[0]]
        for level, width in enumerate(widths):
            blocks = [block(here, here)] if level else []
            blocks += [block(width if i else here, width, level in config.attention) for i in range(config.blocks)]
            skips += [here] * bool(level) + [width] * config.blocks
            self.down.append(nn.ModuleList(blocks))
            here = width
        self.middle = nn.ModuleList(
            [block(here, here, attends=bool(config.attention), rising=True), block(here, here, rising=True)]
        )
        self.widen, self.up = nn.ModuleList(), nn.ModuleList()
        for level, width in reversed(list(enumerate(widths))):
            self.widen.append(block(here, here, rising=True) if level < len(widths) - 1 else nn.Identity())
            blocks = []
            for _ in range(config.blocks + 1):
                blocks.append(block(here + skips.pop(), width, level in config.attention, rising=True))
                here = width
            self.up.append(nn.ModuleList(blocks))
        self.head = style.head(here, channels_out, dims)

    def forward(self, x: Tensor, c_noise: Tensor, cond: Tensor | None = None) -> Tensor:
        """F, of about unit variance once trained. Raises ValueError when x has not the dimensions it was built for."""
        if x.ndim != self.dims + 2:
            raise ValueError(f"x has shape {tuple(x.shape)} but the network is for {self.dims} spatial dimensions")
        e = self.embed(c_noise, cond, x)
        h = self.stem(located(x) if self.config.coordinates else x)
        skips = [h]
        for level, blocks in enumerate(self.down):
            h = halved(h) if level else h
            for block in blocks:  # pyright: ignore[reportGeneralTypeIssues]
                h = block(h, e)
                skips.append(h)
        for block in self.middle:
            h = block(h, e)
        for level, (widen, blocks) in enumerate(zip(self.widen, self.up, strict=True)):
            h = widen(enlarged(h, skips[-1].shape[2:]), e) if level else h
            for block in blocks:  # pyright: ignore[reportGeneralTypeIssues]
                h = block(self.config.style.join(h, skips.pop()), e)
        return self.head(h)
