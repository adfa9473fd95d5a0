"""Duplicates: images that are in one set twice, or in two sets, by their prints; see `pipeline/data/similar.py`."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.data.similar import Prints, near, repeats
from pipeline.place import Place
from stages.looking import Item, prints_file

EXACTLY = 1 << 22  # images among which equal ones are looked for at once
NEARLY = 1 << 17  # images among which near ones are looked for
SHOWN = 8


@dataclass(frozen=True)
class Row:
    """Row number `row` of piece `k` of set `s`, and its id."""

    k: int
    row: int
    s: int
    id: str


@dataclass(frozen=True)
class Pairs:
    """How many images of set b (or of set a once more, if b is a) are in a, and the first few pairs.

    `shown` are ("equal" or "near", row of a, row of b).
    """

    same_ids: int
    exact: int
    near: int
    shown: tuple[tuple[str, Row, Row], ...]


@dataclass(frozen=True)
class Duplicates:
    """The pairs of every two sets (a <= b), and the share of all images among which each kind was looked for."""

    pairs: dict[tuple[int, int], Pairs]
    exactly: float
    nearly: float


def search(out: Place, items: Sequence[Item], rows: int) -> Duplicates:
    """Looks through the prints of all pieces. Where there are too many images, a share of them, chosen by content."""
    exactly, nearly = (min(1.0, most / max(1, rows)) for most in (EXACTLY, NEARLY))
    found, where = [], []
    for item in items:
        if not out.exists(prints_file(item.k)):
            continue
        prints = _read(out, item.k)
        chosen = np.flatnonzero(prints.face.any(1) & _within(prints, exactly))
        found.append(prints.take(chosen))
        where.append(np.stack([np.full(len(chosen), item.k), chosen, np.full(len(chosen), item.s)], axis=1))
    prints, place = Prints.concat(found), np.concatenate(where)
    few = np.flatnonzero(_within(prints, nearly))
    close = few[near(prints.take(few))]
    equal, ids = (_Groups.of(values, place[:, 2]) for values in (prints.digest, prints.id))
    count = 1 + max(item.s for item in items)
    pairs = {}
    for a in range(count):
        for b in range(a, count):
            exact, same = equal.between(a, b), ids.between(a, b)
            sets = np.sort(place[close, 2], axis=1)
            alike = close[(sets[:, 0] == a) & (sets[:, 1] == b)]
            first = [("equal", *pair) for pair in exact[1][:SHOWN]] + [("near", *pair) for pair in alike[:SHOWN]]
            shown = [(kind, *_told(out, place[sorted((i, j), key=lambda n: place[n, 2])])) for kind, i, j in first]
            pairs[a, b] = Pairs(same[0], exact[0], len(alike), tuple(shown))
    return Duplicates(pairs, exactly, nearly)


@dataclass(frozen=True, eq=False)
class _Groups:
    """Rows that have an equal, the number of each one's group, and its set."""

    rows: np.ndarray
    group: np.ndarray
    sets: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray, sets: np.ndarray) -> _Groups:
        rows, starts = repeats(values)
        first = np.zeros(len(rows), np.int64)
        first[starts] = 1
        return cls(rows, np.cumsum(first), sets[rows])

    def between(self, a: int, b: int) -> tuple[int, list[tuple[int, int]]]:
        """How many rows of b repeat one of a (an earlier one, if b is a), and the first pairs."""
        groups, left = np.unique(self.group[self.sets == a], return_index=True)
        left = self.rows[self.sets == a][left]
        there = (self.sets == b) & np.isin(self.group, groups) & ~np.isin(self.rows, left)
        right, group = self.rows[there], self.group[there]
        _, one = np.unique(group, return_index=True)
        one = one[:SHOWN]
        return len(right), list(zip(left[np.searchsorted(groups, group[one])].tolist(), right[one].tolist()))


def _within(prints: Prints, share: float) -> np.ndarray:
    """Whether each image is in a share of all that has either all equal images or none of them."""
    return (prints.digest[:, 0] >> np.uint64(11)).astype(np.float64) / 2**53 < share


def _read(out: Place, k: int) -> Prints:
    with np.load(io.BytesIO(out.read(prints_file(k))), allow_pickle=False) as file:
        return Prints(*(file[name] for name in ("digest", "signs", "face", "id")))


def _told(out: Place, places: np.ndarray) -> tuple[Row, Row]:
    """Two rows, given as (piece, row, set), with their ids."""
    made = []
    for k, row, s in places.tolist():
        with np.load(io.BytesIO(out.read(prints_file(k))), allow_pickle=False) as file:
            made.append(Row(k, row, s, str(file["name"][row])))
    return made[0], made[1]
