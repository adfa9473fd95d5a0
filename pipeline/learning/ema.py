"""Moving averages of the weights, with their memory measured in images.

θ̄ ← β θ̄ + (1 − β) θ after each step. EMA: β = ½^(batch/h) and h = min(halflife, ramp · images seen before the step), so
that the average forgets the first weights while the run is young (Karras et al. 2022, appendix F.2 and their training
code). Power profiles, from which any other can be made afterwards, are in posthoc.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn


class Average(ABC):
    """How much of an average survives a step; subclasses are frozen dataclasses."""

    @abstractmethod
    def beta(self, images: int, batch: int) -> float:
        """How much of the average survives a step of `batch` images after `images` were seen."""

    @torch.no_grad()
    def update(self, pair: Pair, images: int, batch: int, taken: Tensor | None = None) -> None:
        """Move the average's parameters towards the model's, in place; buffers are copied.

        `taken` (a scalar on the weights' device, 0 or 1) says whether the step counts, without the host knowing.
        """
        old, new = pair.old, pair.new
        share = 1 - self.beta(images, batch)
        if not old:
            pass
        elif taken is None:
            torch._foreach_lerp_(old, new, share)  # pyright: ignore[reportPrivateImportUsage]
        else:
            weights = {dtype: taken.to(dtype) * share for dtype in {p.dtype for p in old}}
            torch._foreach_lerp_(old, new, [weights[p.dtype] for p in old])  # pyright: ignore[reportPrivateImportUsage]
        for (average, name), (model, _) in pair.buffers:
            getattr(average, name).copy_(getattr(model, name))


class Pair:
    """An average and the model that it is of, walked through once: every step would pay for that again.

    What is frozen in the model is in the average as it is, and left alone.
    """

    def __init__(self, average: nn.Module, model: nn.Module):
        moving = [(old, new) for old, new in zip(average.parameters(), model.parameters()) if new.requires_grad]
        self.old: list[Tensor] = [old for old, _ in moving]
        self.new: list[Tensor] = [new for _, new in moving]
        self.buffers = list(zip(holders(average), holders(model)))


def holders(module: nn.Module) -> list[tuple[nn.Module, str]]:
    """The module in which each buffer is, and its name there: a forward pass may put another tensor in its place."""
    return [(part, name) for part in module.modules() for name, _ in part.named_buffers(recurse=False)]


@dataclass(frozen=True)
class EMA(Average):
    """`halflife` in images (0: no memory); `ramp` bounds it by a share of the images seen (None: unbounded)."""

    halflife: float = 500_000
    ramp: float | None = 0.05

    def __post_init__(self) -> None:
        if not self.halflife >= 0 or (self.ramp is not None and not self.ramp >= 0):
            raise ValueError(f"halflife is {self.halflife} and ramp {self.ramp}: give numbers from 0.")

    def beta(self, images: int, batch: int) -> float:
        """½^(batch/h)."""
        halflife = self.halflife if self.ramp is None else min(self.halflife, self.ramp * images)
        return 0.5 ** (batch / halflife) if halflife > 0 else 0.0
