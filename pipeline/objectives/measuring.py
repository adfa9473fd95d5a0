"""Learning from linear measurements of images that nobody saw: Ambient Diffusion beyond masks.

Observed is y = A x₀ + s n, A of each row its own. In every step some of its numbers are left out as well, Ã = B A with
a diagonal B of zeros and ones; the network sees u = Ãᵀỹ, ỹ = B (y + √(σ² − s²) A z), and how Ã sees, ÃᵀÃ. k = s²/σ²:

    T = (1 − k) A D + k ỹ  where B keeps a number,   T = A D  where it does not,
    L = Σ_j w_j (T_j − y_j)² / Σ_j |a_j|²,   a_j the rows of A,

is stationary where E[AᵀA | Ã] (D − E[x₀ | ỹ, Ã]) = 0 (for w = 1), since A, given Ã, has nothing to do with x₀: at D =
E[x₀ | ỹ, Ã] and, where E[AᵀA | Ã] has full rank, nowhere else (Daras et al., "Ambient Diffusion", NeurIPS 2023, arXiv
2305.19256). y with noise wants A Aᵀ = I, or what is added would not be what is missing; without, any A will do. Of
masks it is `masking.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.diffusion.denoiser import expand
from pipeline.diffusion.precond import EDM
from pipeline.keys import Key
from pipeline.objectives.ambient import Ambient
from pipeline.objectives.objective import Batch, Draws, Loss


@dataclass(frozen=True)
class Taken(Batch):
    """Rows that were measured: y (B, m) by A (B, m, n), n the numbers of an image; x (B, *) is only a shape."""

    y: Tensor | None = None
    A: Tensor | None = None


@dataclass(frozen=True)
class Measuring(Ambient):
    """`Ambient` for a network that is told how its rows were measured (`diffusion/sighted.py`).

    Args:
        share: of the numbers of each row, that are left out besides, drawn anew in every step.
    """

    precond: EDM = EDM()
    share: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.share < 1:
            raise ValueError(f"share is {self.share}: give the part of the measurements that is left out, in (0, 1)")

    def draw(self, batch: Batch, key: Key) -> Draws:
        """White noise shaped as images, and which numbers are kept (B, m)."""
        y, _ = taken(batch)
        return super().draw(batch, key) | {"kept": batch.uniform(key.fold("further"), y.shape[1:]) >= self.share}

    def loss(self, D: nn.Module, batch: Batch, sigma: Tensor, drawn: Draws) -> Loss:
        """One loss per example (B,); the scalar `left_out` is the mean square error of what was left out besides."""
        y, A = taken(batch)
        known = A.square().sum(2)  # |a_j|², 0 where nothing was measured
        y = torch.where(known > 0, y, 0)
        floor = torch.zeros_like(sigma) if batch.floor is None else batch.floor
        z = (A @ drawn["noise"].flatten(1)[..., None])[..., 0]
        moved = y + (sigma**2 - floor**2).clamp_min(0).sqrt()[:, None] * z
        kept = drawn["kept"] & (known > 0)
        seen = kept[..., None] * A
        u = (seen.mT @ moved[..., None])[..., 0].view_as(batch.x)
        guess = D(u, sigma, batch.cond, gram=seen.mT @ seen)
        told = (A @ guess.flatten(1)[..., None].to(A))[..., 0]
        share = (floor / sigma) ** 2
        k = expand(share, y)
        square = (torch.where(kept, (1 - k) * told + k * moved, told) - y) ** 2
        weight = torch.where(kept, expand(self.weigh(sigma, share), y), 1 / self.precond.sigma_data**2)
        each = (weight * square * (known > 0)).sum(1) / known.sum(1).clamp_min(1e-12)
        besides = (known > 0) & ~kept
        return Loss(each, {"left_out": (square.detach() * besides).sum() / besides.sum().clamp_min(1)})


def taken(batch: Batch) -> tuple[Tensor, Tensor]:
    """What was measured, and by what. Raises ValueError: the batch does not say."""
    if not isinstance(batch, Taken) or batch.y is None or batch.A is None:
        raise ValueError("measurements are learned from in batches that say how they were taken: give `Taken` ones")
    return batch.y, batch.A
