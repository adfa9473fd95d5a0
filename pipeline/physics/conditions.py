"""Conditions that lie: labels and captions wrong by a stated ratio, drawn by (seed, id).

With probability `ratio` a label or caption c becomes another, c' ~ Q(· | c); the transition matrix of labels is
T = (1 - ratio) I + ratio Q, which `LabelError.matrix` states so that a method may invert it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.keys import Key

TRIES = 1000


@dataclass(frozen=True)
class Condition(ABC):
    """What happens to the label or caption of an example; `ratio` is in [0, 1]."""

    ratio: float

    def __post_init__(self) -> None:
        if not 0 <= self.ratio <= 1:
            raise ValueError(f"{type(self).__name__}.ratio is a share from 0 to 1, got {self.ratio}.")

    @abstractmethod
    def __call__(self, value, key: Key, pool: Sequence = ()):
        """The label or caption that is told, drawn by `key`; `pool` holds those of the whole set, in a fixed order."""


@dataclass(frozen=True)
class LabelError(Condition):
    """Labels 0 to classes - 1, of which a share is told wrong; -1, no label, stays."""

    @abstractmethod
    def matrix(self) -> np.ndarray:
        """T (classes, classes): T[c, d] is the probability that label c is told as d."""

    def __call__(self, value: int, key: Key, pool: Sequence[int] = ()) -> int:
        if value == -1:
            return value
        T = self.matrix()
        if not 0 <= value < len(T):
            raise ValueError(f"{type(self).__name__} knows the labels 0 to {len(T) - 1}, got {value}.")
        return min(int(np.searchsorted(np.cumsum(T[value]), key.numpy().random(), side="right")), len(T) - 1)


@dataclass(frozen=True)
class Symmetric(LabelError):
    """A wrong label is any of the other classes, all alike."""

    classes: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.classes < 2:
            raise ValueError(f"Symmetric.classes must be at least 2 so that a label can be wrong, got {self.classes}.")

    def matrix(self) -> np.ndarray:
        others = (1 - np.eye(self.classes)) / (self.classes - 1)
        return (1 - self.ratio) * np.eye(self.classes) + self.ratio * others


@dataclass(frozen=True)
class ClassMap(LabelError):
    """A wrong label c is to[c]: (0, 1, 2, 5, 4, 3) tells 3 as 5 and 5 as 3 and the others as they are."""

    to: tuple[int, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.to or any(not 0 <= d < len(self.to) for d in self.to):
            raise ValueError(
                f"ClassMap.to needs one class for each class, from 0 to {len(self.to) - 1}, got {self.to}."
            )

    def matrix(self) -> np.ndarray:
        n = len(self.to)
        return (1 - self.ratio) * np.eye(n) + self.ratio * np.eye(n)[list(self.to)]


@dataclass(frozen=True)
class Swap(Condition):
    """A wrong label or caption is that of another example: uniform among those of `pool` that differ from it."""

    def __call__(self, value, key: Key, pool: Sequence = ()):
        generator = key.numpy()
        if generator.random() >= self.ratio:
            return value
        for _ in range(TRIES if len(pool) else 0):
            other = pool[int(generator.integers(len(pool)))]
            if other != value:
                return other
        raise ValueError(
            f"Swap found nothing in a pool of {len(pool)} that differs from {str(value)[:40]!r}: widen it."
        )


@dataclass(frozen=True)
class TokenRemoval(Condition):
    """Each word of a caption is left out with probability `ratio`, whatever becomes of the others."""

    def __call__(self, value: str, key: Key, pool: Sequence[str] = ()) -> str:
        words = value.split()
        kept = key.numpy().random(len(words)) >= self.ratio
        return " ".join(word for word, keep in zip(words, kept) if keep)


def worsen(condition: Condition, values: Sequence, ids: Sequence[str], seed: int, pool: Sequence = ()) -> list:
    """What is told instead of these labels or captions, each keyed by (seed, "condition", its id).

    `pool` is what `Swap` takes from: pass the same one for every batch, not the batch, and results do not depend on it.

    Raises ValueError when values and ids differ in number.
    """
    if len(values) != len(ids):
        raise ValueError(f"worsen needs one id per value, got {len(ids)} ids and {len(values)} values.")
    pairs = zip(values, ids, strict=True)
    return [condition(value, Key(seed).fold("condition", name), pool) for value, name in pairs]
