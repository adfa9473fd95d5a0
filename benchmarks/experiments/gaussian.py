"""Experiment A: what regularising the residual is worth, on a Gaussian where everything is linear.

    PYTHONPATH=. python benchmarks/experiments/gaussian.py

x₀ ~ N(0, Σ) in 12 dimensions, Σ_ij = .95^|i−j|, seen through two halves whose exact models make the base D = B x.
From N full images, with one noise draw of σ² = 1 each, the matrix of the denoiser is learned by least squares or by
ridge regression on whitened x: from scratch, or as a correction of the base. The excess risk is E|D − D*|².

The best ridge is l = n tr(M)/R₀, with M the posterior covariance and R₀ the energy of what is to be learned; it is
known here, and has to be searched for elsewhere.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.keys import Key


@dataclass(frozen=True)
class Setting:
    """A Gaussian of n entries in two blocks, at one noise variance."""

    n: int = 12
    rho: float = 0.95
    variance: float = 1.0

    @property
    def matrices(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Σ^½, C = Σ + σ²I, D* = Σ C⁻¹ and B, the blocks' own: (n, n) each."""
        i = torch.arange(self.n, dtype=torch.float64)
        cov = self.rho ** (i[:, None] - i[None, :]).abs()
        values, axes = torch.linalg.eigh(cov)
        C = cov + self.variance * torch.eye(self.n)
        base, half = torch.zeros_like(cov), self.n // 2
        for block in (slice(0, half), slice(half, self.n)):
            base[block, block] = cov[block, block] @ torch.linalg.inv(C[block, block])
        return (axes * values.sqrt()) @ axes.T, C, cov @ torch.linalg.inv(C), base

    @property
    def limits(self) -> tuple[float, float, float]:
        """(R₀ of the residual, R₀ from scratch, tr M)."""
        _, C, best, base = self.matrices
        energies = [float(((W @ C) * W).sum()) for W in (best - base, best)]
        return *energies, float(self.variance * best.trace())


def risks(setting: Setting, images: int, repeats: int, seed: int = 0) -> Tensor:
    """Excess risks (repeats, 4): least squares and ridge regression on the base, and both from scratch."""
    root, C, best, base = setting.matrices
    values, axes = torch.linalg.eigh(C)
    white, colour = (axes * values.rsqrt()) @ axes.T, (axes * values.sqrt()) @ axes.T
    residual, scratch, spread = setting.limits
    n = setting.n
    draw = Key(seed).fold("gaussian", images).torch()
    x0 = torch.randn(repeats, images, n, generator=draw, dtype=torch.float64) @ root
    x = x0 + setting.variance**0.5 * torch.randn(x0.shape, generator=draw, dtype=torch.float64)
    u = x @ white
    columns = []
    for start, energy in ((base, residual), (torch.zeros_like(base), scratch)):
        wanted, target = (best - start) @ colour, x0 - x @ start.T
        for ridge in (0.0, n * spread / energy):
            gram = u.mT @ u + ridge * torch.eye(n)
            W = torch.linalg.solve(gram, u.mT @ target).mT
            columns.append(((W - wanted) ** 2).sum((1, 2)))
    return torch.stack(columns, 1)


def main() -> None:
    """Print the table."""
    read = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    read.add_argument("--images", type=int, nargs="+", default=[30, 100, 300, 1000, 10_000])
    read.add_argument("--repeats", type=int, default=400)
    asked = read.parse_args()
    setting = Setting()
    residual, scratch, spread = setting.limits
    print(f"base alone {residual:.4f}, nothing {scratch:.4f}, tr M {spread:.4f}; mean ± standard error\n")
    print("| full images | unregularised residual | regularised residual | scratch | regularised scratch |")
    print("| --- | --- | --- | --- | --- |")
    for images in asked.images:
        found = risks(setting, images, asked.repeats)
        mean, error = found.mean(0), found.std(0) / asked.repeats**0.5
        cells = [f"{m:.4f} ± {e:.4f}" for m, e in zip(mean.tolist(), error.tolist())]
        print(f"| {images} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
