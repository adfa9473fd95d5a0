"""Census: what sets of images hold, and which images are in two of them, found out before anything learns from them.

Every piece of every set is looked at once, on the cluster, with bounded memory (`stages/looking.py`). What was found
of each adds up; the prints of its images and a few rows wait under `_work/` until duplicates (`stages/duplicates.py`)
and leaks through the damage (`pipeline/data/leaks.py`) have been looked for, and are gone when the step is done.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from typing import Any, ClassVar

from pipeline.data import noise
from pipeline.data.census import Census as Counted
from pipeline.data.damaged import NO_MAP
from pipeline.data.leaks import Damage, copies
from pipeline.engine import tasks
from pipeline.graph import Context, Stage
from pipeline.physics.corruption import Noisy
from pipeline.place import Place
from stages.census_page import page
from stages.duplicates import SHOWN, search
from stages.findings import Between, Findings, Found
from stages.looking import Item, kept_rows, looked, never_shown
from stages.sets import Set

COMPARED = 4096  # damaged rows of a set that are compared with all kept clean ones


@dataclass(frozen=True)
class Census(Stage):
    """`census.json`, `report.html` and `*.png` of sets. No image should be in two of them.

    Args:
        sets: the sets, under different names.
        seed: of the images that are damaged anew to learn how often a leak would be seen by chance.
    """

    version: ClassVar[int] = 2  # 2: counts bad rows, what is not read and pixels never shown

    sets: tuple[Set, ...]
    seed: int = 0

    def __post_init__(self) -> None:
        names = [one.name for one in self.sets]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"a census needs sets under different names, got {', '.join(names) or 'none'}")

    def run(self, at: Context) -> None:
        items = []
        for s, one in enumerate(self.sets):
            pieces = one.pieces(at.store)
            items += [Item(len(items) + i, s, piece, len(pieces)) for i, piece in enumerate(pieces)]
        counted, kept = [Counted() for _ in self.sets], [[] for _ in self.sets]
        start, rows = time.monotonic(), 0
        for done, said in enumerate(tasks.each(partial(looked, self.sets, at.store, at.out), items, at), 1):
            part = Counted.read(said["census"])
            counted[said["set"]] += part
            kept[said["set"]].append(said["kept"])
            rows += part.rows
            rate = rows / (time.monotonic() - start)
            at.tracker.metrics({"done": 0.9 * done / len(items), "rows_per_second": rate}, at=rows)
        found = [self._found(at, s, counted[s], kept[s]) for s in range(len(self.sets))]
        twice = search(at.out, items, rows)
        findings = Findings(found, twice, self._compared(at, found))
        at.tracker.metrics({"done": 1.0}, at=rows)
        pictures, report = page(findings, items, at)
        told = findings.json() | {"pictures": {name: caption for name, (caption, _) in pictures.items()}}
        at.tracker.card("census", told)
        for name, (_, png) in pictures.items():
            at.tracker.picture(f"{name}.png", png)
            at.out.write(f"{name}.png", png)
        at.out.write("census.json", json.dumps(told, indent=1, ensure_ascii=False))
        at.out.write("report.html", report.html())

    def _found(self, at: Context, s: int, counted: Counted, kept: list[dict[str, Any]]) -> Found:
        one = self.sets[s]
        if not counted.rows:
            why = next(iter(counted.tally("unreadable").most(1)), f"{one.name} is empty")
            raise ValueError(f"none of the {counted.tally('unreadable').total} images can be read: {why.rstrip('.')}")
        forms = sum((Counter({form: count for form, (_, count, _) in files.items()}) for files in kept), Counter())
        ((form, _),) = forms.most_common(1)
        files = tuple(sorted(files[form][0] for files in kept if form in files))
        first = kept_rows(at.out, files[:1], 1)
        own = bool(set(first.operator) - NO_MAP)
        declared = counted.numbers("declared σ")
        rms = math.hypot(declared.mean, declared.std) if declared.count else 0.0
        fine, coarse, ratio = (noise.estimate(counted.tally(f"differences, {n}")) for n in ("fine", "coarse", "ratio"))
        damage = one.damage(at.store, first.shape, frozenset(first.operator))
        never = None
        if damage is not None and len(forms) == 1:  # images of another size show pixels of their own
            never = never_shown(at.out, [files[form][2] for files in kept if form in files], damage.shape)
        found = noise.Noise(rms, fine, coarse, ratio)
        return Found(one, counted, found, first.shape, files, damage, own, one.unread(), never)

    def _compared(self, at: Context, found: list[Found]) -> dict[tuple[int, int], Between]:
        """Every two sets, one of which may show the other's images through its damage."""
        items = []
        for a, b in combinations(range(len(found)), 2):
            for x, y in ((a, b), (b, a)):
                damage = _through(found[x], found[y])
                if damage is not None and not (x > y and _alike(found[x], found[y])):
                    items.append((x, y, damage, found[x].files, found[y].files))
        made = {}
        for x, y, seen in tasks.each(partial(_copies, at.out, self.seed), items, at):
            key = (min(x, y), max(x, y))
            if seen is not None and (key not in made or len(seen.copies.pairs) > len(made[key].copies.pairs)):
                made[key] = seen
        return made


def _through(clean: Found, damaged: Found) -> Damage | None:
    """How the second set's damage would show the first's images; None where that is not known or nothing is hidden."""
    if clean.damage is None or damaged.damage is None or damaged.clean:
        return None
    if _alike(clean, damaged):
        return Damage(Noisy(), damaged.shape, math.hypot(clean.noise.declared, damaged.noise.declared))
    if not clean.plain:
        return None
    if damaged.plain:  # by what it says, and it looks noisy
        return replace(damaged.damage, sigma=1.2 * damaged.noise.fine)
    return damaged.damage


def _alike(one: Found, other: Found) -> bool:
    """Whether two sets were damaged in one and the same way, so that their images are compared as they are."""
    return one.damage == other.damage and not (one.plain or one.own_maps or other.own_maps)


def _copies(out: Place, seed: int, item: tuple[int, int, Damage, tuple[str, ...], tuple[str, ...]]) -> Any:
    x, y, damage, clean, damaged = item
    there, here = kept_rows(out, clean), kept_rows(out, damaged, COMPARED)
    made = copies(there, here, damage, seed)
    if made is None:
        return x, y, None
    return x, y, Between(y, x, made, tuple((made.damaged[i], made.clean[j]) for i, j in made.pairs[:SHOWN].tolist()))
