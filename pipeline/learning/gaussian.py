"""Exact EM for the mean and covariance of images that were measured as y = A x₀ + σ_y n, each row by its own A.

E: x₀ given y is N(m, C) with gain K = Σ Aᵀ(A Σ Aᵀ + σ_y²)⁻¹, m = μ + K (y − A μ), C = Σ − K A Σ. M: μ' is the mean of
m, Σ' that of C + (m − μ')(m − μ')ᵀ; of rank r, its largest r eigenvalues and the mean of the others, which maximise
what the E-step expects (Tipping and Bishop 1999, eq. 7 and 8). The likelihood of the rows never falls (Dempster et
al. 1977). It is where DiEM starts from (Rozet et al. 2024, arXiv 2405.13712), there with samples in place of C. Where
every row shows all of its image, with one noise, the maximum has a closed form.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.physics.linear import LinearMap

LEAST = 1e-3  # std of noise that is solved with at least, in units of the data's: half precision's own is near it


@dataclass(frozen=True, eq=False)
class Law:
    """N(mean, cov): mean (n,), cov (n, n), in float64."""

    mean: Tensor
    cov: Tensor

    def limited(self, rank: int) -> Law:
        """The same with the mean of its smaller n − rank variances in their place."""
        if rank >= len(self.mean):
            return self
        values, axes = torch.linalg.eigh(self.cov)
        values = torch.cat([values[:-rank].mean().expand(len(values) - rank), values[-rank:]])
        return Law(self.mean, (axes * values) @ axes.T)


@dataclass(frozen=True, eq=False)
class Measured:
    """Rows as matrices: y (B, m), A (B or 1, m, n), noise (B,), in float64."""

    y: Tensor
    A: Tensor
    noise: Tensor

    @classmethod
    def of(cls, y: Tensor, A: LinearMap, noise: Tensor) -> Measured:
        """Rows y (B, *out) seen through A, and σ_y (B,); what no image can have caused is left out of y."""
        seen = y.double() if A.orthonormal else A(A.pinv(y.double()))
        dense = A.dense()
        return cls(seen.flatten(1), dense if dense.ndim == 3 else dense[None], noise.double())

    @property
    def shows(self) -> np.ndarray:
        """Which numbers of the image each row shows, bools (B or 1, n)."""
        return (self.A.square().sum(1) > 0).numpy()


def started(rows: Iterable[Measured], n: int) -> Law:
    """The mean of what is seen of each number, where it is seen, and the mean square about it in every direction."""
    total, weight = torch.zeros(2, n, dtype=torch.float64)
    square, count = 0.0, 0.0
    for part in rows:
        back = (part.A.mT @ part.y[..., None])[..., 0]
        total = total + back.sum(0)
        weight = weight + (part.A.square().sum(1) if len(part.A) > 1 else len(part.y) * part.A.square().sum(1)).sum(0)
    mean = total / weight.clamp_min(1e-12)
    for part in rows:
        square += float((part.y - (part.A @ mean)).square().sum())
        count += float(part.A.square().sum()) * (1 if len(part.A) > 1 else len(part.y))
    return Law(mean, max(square / max(count, 1e-12), 1e-6) * torch.eye(n, dtype=torch.float64))


def step(law: Law, rows: Iterable[Measured], least: float) -> tuple[Law, float]:
    """(the law after one step of EM, the mean log-likelihood of a row before it, in nats); σ_y is `least` at least."""
    n = len(law.mean)
    first, second = torch.zeros(n, dtype=torch.float64), torch.zeros(n, n, dtype=torch.float64)
    likelihood, count = 0.0, 0
    for part in rows:
        wrong = part.y - (part.A @ law.mean)
        across = part.A @ law.cov
        K = across @ part.A.mT + torch.diag_embed(
            part.noise.clamp_min(least)[:, None].expand(-1, part.y.shape[1]).square()
        )
        factor = torch.linalg.cholesky(K)
        across = across.expand(len(wrong), -1, -1)
        half = torch.linalg.solve_triangular(factor, torch.cat([across, wrong[..., None]], -1), upper=False)
        left, right = half[..., :-1], half[..., -1:]
        moved = (left.mT @ right)[..., 0]
        first += moved.sum(0)
        second += len(wrong) * law.cov - torch.einsum("bij,bik->jk", left, left) + moved.T @ moved
        logs = factor.diagonal(dim1=-2, dim2=-1).log().sum()
        likelihood -= float(right.square().sum() / 2 + logs + wrong.numel() * math.log(2 * math.pi) / 2)
        count += len(wrong)
    shift = first / count
    return Law(law.mean + shift, second / count - torch.outer(shift, shift)), likelihood / count


def seen_whole(y: Tensor, noise: float, rank: int) -> tuple[Law, float]:
    """The most likely law of rows y (N, n) = x₀ + `noise` n that hide nothing, and their mean log-likelihood in nats.

    Σ is what the rows' covariance, of so many directions, has above σ_y² (Tipping and Bishop 1999, eq. 7 and 8), and
    nothing where it has less; σ_y is `LEAST` of the rows' spread at least. EM comes near it ever slower.
    """
    y = y.double()
    mean = y.mean(0)
    cov = (y - mean).T @ (y - mean) / len(y)
    least = max(noise, LEAST * float(cov.diagonal().mean()) ** 0.5, 1e-9) ** 2
    values, axes = torch.linalg.eigh(Law(mean, cov).limited(rank).cov)
    found = values.clamp_min(least)
    rest = (axes * (cov @ axes)).sum(0)  # the rows' own variance along each axis
    likelihood = -float((rest / found + found.log()).sum() + len(mean) * math.log(2 * math.pi)) / 2
    return Law(mean, (axes * (found - least)) @ axes.T), likelihood


def fit(rows: Iterable[Measured], n: int, rank: int, iterations: int, tol: float = 1e-4) -> tuple[Law, list[float]]:
    """The law, and the mean log-likelihood of a row before each step of EM, until a step gains less than `tol`.

    Args:
        rows: batches of rows, gone through once a step and twice before.
        n: numbers of an image.
        rank: directions that have a variance of their own.
        iterations: steps, at most.
        tol: nats a row.
    """
    law = started(rows, n)
    least, told = LEAST * float(law.cov.diagonal().mean()) ** 0.5, []
    for _ in range(iterations):
        law, likelihood = step(law, rows, least)
        law = law.limited(rank)
        told.append(likelihood)
        if len(told) > 1 and told[-1] - told[-2] < tol:
            break
    return law, told
