"""Experiment D: a view of another domain, and one that has nothing to do with the others.

    PYTHONPATH=. python benchmarks/experiments/dissimilar.py --seeds 0 1 2 --rows dissimilar.jsonl

*Foreign*: beside the crops and the pooled view of digits there is a view of whole images whose model learned from
digits that were turned by a right angle and printed in negative. Its error is measured on held-out full images of the
right kind, so that it should lose its weight, and the combination be no worse than without it. A copy of a view is
measured for comparison.

*Independent*: to the right of each digit stands a patch of another digit, with a view of its own. It shares no
information with the digit, so that the residual should have nothing to add there.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn

from benchmarks.experiments import bench
from benchmarks.experiments.bench import Family, Rows, Sets, combined, corrected, learned
from benchmarks.experiments.images import View
from pipeline.data.records import Examples
from pipeline.diffusion.account import account
from pipeline.diffusion.combine import Mode
from pipeline.diffusion.compose import Base
from pipeline.diffusion.residual import Composed
from pipeline.keys import Key
from pipeline.metrics.denoising import DenoisingError
from pipeline.physics.linear import Identity
from pipeline.physics.views import Crop
from stages.recipes.partial_views import default_views

CLEAN, EACH, SIDE, L2 = 128, 320, 8, 3.0
MODES = (Mode.SUM, Mode.LS, Mode.BLUE)


def foreign(sets: Sets, family: Family, seed: int, found: Rows) -> None:
    """Errors without the foreign view, with it, and with a copy of a view, and how much weight it has."""
    shape, (few, held) = tuple(sets.test.shape), sets.clean(CLEAN)
    named = default_views(shape)
    seen = [
        (v.map, learned(sets.rows(CLEAN + k * EACH, EACH, v.map), family.view, family.view_fit, seed))
        for k, v in enumerate(named)
    ]
    rows = sets.rest.take(range(CLEAN + 3 * EACH, len(sets.rest)))
    turned = Examples.from_x(rows.ids, -rows.x().rot90(1, (-2, -1)))
    other = (Identity(shape), learned(turned, family.view, family.view_fit, seed))
    for name, views in (("without", seen), ("with it", [*seen, other]), ("with a copy", [*seen, seen[0]])):
        for mode in MODES:
            base = combined(views, few, held, mode, seed)
            found.add(seed=seed, what="foreign", name=name, mode=mode.value, **_told(base, held, sets.test, seed))


def _told(base: Base, held: Examples, test: Examples, seed: int) -> dict[str, float]:
    told = account(base, held.x(), held.ids, Key(seed).fold("account"), 4)
    share, worth = told.weight[-1], told.worth(base.config.bins)[-1]
    return {
        "error": bench.error(base, test),
        "share": float(share.mean()),
        "share_most": float(share.max()),
        "worth": worth,
        "view_error": float(base.error[-1].mean() / base.error[:-1].mean()),
    }


def independent(sets: Sets, family: Family, seed: int, found: Rows) -> None:
    """Errors on the digits, with and without a patch beside them, and what the residual does to the patch."""
    test, rest = (_beside(part, Key(seed).fold("patch", i)) for i, part in enumerate((sets.test, sets.rest)))
    broad, x0 = Sets(test, rest), test.x()
    few, held = broad.clean(CLEAN)
    crops = [Crop(few.shape, 0, at, 8, width) for at, width in ((0, 5), (3, 5), (SIDE, 4))]
    views: list[View] = [
        (A, learned(broad.rows(CLEAN + k * EACH, EACH, A), family.view, family.view_fit, seed))
        for k, A in enumerate(crops)
    ]
    alone: list[View] = [(Crop((1, 8, SIDE), 0, A.left, 8, 5), model) for A, (_, model) in zip(crops[:2], views)]
    narrow = sets.clean(CLEAN)
    both = {
        "with it": corrected(combined(views, few, held, Mode.LS, seed), few, held, family, seed, L2),
        "without": corrected(combined(alone, *narrow, Mode.LS, seed), *narrow, family, seed, L2),
    }
    for name, composed in both.items():
        errors = {}
        for what, D in (("error", composed), ("base", composed.base)):

            def digits(x: Tensor, sigma: Tensor, cond=None, D: nn.Module = D, wide: bool = name == "with it") -> Tensor:
                mine = D(x if wide else x[..., :SIDE], sigma)
                return torch.cat([mine[..., :SIDE], x0[..., SIDE:]], -1)

            errors[what] = DenoisingError(batch=len(x0))(digits, x0, test.ids)[0] * (SIDE + 4) / SIDE
        found.add(seed=seed, what="independent", name=name, **errors, **_moved(composed, x0, seed))


def _moved(composed: Composed, x0: Tensor, seed: int) -> dict[str, float]:
    """What the residual, gates open, does to an entry of the patch, over what it does to one of the digit."""
    if x0.shape != (len(x0), *composed.config.shape):
        return {}
    composed.gate.fill_(1.0)
    energy = torch.zeros(x0.shape[-1])
    for n, sigma in enumerate(composed.config.base.bins.centres()):
        x = x0 + sigma * torch.randn(x0.shape, generator=Key(seed).fold("energy", n).torch())
        level = sigma.expand(len(x0))
        energy += ((composed(x, level) - composed.base(x, level)) ** 2).mean((0, 1, 2)) / sigma**2
    return {"patch": float(energy[SIDE:].mean() / energy[:SIDE].mean())}


def _beside(rows: Examples, key: Key) -> Examples:
    """Images 8x12: each with the left half of another one to its right."""
    x = rows.x()
    others = x[key.numpy().permutation(len(x))][..., :4]
    return Examples.from_x(rows.ids, torch.cat([x, others], -1), rows.label, uint8=True)


def table(found: Rows) -> None:
    """Means and standard deviations over seeds."""
    print("\n| views | " + " | ".join(f"{mode.value}" for mode in MODES) + " | its mean share | its error / others' |")
    print("| --- |" + " --- |" * (len(MODES) + 2))
    for name in ("without", "with it", "with a copy"):
        rows = [row for row in found.rows if row["what"] == "foreign" and row["name"] == name]
        cells = [bench.spread([row["error"] for row in rows if row["mode"] == mode.value]) for mode in MODES]
        more = [[row[of] for row in rows if row["mode"] == "ls"] for of in ("share", "view_error")]
        print(f"| {name} | {' | '.join(cells)} | {' | '.join(map(bench.spread, more))} |")
    print("\n| patch and its view | base | with residual | residual on the patch / on the digit, an entry |")
    print("| --- | --- | --- | --- |")
    for name in ("without", "with it"):
        rows = [row for row in found.rows if row["what"] == "independent" and row["name"] == name]
        cells = [bench.spread([row[of] for row in rows if of in row]) for of in ("base", "error", "patch")]
        print(f"| {name} | {' | '.join(cells)} |")


def main() -> None:
    """Measure what is missing and print the tables."""
    read = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    read.add_argument("--family", choices=sorted(bench.FAMILIES), default="mlp")
    read.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    read.add_argument("--rows", default="dissimilar.jsonl")
    asked = read.parse_args()
    torch.set_num_threads(1)
    every, found = bench.images("digits", 1_797), Rows(asked.rows)
    for seed in asked.seeds:
        sets, family = bench.divided(every, seed), bench.FAMILIES[asked.family]
        for what, of in (("foreign", foreign), ("independent", independent)):
            if not found.have(seed=seed, what=what):
                of(sets, family, seed, found)
    table(found)


if __name__ == "__main__":
    main()
