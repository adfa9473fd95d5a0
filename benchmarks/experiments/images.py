"""Experiment C: what views and a residual are worth on real images, against the number of clean ones.

    PYTHONPATH=. python benchmarks/experiments/images.py --seeds 0 1 2 --rows images.jsonl
    PYTHONPATH=. python benchmarks/experiments/images.py --seeds --rows images.jsonl

Held-out denoising error and Fréchet distance of a model of the clean images alone, of the views' combinations, of one
with a residual, unregularised or regularised, and of the same beside a model of whole images as one more view (A = I).
The views' models are trained once a seed. Every model of a seed and number has the same clean images, and its training
on them sees as many. The clean-only model is moreover the best of three budgets, chosen on the test images: no early
stop does better. Rows are kept as they come; with no seeds, the second line, they are only tabulated.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import torch
from torch import nn

from benchmarks.experiments import bench
from benchmarks.experiments.bench import Family, Rows, Sets, combined, corrected, learned
from pipeline.data.records import Examples
from pipeline.diffusion.combine import Mode
from pipeline.diffusion.compose import Base
from pipeline.diffusion.denoiser import Network
from pipeline.physics.linear import Identity, LinearMap
from pipeline.physics.views import Crop, Frames, Pool
from stages.overlaps import overlaps
from stages.recipes.partial_views import default_views

SIZES = {
    "digits": (1_797, 320, (16, 32, 64, 128, 256)),
    "fashion": (10_000, 2_000, (32, 128, 512)),
    "clips": (502, 96, (16, 32, 64)),
}
FURTHER = {
    "digits": (512, 1024),
    "fashion": (2048, 6000),
    "clips": (128, 352),
}  # for clean-only: the views' images, unharmed, too
BUDGETS = (0.25, 1.0, 4.0)
CLEAN, LS, FULL = "clean only", "ls", "ls + full"
LOOSE, BOUND, BEST = f"{LS}, unregularised residual", f"{LS}, regularised residual", f"{FULL}, regularised residual"
ORDER = (CLEAN, "sum", LS, "bethe", "stack", LOOSE, BOUND, FULL, "stack + full", BEST)
DRAWN = (CLEAN, LS, LOOSE, BOUND, BEST)
View = tuple[LinearMap, Network]


def looks(shape: tuple[int, ...]) -> tuple[list[LinearMap], LinearMap, list[LinearMap]]:
    """The views; what the first two have in common; and that same as seen by each of them.

    Of images the crops and the pooled view; of clips the first three frames, the last three, and all of them pooled.
    """
    if len(shape) == 4:
        first, last = Frames(shape, (0, 1, 2)), Frames(shape, (1, 2, 3))
        parts: list[LinearMap] = [Frames(first.out_shape, (1, 2)), Frames(last.out_shape, (0, 1))]
        return [first, last, Pool(shape, 2)], Frames(shape, (1, 2)), parts
    maps = [view.map for view in default_views(shape)]
    crops = [A for A in maps if isinstance(A, Crop)]
    (region,) = overlaps(crops)
    O = region.map
    return maps, O, [Crop(A.out_shape, 0, O.left - A.left, O.height, O.width) for A in crops]


def views(sets: Sets, family: Family, first: int, each: int, seed: int) -> tuple[list[View], View]:
    """The views with their models, and the overlap of the first two with its own, from the rows of both."""
    maps, O, parts = looks(tuple(sets.test.shape))
    rows = [sets.rows(first + k * each, each, A) for k, A in enumerate(maps)]

    def model(seen: Examples) -> Network:
        return learned(seen, family.view, family.view_fit, seed)

    both = torch.cat([part(seen.x()) for part, seen in zip(parts, rows, strict=False)])
    shared = Examples.from_x([*rows[0].ids, *rows[1].ids], both)
    return [(A, model(seen)) for A, seen in zip(maps, rows, strict=True)], (O, model(shared))


def clean_only(sets: Sets, family: Family, count: int, seed: int) -> nn.Module:
    """The best of three budgets, chosen on the test images."""
    rows, how = sets.rest.take(range(count)), family.clean_fit
    models = [learned(rows, family.clean, replace(how, images=round(share * how.images)), seed) for share in BUDGETS]
    return min(models, key=lambda model: bench.error(model, sets.test))


def makers(
    sets: Sets, family: Family, seen: list[View], overlap: View, count: int, seed: int, l2: float
) -> dict[str, Callable[[], nn.Module]]:
    """What makes each model from so many clean images."""
    few, held = sets.clean(count)
    shape = tuple(sets.test.shape)

    @cache
    def whole() -> View:
        return Identity(shape), learned(few, family.clean, family.clean_fit, seed)

    def base(mode: Mode, full: bool = False) -> Base:
        return combined([*seen, *([whole()] if full else [])], few, held, mode, seed)

    def with_residual(full: bool, l2: float | None) -> nn.Module:
        return corrected(base(Mode.LS, full), few, held, family, seed, l2)

    return {
        CLEAN: lambda: clean_only(sets, family, count, seed),
        "sum": lambda: base(Mode.SUM),
        LS: lambda: base(Mode.LS),
        "bethe": lambda: combined([*seen[:2], overlap], few, held, Mode.BETHE, seed),
        "stack": lambda: base(Mode.STACK),
        LOOSE: lambda: with_residual(False, None),
        BOUND: lambda: with_residual(False, l2),
        FULL: lambda: base(Mode.LS, True),
        "stack + full": lambda: base(Mode.STACK, True),
        BEST: lambda: with_residual(True, l2),
    }


def measure(sets: Sets, family: Family, counts: list[int], each: int, seed: int, found: Rows, l2: float) -> None:
    """Add what is missing of one seed at the numbers of clean images that views are measured at."""
    if all(found.have(seed=seed, count=count, name=name) for count in counts for name in ORDER):
        return
    extract = bench.eye(sets)
    seen, overlap = views(sets, family, max(counts), each, seed)
    for count in counts:
        for name, make in makers(sets, family, seen, overlap, count, seed, l2).items():
            if found.have(seed=seed, count=count, name=name):
                continue
            start = time.process_time()
            D = make()
            took = time.process_time() - start
            row = {"error": bench.error(D, sets.test), "seconds": round(took, 1)}
            if name in DRAWN:
                row["frechet"] = bench.distance(D, sets.test, extract, seed)
            found.add(seed=seed, count=count, name=name, **row)


def further(sets: Sets, family: Family, counts: tuple[int, ...], seed: int, found: Rows) -> None:
    """Add what clean-only gives with more clean images."""
    for count in counts:
        if not found.have(seed=seed, count=count, name=CLEAN):
            D = clean_only(sets, family, count, seed)
            found.add(seed=seed, count=count, name=CLEAN, error=bench.error(D, sets.test))


def table(found: Rows, what: str, names: tuple[str, ...]) -> None:
    """Means and standard deviations over seeds."""
    counts = sorted({row["count"] for row in found.rows})
    print(f"\n| {what} | " + " | ".join(f"{count} clean" for count in counts) + " |")
    print("| --- |" + " --- |" * len(counts))
    for name in names:
        cells = [bench.spread(values(found, what, name, count)) for count in counts]
        print(f"| {name} | {' | '.join(cells)} |")


def values(found: Rows, what: str, name: str, count: int) -> list[float]:
    """One number a seed."""
    return [row[what] for row in found.rows if (row["name"], row["count"]) == (name, count) and what in row]


def verdict(found: Rows) -> None:
    """The worst seed's ratio to clean-only, and how many clean images clean-only needs for the same error."""
    counts, all_counts = (sorted({row["count"] for row in found.rows if row["name"] == of}) for of in (LS, CLEAN))
    print("\n| error over that of clean only, mean and worst seed | " + " | ".join(map(str, counts)) + " |")
    print("| --- |" + " --- |" * len(counts))
    for name in ORDER[1:]:
        cells = []
        for count in counts:
            pairs = zip(values(found, "error", name, count), values(found, "error", CLEAN, count))
            ratios = [a / b for a, b in pairs]
            cells.append(f"{statistics.mean(ratios):.3f}, {max(ratios):.3f}" if ratios else "")
        print(f"| {name} | {' | '.join(cells)} |")
    curve = [(math.log2(n), statistics.mean(values(found, "error", CLEAN, n))) for n in all_counts]
    given = " | ".join(map(str, counts))
    print(f"\n| clean images that clean only needs for the same error, over those given | {given} |")
    print("| --- |" + " --- |" * len(counts))
    for name in (LS, BOUND, BEST):
        cells = []
        for count in counts:
            at = _reached(curve, statistics.mean(values(found, "error", name, count)))
            cells.append(f"more than {all_counts[-1] / count:.2g}" if at is None else f"{2**at / count:.2g}")
        print(f"| {name} | {' | '.join(cells)} |")


def _reached(curve: list[tuple[float, float]], wanted: float) -> float | None:
    """Where a falling curve, linear between its points, falls to `wanted`; None: nowhere; the first point: before."""
    if wanted >= curve[0][1]:
        return curve[0][0]
    for (left, above), (right, below) in itertools.pairwise(curve):
        if above >= wanted >= below:
            return left + (right - left) * (above - wanted) / (above - below)
    return None


def main() -> None:
    """Measure and print the tables."""
    read = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    read.add_argument("--data", choices=sorted(SIZES), default="digits")
    read.add_argument("--family", choices=sorted(bench.FAMILIES), default="mlp")
    read.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    read.add_argument("--counts", type=int, nargs="+")
    read.add_argument("--l2", type=float, default=3.0)
    read.add_argument("--rows", default="images.jsonl")
    asked = read.parse_args()
    torch.set_num_threads(1)
    size, each, counts = SIZES[asked.data]
    every = bench.images(asked.data, size)
    found = Rows(asked.rows)
    for seed in asked.seeds:
        sets = bench.divided(every, seed)
        measure(sets, bench.FAMILIES[asked.family], asked.counts or list(counts), each, seed, found, asked.l2)
        further(sets, bench.FAMILIES[asked.family], FURTHER[asked.data], seed, found)
    table(found, "error", ORDER)
    table(found, "frechet", DRAWN)
    verdict(found)


if __name__ == "__main__":
    main()
