"""Hiding: rows with the mask through which each was seen, rebuilt from the operator columns they were stored with."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pipeline.data.coverage import NAMED, apart, told_apart
from pipeline.data.damaged import EMBEDDING, HIDES
from pipeline.data.manifest import Manifest
from pipeline.data.reader import ENOUGH, OPERATOR, Rows, Telling
from pipeline.keys import Key
from pipeline.physics.corruption import Corruption
from pipeline.physics.linear import shows

log = logging.getLogger("kintsugi")
MASK = "mask"
WIDEST = 4096  # pixels of an image that are looked at for pairs


class Addressed(Protocol):
    """What lies in a store, for messages."""

    @property
    def address(self) -> str: ...


@dataclass(frozen=True, eq=False)
class Hidden(Telling):
    """Rows with a column "mask", bools (B, *shape), True where a pixel is seen; `seen` None: everywhere.

    Raises ValueError where `seen` changes an image's shape.
    """

    seen: Corruption | None

    def __post_init__(self) -> None:
        if self.seen is not None and tuple(self.seen.out_shape(self.rows.shape)) != tuple(self.rows.shape):
            raise ValueError(f"{type(self.seen).__name__} does not mask but cuts: name what hides pixels")

    @property
    def columns(self) -> tuple[str, ...]:
        return (*(name for name in self.rows.columns if not _of_mask(name)), MASK)

    def spans(self, seed: int, spans: Iterable[tuple[int, int]]) -> Iterator[Rows]:
        for rows in self.rows.spans(seed, spans):
            told = {name: column for name, column in rows.columns.items() if not _of_mask(name)}
            yield Rows(rows.index, rows.images, told | {MASK: self._masks(rows)})

    def _masks(self, rows: Rows) -> np.ndarray:
        shape = (len(rows), *self.shape)
        if self.seen is None:
            return np.ones(shape, bool)
        operator = {n.removeprefix(OPERATOR): c for n, c in rows.columns.items() if _of_mask(n)}
        found = shows(self.seen.at(operator, self.shape)).numpy()
        return np.ascontiguousarray(np.broadcast_to(found, shape))


def _of_mask(name: str) -> bool:
    """Whether a column says how its row was seen, and not what is told of it."""
    return name.startswith(OPERATOR) and name != OPERATOR + EMBEDDING


def visible_moments(readers: Sequence[Hidden]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Σ, Σ of squares and number (*shape), float64, of what the first `ENOUGH` rows of each set show."""
    total, square, count = np.zeros((3, *readers[0].shape))
    for each in readers:
        most = min(ENOUGH, len(each))
        for rows in each.spans(0, ((first, min(64, most - first)) for first in range(0, most, 64))):
            mask, x = rows.columns[MASK], rows.x().numpy().astype(np.float64)
            total += (x * mask).sum(0)
            square += (x**2 * mask).sum(0)
            count += mask.sum(0)
    return total, square, count


def check_coverage(count: np.ndarray) -> None:
    """Raises ValueError where no row shows some pixel: of it nothing can be learned (E[AᵀA] has not full rank)."""
    never = np.argwhere(count.min(0) == 0)
    if len(never):
        named = ", ".join(str(tuple(int(i) for i in place)) for place in never[:NAMED])
        more = f" and {len(never) - NAMED} more" if len(never) > NAMED else ""
        raise ValueError(
            f"no row shows {len(never)} of the {count[0].size} pixels, at {named}{more}: what is there cannot be "
            "learned, so add rows that show it, or crop it away"
        )


def check_pairs(readers: Sequence[Hidden], apart_too: bool = False) -> None:
    """Raises ValueError where no row shows two pixels together, and says which; only warns if `apart_too`.

    Of images of more than `WIDEST` pixels so many are looked at, chosen by a key.
    """
    shape = tuple(readers[0].shape[1:])
    pixels = int(np.prod(shape))
    chosen = np.arange(pixels)
    if pixels > WIDEST:
        chosen = np.sort(Key(0).fold("pairs").numpy().permutation(pixels)[:WIDEST])

    def seen() -> Iterator[np.ndarray]:
        for each in readers:
            for rows in each.spans(0, ((first, min(256, len(each) - first)) for first in range(0, len(each), 256))):
                yield rows.columns[MASK].max(1).reshape(len(rows), -1)[:, chosen]

    places = np.stack(np.unravel_index(chosen, shape), 1)
    if not (said := told_apart(apart(seen(), len(chosen)), places, "pixels")):
        return
    if not apart_too:
        raise ValueError(f"{said}, so add rows that show both, or say that the rest is to be learned (--apart)")
    log.warning("%s", said)


def check_whole(rows: Manifest, data: Addressed) -> None:
    """Raises ValueError where rows are seen through masks, which they arrived with or got here."""
    if "mask" in rows.more.get("damage", []) or HIDES in rows.more:
        raise ValueError(
            f"the rows of {data.address} are seen through masks, and what is hidden would be learned as grey: take "
            "whole ones, or the recipe em or ambient_masks with these as --measured"
        )
