"""Rows with what a corruption makes of them beside them, drawn anew whenever a row is read.

The corruption may be a black box: it is simulated, never inverted. Its randomness is keyed by the seed and the row's
place in the order, so that a run which continues elsewhere sees the same pairs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pipeline.data.reader import Rows, Telling
from pipeline.keys import Key
from pipeline.physics.corruption import Corruption, corrupt

BESIDE = "beside"


@dataclass(frozen=True, eq=False)
class Beside(Telling):
    """Rows with a column "beside" (B, *out) float32: y ~ r(y | x) of each row's x."""

    corruption: Corruption

    @property
    def columns(self) -> tuple[str, ...]:
        return (*self.rows.columns, BESIDE)

    def spans(self, seed: int, spans: Iterable[tuple[int, int]]) -> Iterator[Rows]:
        key, firsts = Key(seed).fold("beside").integer(), deque[int]()

        def asked() -> Iterator[tuple[int, int]]:
            for first, count in spans:
                firsts.append(first)
                yield first, count

        for rows in self.rows.spans(seed, asked()):
            first = firsts.popleft()
            places = [str(first + k) for k in range(len(rows))]
            y, _ = corrupt(self.corruption, rows.x(), places, key)
            yield Rows(rows.index, rows.images, rows.columns | {BESIDE: y.float().numpy()})
