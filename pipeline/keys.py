"""Randomness from (seed, purpose, example id), never from a worker, a batch or a clock.

A `Key` is a seed and a path of names. Its bits are BLAKE2b(seed, path), so that any key can be made anywhere, in any
order, without asking another: `Key(0).fold("corrupt", "img-17")` draws the same bytes alone, in a batch, on three
workers or after a restart. Numbers come from Philox4x64 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
SC 2011), which numpy ships.
"""

from __future__ import annotations

import hashlib
import operator
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Key:
    """A seed (any signed 64-bit integer) and the path of purposes that leads from it to one draw."""

    seed: int
    path: tuple[str | int, ...] = ()

    def __post_init__(self) -> None:
        if not -(2**63) <= operator.index(self.seed) < 2**63:
            raise ValueError(f"seed is {self.seed}: use an integer from -2**63 to 2**63 - 1")

    def fold(self, *names: str | int) -> Key:
        """The key one or more steps further down: independent of this one and of every sibling."""
        return Key(self.seed, self.path + names)

    def bits(self) -> bytes:
        """128 bits that only this seed and path have (BLAKE2b; each part is tagged and length-prefixed)."""
        return self._digest().digest()

    def bits_of(self, names: Iterable[str | int]) -> Iterator[bytes]:
        """`fold(name).bits()` of each name, for many: the path that they share is digested once."""
        shared = self._digest()
        for name in names:
            digest = shared.copy()
            digest.update(_part(name))
            yield digest.digest()

    def _digest(self) -> hashlib.blake2b:
        digest = hashlib.blake2b(struct.pack("<q", self.seed), digest_size=16, person=b"kintsugi.keys")
        for name in self.path:
            digest.update(_part(name))
        return digest

    def integer(self) -> int:
        """A seed in [0, 2⁶³) for libraries that take one."""
        return int.from_bytes(self.bits()[:8], "little") >> 1

    def numpy(self) -> np.random.Generator:
        """A Philox generator of this key's own."""
        return np.random.Generator(np.random.Philox(key=np.frombuffer(self.bits(), dtype="<u8")))

    def torch(self, device: str | torch.device = "cpu") -> torch.Generator:
        """A torch generator of this key's own, on `device`. (On a CPU torch itself keeps only 32 bits of its seed.)"""
        import torch

        return torch.Generator(device=device).manual_seed(self.integer())


def _part(name: str | int) -> bytes:
    kind, text = (b"s", name.encode()) if isinstance(name, str) else (b"i", b"%d" % operator.index(name))
    return kind + struct.pack("<Q", len(text)) + text
