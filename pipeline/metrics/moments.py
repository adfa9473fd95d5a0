"""Moments of features that add up: those of a set are the sum of those of its parts, however it was cut.

Of n rows with mean m and scatter S = Σ (x − m)(x − m)ᵀ, joined with n', m', S' and δ = m' − m:

    m'' = m + δ n'/(n + n'),     S'' = S + S' + δδᵀ n n'/(n + n')

(Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", 1979). The same
read backwards takes a part away again, which is what leaving it out needs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, reduce
from operator import add

import torch
from torch import Tensor

from pipeline.metrics.features import TooFew


@dataclass(frozen=True, eq=False)
class Moments:
    """`count` rows, their `mean` (n,) and `scatter` (n, n), float64."""

    count: int
    mean: Tensor
    scatter: Tensor

    @classmethod
    def of(cls, features: Tensor) -> Moments:
        """Those of features (B, n)."""
        x = features.double()
        mean = x.mean(0) if len(x) else x.new_zeros(x.shape[1])
        away = x - mean
        return cls(len(x), mean, away.T @ away)

    def __add__(self, other: Moments) -> Moments:
        count = self.count + other.count
        if not count:
            return self
        apart = other.mean - self.mean
        between = torch.outer(apart, apart) * (self.count * other.count / count)
        return Moments(count, self.mean + apart * (other.count / count), self.scatter + other.scatter + between)

    def __sub__(self, part: Moments) -> Moments:
        """What is left without a part that was added before."""
        count = self.count - part.count
        if count < 1:
            raise TooFew("no image is left to take moments of: use more images than one part")
        mean = self.mean + (self.mean - part.mean) * (part.count / count)
        apart = part.mean - mean
        between = torch.outer(apart, apart) * (count * part.count / self.count)
        return Moments(count, mean, self.scatter - part.scatter - between)

    @property
    def covariance(self) -> Tensor:
        """Unbiased (n, n). Raises TooFew: there are fewer than two rows."""
        if self.count < 2:
            raise TooFew(f"a covariance needs at least 2 images, not {self.count}: sample more")
        return self.scatter / (self.count - 1)

    @cached_property
    def root(self) -> Tensor:
        """The symmetric square root of the covariance."""
        values, vectors = torch.linalg.eigh(self.covariance)
        return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def total(parts: Iterable[Moments]) -> Moments:
    """The sum, from left to right."""
    return reduce(add, parts)
