"""How much each noise level's loss counts, learned beside the denoiser (Karras et al. 2024, eq. 21).

L = L(σ)/exp(u(σ)) + u(σ). Its minimum over u is where exp(u(σ)) = E[L(σ)], so that every level's loss comes to count
as 1 whatever its size (Kendall et al. 2018 weigh tasks this way). u is used in training alone.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from pipeline.keys import Key


class LevelWeight(nn.Module):
    """u(σ), linear in fixed random waves of ln(σ)/4; zero at first, which is no weighting."""

    waves: Tensor
    phases: Tensor

    def __init__(self, channels: int = 128):
        super().__init__()
        draw = Key(0).fold("level weight").torch()
        self.register_buffer("waves", 2 * math.pi * torch.randn(channels, generator=draw))
        self.register_buffer("phases", 2 * math.pi * torch.rand(channels, generator=draw))
        self.share = nn.Parameter(torch.zeros(channels))
        self.level = nn.Parameter(torch.zeros(1))

    def forward(self, sigma: Tensor) -> Tensor:
        """U (B,) at σ (B,)."""
        features = torch.cos(sigma.float().log()[:, None] / 4 * self.waves + self.phases)
        return self.level + features @ self.share * (2 / len(self.share)) ** 0.5

    def weigh(self, each: Tensor, sigma: Tensor) -> Tensor:
        """The losses (B,) to be minimised in place of `each` (B,)."""
        u = self(sigma)
        return each * torch.exp(-u) + u
