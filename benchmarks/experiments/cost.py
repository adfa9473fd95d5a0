"""What a composed denoiser costs beyond its networks: one evaluation over the sum of its networks' own.

    PYTHONPATH=. python benchmarks/experiments/cost.py

Two overlapping windows, a pooled view, a model of whole images and a residual, of the recipe's own networks, untrained:
time does not depend on weights. Turns are taken in one process, on one thread, in time of the processor; the table has
medians (and ranges) over the repeats.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch

from pipeline.backbones import unet
from pipeline.diffusion.compose import Base, View
from pipeline.diffusion.precond import Preconditioned
from pipeline.diffusion.residual import Composed, Residual
from pipeline.physics.linear import Identity
from stages.recipes.partial_views import default_views


def composed(shape: tuple[int, int, int]) -> Composed:
    """The recipe's composition, untrained."""
    maps = [Identity(shape), *(view.map for view in default_views(shape))]
    views = tuple(View(A, Preconditioned.Config(tuple(A.out_shape), unet.Config())) for A in maps)
    residual = Residual.Config(shape, len(maps), unet.Config())
    return Composed.Config(shape, Base.Config(shape, views), residual).build().eval().requires_grad_(False)


def seconds(call: Callable[[], object]) -> float:
    """Of the processor."""
    start = time.process_time()
    call()
    return time.process_time() - start


def measured(D: Composed, batch: int, repeats: int) -> list[float]:
    """The ratio in each repeat."""
    x, sigma = torch.randn(batch, *D.config.shape), torch.full((batch,), 0.5)
    seen, base = D.base.see(x, sigma), D.base
    parts = [partial(model, A(x), sigma) for A, model in zip(base.maps, base.models)]
    parts.append(partial(D.residual, x, sigma, seen, sigma))
    ratios = []
    for _ in range(repeats + 2):  # the first two warm up
        whole = seconds(partial(D, x, sigma))
        ratios.append(whole / sum(map(seconds, parts)))
    return ratios[2:]


def main() -> None:
    """Print the table."""
    read = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    read.add_argument("--batch", type=int, default=64)
    read.add_argument("--repeats", type=int, default=15)
    asked = read.parse_args()
    torch.set_num_threads(1)
    print("| images | one evaluation over the sum of its networks' |\n| --- | --- |")
    for shape in ((1, 8, 8), (3, 32, 32)):
        ratios = measured(composed(shape), asked.batch, asked.repeats)
        text = f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
        print(f"| {'x'.join(map(str, shape))}, batch {asked.batch} | {text} |")


if __name__ == "__main__":
    main()
