"""Seen: images of which nobody has seen more than a part, and a few clean ones that measure, as recipes share them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.graph import Step, step
from pipeline.keys import Key
from pipeline.physics.corruption import Clean, Corruption
from pipeline.physics.linear import Shape
from pipeline.physics.modes import modes
from stages.census import Census
from stages.contest import Contest
from stages.corrupt import Corrupt, Part
from stages.images import Images
from stages.sets import Stored

PROBES = 8  # draws of a corruption that tell its singular values


@dataclass(frozen=True)
class SeenSets(Contest):
    """What a method may learn from, and what measures it; made by `seen_sets`.

    `unharmed` has the originals of `rows`, where they are known; `noise` is for rows that do not say what they have.
    """

    images: Images
    rows: Step
    test: Step
    unharmed: Step | None
    census: Step
    noise: float | None
    seed: int

    @property
    def given(self) -> dict[str, Step | None]:
        return {"seen": self.rows}

    @property
    def taught(self) -> Step:
        return self.unharmed or self.test

    @property
    def learned(self) -> Step | None:
        return self.unharmed


def seen_sets(
    images: Images,
    corruption: Corruption,
    measured: str,
    noise: float | None,
    count: int | None,
    test: int,
    seed: int,
) -> SeenSets:
    """The sets of a recipe, no image in two of them: `test` clean ones, and `count` seen through the corruption.

    With `measured`, those of that collection as they arrived. Raises ValueError: numbers that measure nothing.
    """
    if test < 2 or (count is not None and count < 1):
        raise ValueError(
            f"test is {test} and count {count}: give 2 or more images to measure with, and 1 to learn from"
        )
    full, wide, unharmed = images.ingest("ingest"), images.wide, None
    held = step(Corrupt(full, Part(0, test, seed), Clean(), seed), "data/test", wide)
    if measured:
        arrived = images.of(measured).ingest("ingest/measured")
        rows = step(Corrupt(arrived, Part(0, count, seed), Clean(), seed), "data/seen", wide)
    else:
        if noise is not None:
            raise ValueError("noise is for images that arrived damaged: give it to the corruption")
        part = Part(test, count, seed)
        rows = step(Corrupt(full, part, corruption, seed), "data/seen", wide)
        unharmed = step(Corrupt(full, part, Clean(), seed), "data/unharmed", wide)
    looked = Census((Stored("seen", rows), Stored("test", held)), seed)
    return SeenSets(images, rows, held, unharmed, step(looked, "census", wide), noise, seed)


def least_level(corruption: Corruption, shape: Shape) -> float:
    """The largest std that A⁺ makes of the corruption's noise in any mode, found out on a few draws.

    Of a mixture those may lack the noisiest part: what training finds of the rows themselves is what holds in the end.
    Raises ValueError: its operators have no modes that are known.
    """
    stretched = 0.0
    for k in range(PROBES):
        row = corruption.draw(shape, Key(0).fold("least", k))
        _, values = modes(corruption.at({name: np.asarray(value)[None] for name, value in row.items()}, shape))
        noise = float(np.asarray(row.get("sigma", corruption.noise)))
        stretched = max(stretched, float((noise / values[values > 0]).max()))
    return stretched
