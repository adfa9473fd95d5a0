"""Fill: rows that were seen in part, taken for whole images with nothing where nothing was seen; what others better."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from pipeline.data.leaks import Damage
from pipeline.data.manifest import Manifest, name
from pipeline.data.records import Examples
from pipeline.data.shards import read_shard
from pipeline.engine.shards import Report, map_shards
from pipeline.graph import Context, Stage, Step
from pipeline.store import Artifact
from stages.measured import rows_at, through, whole_of


@dataclass(frozen=True)
class Fill(Stage):
    """Rows A⁺y for the rows y of `data`: zero-filled, noise and all.

    Args:
        data: the rows; each has its own operator, as its set says.
        noise: σ_y of rows that arrived damaged and do not say.
    """

    data: Step
    noise: float | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one row."""
        return whole_of(self.data)

    def run(self, at: Context) -> None:
        data = at.open(self.data)
        damage = through(data, self.shape, self.noise)
        counts = map_shards(partial(_fill, data, damage), Manifest.open(data.file).filled().tolist(), at)
        Manifest.of(counts, self.shape, "float16").write(at.out)


def _fill(data: Artifact, damage: Damage, piece: int) -> tuple[Examples, Report]:
    rows = read_shard(data.file(name(piece)), name(piece))
    seen = rows_at(damage, rows, np.arange(len(rows)))
    return Examples.from_x(rows.ids, seen.A.pinv(seen.y), rows.label, caption=rows.caption), {}
