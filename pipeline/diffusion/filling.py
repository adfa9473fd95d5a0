"""A denoiser of images that are seen through masks: D(m ⊙ x, σ; m) = E[x₀ | m ⊙ (x₀ + σz), m] of all pixels.

The network sees the masked image and the mask. A pixel that is hidden is one at infinite noise, and is preconditioned
so: D = μ + s F there, and μ + c_skip (x − μ) + c_out F where it is seen. (Ambient Diffusion, Daras et al., NeurIPS
2023, arXiv 2305.19256, multiplies F by c_out at all pixels, which vanishes with σ, and so does what it can say of
hidden ones.)

Asked as an ordinary denoiser it looks through masks of its own, drawn once ("fixed mask sampling", section 4 there), or
at the whole image if it has been taught to. With several masks m₁ .. m_K the first one's answer is pulled towards what
the others say: D = D₁ − λ σ² ∇ₓ ½ Σ_k |D₁ − D_k|², the score's share of "reconstruction guidance" (their eq. 5).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.backbones.backbone import Backbone
from pipeline.diffusion.denoiser import Network, Trained, expand
from pipeline.diffusion.precond import EDM
from pipeline.keys import Key
from pipeline.physics.corruption import Corruption
from pipeline.physics.linear import shows


@dataclass(frozen=True)
class Further:
    """What is hidden besides what the data hide: pixels, each with probability `share`, or a box as large as that.

    Drawn anew in every step: from a pixel that is hidden for once, yet known, the network learns to fill in those that
    are never known.
    """

    share: float = 0.1
    box: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ValueError(f"share is {self.share}: give the part of an image that is hidden besides, within (0, 1)")

    def keeps(self, u: Tensor) -> Tensor:
        """True where nothing more is hidden (B, 1, *), from uniforms u of that shape."""
        if not self.box:
            return u >= self.share
        sides = [max(1, round(n * self.share ** (1 / (u.ndim - 2)))) for n in u.shape[2:]]
        inside = torch.ones_like(u, dtype=torch.bool)
        for axis, side in enumerate(sides, 2):
            place = u.flatten(1)[:, axis - 2]  # any of the uniforms will do
            first = (place * (u.shape[axis] - side + 1)).floor()
            at = torch.arange(u.shape[axis], device=u.device) - first[:, None]
            shape = [len(u), 1, *(1,) * (u.ndim - 2)]
            shape[axis] = u.shape[axis]
            inside = inside & ((at >= 0) & (at < side)).reshape(shape)
        return ~inside


@dataclass(frozen=True)
class Ask:
    """Through which masks a filling network looks at images that have none.

    Args:
        whole: at whole images; only for one that has learned from whole images too.
        masks: how many masks of its own, from 1.
        guidance: λ, from 0; with several masks.
        seed: of the masks.
    """

    whole: bool = False
    masks: int = 1
    guidance: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.masks < 1 or not 0 <= self.guidance < math.inf:
            raise ValueError(f"masks is {self.masks} and guidance {self.guidance}: give a mask at least, and λ from 0")
        if (self.guidance > 0) != (self.masks > 1) or (self.whole and self.masks > 1):
            raise ValueError("guidance is by further masks: give both or neither, and not with whole images")


class Filling(Network):
    """D(x, σ; mask): E[x₀ | mask ⊙ (x₀ + σz), mask] (B, *) in float32."""

    @dataclass(frozen=True)
    class Config(Trained):
        """Images of `shape` (C, *) that `seen` hides pixels of, what is hidden besides, and how to ask.

        `seen` None: through masks that came with the images; those it asks with are kept with the weights.
        """

        shape: tuple[int, ...]
        seen: Corruption | None
        backbone: Backbone
        further: Further = Further()
        precond: EDM = EDM()
        ask: Ask = Ask()

        @property
        def channels(self) -> tuple[int, int]:
            """Of the network's input, which has the mask, and output."""
            return 2 * self.shape[0], self.shape[0]

        def build(self) -> Filling:
            """The module, initialised from torch's global generator."""
            return Filling(self)

        def masks(self) -> Tensor:
            """The masks (K, C, *) through which it looks: drawn as those of the data are, and hidden further."""
            shape = tuple(self.shape)
            if self.ask.whole or self.seen is None:
                return torch.ones(self.ask.masks, *shape, dtype=torch.bool)
            found = []
            for k in range(self.ask.masks):
                key = Key(self.ask.seed).fold("ask", k, "seen")
                row = {name: np.asarray(value)[None] for name, value in self.seen.draw(shape, key).items()}
                found.append(shows(self.seen.at(row, shape)))
            return self.hidden(torch.cat(found))

        def hidden(self, masks: Tensor) -> Tensor:
            """The masks (K, *, of channels or for all of them) with what is hidden besides."""
            keys = [Key(self.ask.seed).fold("ask", k, "further") for k in range(len(masks))]
            drawn = [key.numpy().random((1, *self.shape[1:])) for key in keys]
            return masks & self.further.keeps(torch.from_numpy(np.stack(drawn)))

    config: Config
    centre: Tensor
    masks: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.net = config.backbone.build(tuple(config.shape), *config.channels)
        self.register_buffer("centre", torch.zeros(tuple(config.shape)))
        self.register_buffer("masks", config.masks(), persistent=config.seen is None)

    def forward(self, x: Tensor, sigma: Tensor, cond: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Of each row through its own mask (B, *) of bools, or through the masks that the network asks with."""
        if mask is not None:
            return self._filled(x, sigma, cond, mask)
        own = self.masks[:, None].expand(-1, len(x), *self.masks.shape[1:])
        if len(own) == 1:
            return self._filled(x, sigma, cond, own[0])
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            first, *others = (self._filled(x, sigma, cond, each) for each in own)
            apart = torch.stack([((first - other) ** 2).sum() for other in others]).sum() / 2
            (pull,) = torch.autograd.grad(apart, x)
        return first.detach() - self.config.ask.guidance * expand(sigma.float() ** 2, x) * pull

    def _filled(self, x: Tensor, sigma: Tensor, cond: Tensor | None, mask: Tensor) -> Tensor:
        sigma, precond = sigma.float(), self.config.precond
        c_skip, c_out, c_in, c_noise = precond.coefficients(sigma)
        x = torch.where(mask, x.float() - self.centre, 0)
        F = self.net(torch.cat([expand(c_in, x) * x, mask.expand_as(x).to(x)], 1), c_noise, cond)
        return self.centre + torch.where(mask, expand(c_skip, x) * x + expand(c_out, x) * F, precond.sigma_data * F)
