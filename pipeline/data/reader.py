"""The order in which examples are read: an endless stream that is a pure function of (n, seed, position).

Position p lies in epoch e = p // n, and epoch e is the permutation that sorts n random 64-bit words of the key
(seed, "order", e). So any place in the stream is found without walking to it, and no worker has to be asked: that is
what makes a resumed run, or one on another number of workers, see the same images. (The words come from Philox's raw
output, which numpy keeps fixed, while its `permutation` may change between versions.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sized
from functools import lru_cache
from itertools import count as numbers

import numpy as np

from pipeline.keys import Key


def order(n: int, seed: int, start: int, count: int) -> np.ndarray:
    """The int64 indices in [0, n) of the images number start .. start + count − 1 of the stream; time O(n + count)."""
    if n < 1:
        raise ValueError("There are no examples to read; check that the data set is not empty.")
    if start < 0 or count < 0:
        raise ValueError(f"start={start} and count={count} must not be negative.")
    out = np.empty(count, dtype=np.int64)
    done = 0
    while done < count:
        epoch, at = divmod(start + done, n)
        part = _permutation(n, seed, epoch)[at : at + count - done]
        out[done : done + len(part)] = part
        done += len(part)
    return out


def batches(
    examples: Sized, batch: int, seed: int, start: int = 0, rank: int = 0, world: int = 1
) -> Iterator[np.ndarray]:
    """Endless index arrays (batch / world,) for this rank; the ranks' arrays in a row are `order` of the whole batch.

    Step k of all ranks together reads images start + k batch .. start + (k + 1) batch − 1, whatever `world` is.
    """
    if world < 1 or not 0 <= rank < world:
        raise ValueError(f"rank={rank} must be one of the {world} ranks 0..{world - 1} of the world.")
    if batch < 1 or batch % world:
        raise ValueError(f"batch={batch} must be a positive multiple of the {world} workers that share it.")
    share = batch // world
    order(len(examples), seed, start, 0)  # its complaints are due now, not at the first batch
    return (order(len(examples), seed, start + k * batch + rank * share, share) for k in numbers())


@lru_cache(maxsize=32)  # a batch may reach over the end of its epoch, and several sets may be read in turn
def _permutation(n: int, seed: int, epoch: int) -> np.ndarray:
    words = Key(seed).fold("order", epoch).numpy().bit_generator.random_raw(n)
    permutation = np.argsort(words, kind="stable")
    permutation.setflags(write=False)
    return permutation
