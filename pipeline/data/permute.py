"""Permutations of [0, n) by a key, computed index by index: O(1) each, in time and in memory, whatever n is.

An index i < a b, with a and b next to √n, is a pair (l, r) of Z_a × Z_b. Each round adds a keyed hash of one half to
the other, modulo its own size; that can be undone whatever the hash is, so the rounds are a bijection of [0, a b). What
lands in [n, a b) goes round again until it is below n, which makes a bijection of [0, n) (Black & Rogaway, "Ciphers
with arbitrary finite domains", CT-RSA 2002, methods 2 and 3). Fewer than one in √n indices has to.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pipeline.keys import Key

ROUNDS = 16  # eight pass every test but those on all permutations of 5 or 6 things
MOST = 1 << 62


@dataclass(frozen=True)
class Permutation:
    """A bijection of [0, n), 1 <= n <= 2⁶², drawn by the key: called with indices int64 (*,), their images int64 (*,).

    Raises ValueError for an n out of range, or an index that is not in [0, n).
    """

    n: int
    key: Key

    def __post_init__(self) -> None:
        if not 1 <= self.n <= MOST:
            raise ValueError(f"n is {self.n}: a permutation needs 1 to 2**62 indices.")

    def __call__(self, i: np.ndarray) -> np.ndarray:
        return self._walk(i, self._forth)

    def inverse(self, i: np.ndarray) -> np.ndarray:
        """The indices int64 (*,) whose images are i."""
        return self._walk(i, self._back)

    def _walk(self, i: np.ndarray, rounds: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        i = np.asarray(i, dtype=np.int64)
        if i.size and not 0 <= i.min() <= i.max() < self.n:
            raise ValueError(f"indices {i.min()}..{i.max()} are not all in 0..{self.n - 1}.")
        out = rounds(i.astype(np.uint64).ravel())
        far = np.flatnonzero(out >= self.n)
        while far.size:
            out[far] = rounds(out[far])
            far = far[out[far] >= self.n]
        return out.astype(np.int64).reshape(i.shape)

    def _forth(self, i: np.ndarray) -> np.ndarray:
        a, b = self._sides
        left, right = np.divmod(i, b)
        for k in range(0, ROUNDS, 2):
            left = (left + _hash(right, self._words[k]) % a) % a
            right = (right + _hash(left, self._words[k + 1]) % b) % b
        return left * b + right

    def _back(self, i: np.ndarray) -> np.ndarray:
        a, b = self._sides
        left, right = np.divmod(i, b)
        for k in range(ROUNDS - 2, -1, -2):
            right = (right + (b - _hash(left, self._words[k + 1]) % b)) % b
            left = (left + (a - _hash(right, self._words[k]) % a)) % a
        return left * b + right

    @cached_property
    def _sides(self) -> tuple[np.uint64, np.uint64]:
        a = math.isqrt(self.n - 1) + 1
        return np.uint64(a), np.uint64(-(-self.n // a))

    @cached_property
    def _words(self) -> np.ndarray:
        return self.key.numpy().bit_generator.random_raw(2 * ROUNDS).reshape(ROUNDS, 2)


def _hash(i: np.ndarray, words: np.ndarray) -> np.ndarray:
    """64 mixed bits of (i, words): the finaliser of SplitMix64 (Steele, Lea & Flood, OOPSLA 2014), keyed twice."""
    mixed = (i ^ words[0]) * np.uint64(0x9E3779B97F4A7C15) + words[1]
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
