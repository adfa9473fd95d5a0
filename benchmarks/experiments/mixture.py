"""Experiment B: a residual learned by a small network, on a mixture whose every score is known.

    PYTHONPATH=. python benchmarks/experiments/mixture.py

x₀ is one of three Gaussians in the plane, seen through its two coordinates, whose exact models make the base. What the
coordinates miss is their mutual information, .892 nats. A perceptron learns the residual from full images; its energy
integrates to what it has learned of it. Samples of the base alone have independent coordinates; the energy distance of
samples to fresh data (Székely and Rizzo 2013, zero for equal laws) says how much that costs.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from pipeline.backbones import mlp
from pipeline.diffusion.account import residual_energy
from pipeline.diffusion.bins import Bins
from pipeline.diffusion.calibrate import residual_scale
from pipeline.diffusion.compose import Base, View
from pipeline.diffusion.exact import Mixture
from pipeline.diffusion.levels import Stratified, Tabulated
from pipeline.diffusion.precond import Preconditioned
from pipeline.diffusion.residual import Composed, Residual
from pipeline.diffusion.sample import Heun
from pipeline.keys import Key
from pipeline.learning.loop import Clock, fit
from pipeline.learning.optim import AdamW
from pipeline.learning.state import State
from pipeline.objectives.objective import Batch
from pipeline.objectives.residual import ResidualDenoising
from pipeline.physics.views import Crop

SHAPE = (1, 1, 2)
MEANS = ((2.0, 2.0), (-2.0, -1.0), (1.0, -2.0))
LAW = Mixture([0.5, 0.3, 0.2], [torch.tensor(m) for m in MEANS], [0.09 * torch.eye(2)] * 3)


class Exact(nn.Module):
    """The exact denoiser of a view."""

    def __init__(self, law: Mixture) -> None:
        super().__init__()
        self.law = law

    def forward(self, x: Tensor, sigma: Tensor, cond: Tensor | None = None) -> Tensor:
        """E[x₀ | x] (B, *)."""
        return self.law(x, sigma)


def exact_base(bins: Bins) -> Base:
    """The sum of the two coordinates' exact lifts, with its error measured."""
    maps = [Crop(SHAPE, 0, k, 1, 1) for k in range(2)]
    blank = mlp.Config(width=8, blocks=1)
    views = tuple(View(A, Preconditioned.Config(A.out_shape, blank)) for A in maps)
    base = Base.Config(SHAPE, views, bins).build().eval().requires_grad_(False)
    base.models = nn.ModuleList(Exact(LAW.through(A.dense())) for A in maps)
    x0 = draws(4000, Key(0).fold("calibrate"))
    base.scale.copy_(residual_scale(base, x0, names(x0), Key(0), draws=1))
    return base


def draws(count: int, key: Key) -> Tensor:
    """Samples of the law (count, 1, 1, 2)."""
    return LAW.sample(count, key).float().reshape(-1, *SHAPE)


def names(x0: Tensor) -> list[str]:
    """An id for each row."""
    return [str(i) for i in range(len(x0))]


def trained(base: Base, images: int, seed: int) -> Residual:
    """A residual that has seen so many full images, all different."""
    torch.manual_seed(seed)
    network = Residual.Config(SHAPE, 2, mlp.Config(width=128, blocks=3), 2.0).build()
    state = State.create(network, AdamW(lr=2e-3, warmup=20_000))
    bins = base.config.bins
    levels = Stratified(Tabulated(bins.low, bins.high, (1.0, 1.0)))

    def batches() -> Iterator[Batch]:
        step = 0
        while True:
            yield Batch(draws(512, Key(seed).fold("data", step)))
            step += 1

    fit(state, batches(), ResidualDenoising(base), levels, Clock(images, 512), Key(seed))
    chosen = state.result()
    assert isinstance(chosen, Residual)
    return chosen


def energy_distance(x: Tensor, y: Tensor) -> float:
    """2 E|x − y| − E|x − x'| − E|y − y'| of two sets (n, d), unbiased."""
    n, m = len(x), len(y)
    within = torch.cdist(x, x).sum() / (n * (n - 1)) + torch.cdist(y, y).sum() / (m * (m - 1))
    return float(2 * torch.cdist(x, y).mean() - within)


def main() -> None:
    """Print the table."""
    read = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    read.add_argument("--images", type=int, default=1_024_000)
    read.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    asked = read.parse_args()
    bins = Bins(0.03, 30.0, 24)
    base, found = exact_base(bins), []
    for seed in asked.seeds:
        residual = trained(base, asked.images, seed)
        composed = Composed.Config(SHAPE, base.config, residual.config).build().eval().requires_grad_(False)
        composed.base, composed.residual = base, residual
        x0 = draws(4000, Key(seed).fold("judge"))
        nats = residual_energy(base, residual, torch.ones(bins.count), x0, names(x0), Key(seed), draws=1)[1]
        noise = 30.0 * torch.randn(2000, *SHAPE, generator=Key(seed).fold("start").torch())
        row = [nats]
        for D in (base, composed, LAW):
            made = Heun(steps=40, sigma_min=0.03, sigma_max=30.0)(D, noise.clone()).flatten(1)
            row.append(energy_distance(made, draws(2000, Key(seed).fold("fresh")).flatten(1)))
        found.append(row)
    print("| | nats of the residual | energy distance: base | composed | exact score |")
    print("| --- | --- | --- | --- | --- |")
    for seed, row in zip(asked.seeds, found):
        print(f"| seed {seed} | {' | '.join(f'{value:.4f}' for value in row)} |")
    middle = [statistics.mean(column) for column in zip(*found)]
    spread = [statistics.stdev(column) if len(found) > 1 else 0.0 for column in zip(*found)]
    print(f"| mean ± deviation | {' | '.join(f'{m:.4f} ± {s:.4f}' for m, s in zip(middle, spread))} |")


if __name__ == "__main__":
    main()
