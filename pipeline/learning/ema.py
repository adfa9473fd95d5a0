"""The moving average of the weights, with its memory measured in images.

θ̄ ← β θ̄ + (1 − β) θ with β = ½^(batch/h) and h = min(halflife, ramp · images seen before the step), so that the average
forgets the first weights while the run is young (Karras et al. 2022, appendix F.2 and their training code).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class EMA:
    """`halflife` in images (0: no memory); `ramp` bounds it by a share of the images seen (None: unbounded)."""

    halflife: float = 500_000
    ramp: float | None = 0.05

    def beta(self, images: int, batch: int) -> float:
        """How much of the average survives a step of `batch` images after `images` were seen."""
        halflife = self.halflife if self.ramp is None else min(self.halflife, self.ramp * images)
        return 0.5 ** (batch / halflife) if halflife > 0 else 0.0

    @torch.no_grad()
    def update(self, average: nn.Module, model: nn.Module, images: int, batch: int) -> None:
        """Move the average's parameters towards the model's, in place; buffers are copied."""
        old: list[torch.Tensor] = [p.detach() for p in average.parameters()]
        new = [p.detach() for p in model.parameters()]
        if old:
            torch._foreach_lerp_(old, new, 1 - self.beta(images, batch))  # pyright: ignore[reportPrivateImportUsage]
        for kept, buffer in zip(average.buffers(), model.buffers()):
            kept.copy_(buffer)
