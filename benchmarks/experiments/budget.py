"""Experiment E: what views cost, against a model of the clean images alone that has as much time; and distillation.

    PYTHONPATH=. python benchmarks/experiments/budget.py --seeds 0 1 2 --rows budget.jsonl

Processor seconds of each view's model, of calibration and of the residual, with 128 clean digits; the held-out error
of what comes of them, of clean-only at its own budget, and of clean-only, as wide and twice as wide, trained as long as
all parts of the composition together. The composed model then teaches one network, from 1,000 of its samples and the
clean images: its error, and the seconds that 256 samples take of either.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import torch

from benchmarks.experiments import bench
from benchmarks.experiments.bench import Family, Rows, Sets, combined, corrected, learned
from pipeline.backbones import mlp
from pipeline.data.records import Examples
from pipeline.diffusion.combine import Mode
from stages.recipes.partial_views import default_views
from stages.train import Fit

CLEAN, EACH, L2, TEACHES, SAMPLES = 128, 320, 3.0, 1_000, 256
ORDER = (
    *("left", "right", "pooled", "calibration", "residual", "composed, all parts", "clean only"),
    *("clean only, as long", "clean only, as long and twice as wide", "distilled"),
)
T = TypeVar("T")


def timed(make: Callable[[], T]) -> tuple[T, float]:
    """What it makes, and the processor seconds that takes."""
    start = time.process_time()
    return make(), time.process_time() - start


def measure(sets: Sets, family: Family, seed: int, found: Rows) -> None:
    """Add one seed."""
    shape, (few, held) = tuple(sets.test.shape), sets.clean(CLEAN)
    clean, views, spent = sets.rest.take(range(CLEAN)), [], 0.0

    def add(name: str, seconds: float, **more: float) -> None:
        found.add(seed=seed, name=name, seconds=seconds, **more)

    for k, view in enumerate(default_views(shape)):
        rows = sets.rows(CLEAN + k * EACH, EACH, view.map)
        model, took = timed(lambda rows=rows: learned(rows, family.view, family.view_fit, seed))
        views.append((view.map, model))
        add(view.name, took)
        spent += took
    base, took = timed(lambda: combined(views, few, held, Mode.LS, seed))
    add("calibration", took, error=bench.error(base, sets.test))
    composed, more = timed(lambda: corrected(base, few, held, family, seed, L2))
    add("residual", more)
    spent += took + more
    add("composed, all parts", spent, error=bench.error(composed, sets.test))

    def alone(name: str, how: Fit, width: int) -> float:
        model, took = timed(lambda: learned(clean, mlp.Config(width, dropout=0.5), how, seed))
        add(name, took, error=bench.error(model, sets.test))
        return took

    took = alone("clean only", family.clean_fit, 256)
    longer = round(family.clean_fit.images * spent / took)
    alone("clean only, as long", replace(family.clean_fit, images=longer), 256)
    wider = round(longer / _slower(512))
    alone("clean only, as long and twice as wide", replace(family.clean_fit, images=wider), 512)

    asked, made = timed(lambda: bench.drawn(composed, shape, TEACHES, seed + 1))
    rows = Examples.from_x([*few.ids, *(f"drawn-{i}" for i in range(TEACHES))], torch.cat([few.x(), asked]))
    backbone, how = mlp.Config(dropout=0.0), replace(family.view_fit, images=96_000)
    pupil, took = timed(lambda: learned(rows, backbone, how, seed, composed))
    drawing = [timed(lambda D=D: bench.drawn(D, shape, SAMPLES, seed))[1] for D in (composed, pupil)]
    add("distilled", made + took, error=bench.error(pupil, sets.test), sampling=drawing[1] / drawing[0])


def _slower(width: int) -> float:
    """How many times the seconds of a step at width 256 one takes at another."""
    rows = Examples.from_x([str(i) for i in range(64)], torch.zeros(64, 1, 8, 8).normal_())
    short = replace(bench.FAMILIES["mlp"].clean_fit, images=6_400)
    return (
        timed(lambda: learned(rows, mlp.Config(width), short, 0))[1]
        / timed(lambda: learned(rows, mlp.Config(256), short, 0))[1]
    )


def table(found: Rows) -> None:
    """Means and standard deviations over seeds; seconds as shares of those of the composition."""
    whole = {row["seed"]: row["seconds"] for row in found.rows if row["name"] == "composed, all parts"}
    print(
        "\n| | share of the composition's seconds | error | seconds of sampling / composed |\n| --- | --- | --- | --- |"
    )
    for name in ORDER:
        rows = [row for row in found.rows if row["name"] == name and row["seed"] in whole]
        cells = [bench.spread([row["seconds"] / whole[row["seed"]] for row in rows])]
        cells += [bench.spread([row[of] for row in rows if of in row]) for of in ("error", "sampling")]
        print(f"| {name} | {' | '.join(cells)} |")
    print(f"\nseconds of the composition: {bench.spread(list(whole.values()))}")


def main() -> None:
    """Measure what is missing and print the table."""
    read = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    read.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    read.add_argument("--rows", default="budget.jsonl")
    asked = read.parse_args()
    torch.set_num_threads(1)
    every, found = bench.images("digits", 1_797), Rows(asked.rows)
    for seed in asked.seeds:
        if not found.have(seed=seed, name=ORDER[-1]):
            measure(bench.divided(every, seed), bench.FAMILIES["mlp"], seed, found)
    table(found)


if __name__ == "__main__":
    main()
