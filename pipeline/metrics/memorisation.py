"""Memorisation: how close samples come to what their model learned from, which is gone through whole, in any order.

Of each sample are kept the largest cosine similarity of its features with those of a learned image, and the distances
d₁ ≤ d₂ to the two nearest. The shares of samples above .90, .95 and .99 are those of Daras et al. ("Consistent
diffusion meets Tweedie", 2024, there of DINOv2 features); d₁/d₂ < 1/3 is the sign of a copy of Yoon et al. ("Diffusion
probabilistic models generalize when they fail to memorize", 2023), which needs no scale. How much of either is due to
chance is told by held-out images, which nobody has copied: they are judged alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.metrics.features import TooFew
from pipeline.metrics.interval import Estimate, share

THRESHOLDS = (0.90, 0.95, 0.99)
RATIO = 1 / 3
CHUNK = 1024


@dataclass(frozen=True, eq=False)
class Nearest:
    """Of Q queries: the largest `similarity` (Q,), two smallest `distances` (Q, 2), and which `row` (Q,) is nearest.

    What is not there yet is −∞, ∞ and −1. Those of parts of a set add up to those of the set, in any order.
    """

    similarity: Tensor
    distances: Tensor
    row: Tensor

    @classmethod
    def none(cls, queries: int) -> Nearest:
        """Nothing was looked at."""
        far = torch.full((queries, 2), torch.inf, dtype=torch.float64)
        return cls(-far[:, 0], far, torch.full((queries,), -1, dtype=torch.int64))

    @classmethod
    def of(cls, queries: Tensor, learned: Tensor, first: int = 0) -> Nearest:
        """For features (Q, n) among features (N, n), the rows of a set from number `first` on."""
        found, queries = cls.none(len(queries)), queries.double()
        for start in range(0, len(learned), CHUNK):
            part = learned[start : start + CHUNK].double()
            size = (queries**2).sum(1)[:, None] + (part**2).sum(1)
            inner = queries @ part.T
            square = size - 2 * inner
            near = torch.where(square <= 1e-13 * size, 0.0, square).sqrt()  # a copy is at distance 0, not at rounding
            norms = torch.outer(queries.norm(dim=1), part.norm(dim=1))
            alike = torch.where(norms > 0, inner / norms.clamp(min=1e-300), 0.0)
            two = torch.cat([near, torch.full((len(queries), 1), torch.inf)], 1).topk(2, largest=False)
            found += cls(alike.max(1).values, two.values, near.argmin(1) + start + first)
        return found

    def __add__(self, other: Nearest) -> Nearest:
        distances = torch.cat([self.distances, other.distances], 1).topk(2, largest=False).values
        mine, yours = self.distances[:, 0], other.distances[:, 0]
        # Of two rows as near, the first: so that no order of the parts shows.
        theirs = (yours < mine) | ((yours == mine) & (other.row >= 0) & ((other.row < self.row) | (self.row < 0)))
        return Nearest(
            torch.maximum(self.similarity, other.similarity), distances, torch.where(theirs, other.row, self.row)
        )

    @property
    def ratio(self) -> Tensor:
        """d₁/d₂ (Q,) in [0, 1]; 0 for a copy, even of an image that was learned twice."""
        one, two = self.distances.unbind(1)
        return torch.where(one == 0, 0.0, one / two)


def judged(nearest: Nearest) -> dict[str, Estimate]:
    """{"similar_0.90", "similar_0.95", "similar_0.99", "copied"}: shares of the samples, with intervals.

    Raises TooFew: nothing was sampled, or fewer than two images were learned from.
    """
    among = len(nearest.row)
    if not among or not bool(nearest.distances.isfinite().all()):
        raise TooFew("memorisation is judged for at least 1 sample and 2 images that were learned from")
    found = {f"similar_{t:.2f}": share(int((nearest.similarity > t).sum()), among) for t in THRESHOLDS}
    return found | {"copied": share(int((nearest.ratio < RATIO).sum()), among)}


def summary(nearest: Nearest) -> dict[str, float]:
    """Mean, spread and largest similarity, and the median of d₁/d₂: for the card."""
    s = nearest.similarity
    return {
        "similarity_mean": float(s.mean()),
        "similarity_std": float(s.std(correction=0)),
        "similarity_max": float(s.max()),
        "ratio_median": float(nearest.ratio.median()),
    }
