"""Findings: what a census found, as numbers for programs and as sentences for people."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.data.census import Census, Moments
from pipeline.data.leaks import Copies, Damage
from pipeline.data.listing import listed
from pipeline.data.noise import Noise
from pipeline.data.similar import ALIKE, RADIUS
from stages.duplicates import Duplicates, Pairs
from stages.sets import Set


@dataclass(frozen=True)
class Found:
    """One set: its census, its noise, and of its commonest form the shape, the files of kept rows and the damage.

    `own_maps` is whether every row was seen through an operator of its own; `unread` counts the files beside the images
    that are of kinds that are not read; `never` says which pixels of the image no row shows, bools of its shape, where
    there are some.
    """

    set: Set
    census: Census
    noise: Noise
    shape: tuple[int, ...]
    files: tuple[str, ...]
    damage: Damage | None
    own_maps: bool
    unread: Mapping[str, int] = field(default_factory=dict)
    never: np.ndarray | None = None

    @property
    def name(self) -> str:
        """The set's."""
        return self.set.name

    @property
    def plain(self) -> bool:
        """Whether it is said to show whole images without noise."""
        return self.damage is not None and not self.own_maps and self.noise.declared == 0 and self.damage.plain

    @property
    def clean(self) -> bool:
        """Whether it does, as far as is known."""
        return self.plain and not self.noise.complaint()

    @property
    def clipped(self) -> float:
        """The share of values at an end of 8 bits, where noise is cut off."""
        tally = self.census.tally("clipped")
        return tally.counts.get("values at an end of 8 bits", 0) / max(1, tally.total)

    @property
    def unseen(self) -> np.ndarray:
        """Which pixels no row shows, bools (*, H, W), of channels that differ (C, *, H, W); (0,) if all are shown."""
        never = np.zeros(0, bool) if self.never is None else self.never
        return never[0] if never.size and (never == never[:1]).all() else never

    def json(self, own: Pairs) -> dict[str, Any]:
        """Everything in numbers."""
        tallies = {n: self.census.tally(n) for n in ("size", "format", "mode", "channels", "stored as", "label")}
        label = tallies.pop("label")
        low, high = self.noise.bounds
        return {
            "rows": self.census.rows,
            "unreadable": {"count": (bad := self.census.tally("unreadable")).total, "first": list(bad.most(5))},
            **({"not finite": wild} if (wild := self.census.tally("not finite").total) else {}),
            **({"not read": dict(self.unread)} if self.unread else {}),
            **{name: tally.most(16) for name, tally in tallies.items()},
            "labelled": label.total,
            "classes": len(label.counts),
            "with caption": self.census.tally("captions").total,
            "turned upright": self.census.tally("turned upright").total,
            "constant": self.census.tally("constant").total,
            "pixels": {n.split(", ")[1]: _json(m) for n, m in self.census.moments.items() if n.startswith("pixels")},
            "clipped share": self.clipped,
            "observed share": _json(self.census.numbers("observed share")),
            "noise": {"declared": self.noise.declared, "at least": _number(low), "at most": _number(high)},
            "repeated": {"ids": own.same_ids, "equal": own.exact, "near pairs": own.near},
            **({} if self.never is None else {"never shown": [int(self.unseen.sum()), self.unseen.size]}),
        }

    def warnings(self, own: Pairs) -> list[str]:
        """What should be looked at, each in one sentence."""
        said, bad = [], self.census.tally("unreadable")
        if bad.total:
            first = next(iter(bad.most(1))).rstrip(".")
            said.append(f"{bad.total} of {bad.total + self.census.rows} images of {self.name} cannot be read: {first}.")
        if wild := self.census.tally("not finite").total:
            said.append(f"{_images(wild)} of {self.name} {_have(wild)} values that are NaN or infinite.")
        if self.unread:
            said.append(f"Of what lies in {self.name} some is of kinds not read: {listed(self.unread)}.")
        if constant := self.census.tally("constant").total:
            said.append(f"{_images(constant)} of {self.name} {_are(constant)} of one colour throughout.")
        if own.same_ids:
            said.append(f"{_images(own.same_ids)} of {self.name} {_have(own.same_ids)} the id of an earlier one.")
        if own.exact:
            said.append(f"{_images(own.exact)} of {self.name} {_are(own.exact)} equal to an earlier one of it.")
        if self.census.numbers("observed share").low == 0:
            said.append(f"{self.name} has images of which nothing is seen.")
        if hidden := int(self.unseen.sum()):
            what = "values" if self.unseen is self.never else "pixels"
            said.append(
                f"{hidden} of {self.unseen.size} {what} of {self.name} {_are(hidden)} never shown by any row: nothing "
                "can be learnt there."
            )
        if complaint := self.noise.complaint():
            cut = (
                f", where {self.clipped:.0%} of its values lie at an end of 8 bits"
                if self.noise.declared and self.clipped > 0.01
                else ""
            )
            said.append(f"{self.name} {complaint}{cut}.")
        return said


@dataclass(frozen=True)
class Between:
    """The copies found of images of set number `clean` in set number `damaged`; `shown` are ids of kept rows."""

    damaged: int
    clean: int
    copies: Copies
    shown: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Findings:
    """All sets, their duplicates, and the leaks through the damage of those that could be compared so."""

    found: list[Found]
    duplicates: Duplicates
    between: dict[tuple[int, int], Between]

    def pairs(self) -> list[tuple[int, int]]:
        """Every two sets."""
        return [(a, b) for b in range(len(self.found)) for a in range(b)]

    def leaks(self, a: int, b: int) -> list[str]:
        """What is wrong with two sets, each in one sentence."""
        one, two, twice, said = self.found[a], self.found[b], self.duplicates.pairs[a, b], []
        names = f"{one.name} and {two.name}"
        if twice.same_ids and one.set.same_id_same_image and two.set.same_id_same_image:
            said.append(f"Leak: {twice.same_ids} ids are in both {names}.")
        if twice.exact:
            said.append(f"Leak: {_images(twice.exact)} of {two.name} {_are(twice.exact)} in {one.name} too, equal.")
        if twice.near:
            said.append(f"Possible leak: {twice.near} pairs of images of {names} are nearly equal.")
        seen = self.between.get((a, b))
        if seen is not None and seen.copies.likely:
            damaged, clean, made = self.found[seen.damaged].name, self.found[seen.clean].name, seen.copies
            said.append(
                f"{'Leak' if made.certain else 'Possible leak'}: {len(made.pairs)} of {len(made.damaged)} images of "
                f"{damaged} show one of {clean}, as far as the damage lets tell "
                f"({made.chance * len(made.damaged):.0f} would by chance)."
            )
        return said

    def warnings(self) -> list[str]:
        """All that is wrong, leaks first."""
        leaks = [text for a, b in self.pairs() for text in self.leaks(a, b)]
        return leaks + [t for s, one in enumerate(self.found) for t in one.warnings(self.duplicates.pairs[s, s])]

    def json(self) -> dict[str, Any]:
        """Everything in numbers, and the warnings."""
        pairs = self.duplicates.pairs
        return {
            "sets": {one.name: one.json(pairs[s, s]) for s, one in enumerate(self.found)},
            "between": [self._told(a, b) for a, b in self.pairs()],
            "looked among": {"equal": self.duplicates.exactly, "near": self.duplicates.nearly},
            "near means": {"signs that differ, at most": RADIUS, "cosine, at least": ALIKE},
            **{
                name: sum(any(t.startswith(start) for t in self.leaks(a, b)) for a, b in self.pairs())
                for name, start in (("leaks", "Leak"), ("possible leaks", "Possible"))
            },
            "warnings": self.warnings(),
        }

    def _told(self, a: int, b: int) -> dict[str, Any]:
        twice, seen = self.duplicates.pairs[a, b], self.between.get((a, b))
        told: dict[str, Any] = {"sets": [self.found[a].name, self.found[b].name]}
        told |= {"same ids": twice.same_ids, "equal": twice.exact, "near pairs": twice.near}
        told["shown"] = [[kind, i.id, j.id] for kind, i, j in twice.shown]
        if seen is not None:
            told["through the damage"] = {
                "of": self.found[seen.damaged].name,
                "copies": len(seen.copies.pairs),
                "compared": [len(seen.copies.damaged), len(seen.copies.clean)],
                "expected by chance": seen.copies.chance * len(seen.copies.damaged),
                "recall": seen.copies.recall,
                "shown": [[i.split("/", 2)[2], j.split("/", 2)[2]] for i, j in seen.shown],
            }
        return told


def _json(m: Moments) -> dict[str, float | None]:
    low, high = m.range
    return {k: _number(v) for k, v in {"mean": m.mean, "std": m.std, "min": low, "max": high}.items()}


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _images(n: int) -> str:
    return f"{n} image{'s' * (n != 1)}"


def _are(n: int) -> str:
    return "is" if n == 1 else "are"


def _have(n: int) -> str:
    return "has" if n == 1 else "have"
