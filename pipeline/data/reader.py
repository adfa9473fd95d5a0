"""The order in which examples are read: an endless stream that is a pure function of (n, seed, position).

A `Reader` gives a set's rows in such an order, from any position on. In memory (`InMemory`) position p lies in epoch
e = p // n, and epoch e is the permutation that sorts n random 64-bit words of the key (seed, "order", e), or, of more
than `LARGE` rows, one that is computed index by index (`permute.py`). So any place in the stream is found at once, and
no worker has to be asked: that is what makes a resumed run, or one on another number of workers, see the same images.
(The words come from Philox's raw output, which numpy keeps fixed, while its `permutation` may change between versions.)
What is streamed has an order of its own (`stream.py`), and so has a mixture (`mix.py`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from functools import lru_cache
from itertools import count as numbers
from typing import TYPE_CHECKING

import numpy as np

from pipeline.data.permute import Permutation
from pipeline.data.records import Examples
from pipeline.keys import Key

if TYPE_CHECKING:
    from torch import Tensor

LARGE = 1 << 16  # rows; to sort more would take longer than a batch
LABEL, CAPTION, OPERATOR = "label", "caption", "operator."
AT_ONCE = 1024  # rows that are held as numbers together
ENOUGH = 16_384  # rows whose mean stands for that of a set too large to go through


@dataclass(frozen=True, eq=False)
class Rows:
    """B rows as training takes them.

    `index`: (B,) int64, which of the set's. `images`: (B, *) uint8, float16, or float32 that are x already. `columns`:
    what else the reader was asked for, by name, each (B, *); captions are texts in an array of objects.
    """

    index: np.ndarray
    images: np.ndarray
    columns: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.index)

    def packed(self) -> Tensor:
        """(B, *) uint8, of which x is u/127.5 − 1, or x."""
        import torch

        return torch.from_numpy(self.images) if self.images.dtype == np.uint8 else self.x()

    def x(self) -> Tensor:
        """(B, *) float32: u/127.5 − 1 of uint8, others as they are."""
        import torch

        x = torch.from_numpy(self.images.astype(np.float32))
        return x.div_(127.5).sub_(1) if self.images.dtype == np.uint8 else x


class Reader(ABC):
    """A set of rows, in an endless order of epochs that is a pure function of (seed, position)."""

    @property
    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """What comes along with the images: some of "label", "caption" and "operator.<name>"."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """The shape of one image, without the batch."""

    @abstractmethod
    def __len__(self) -> int:
        """How many rows an epoch has."""

    @abstractmethod
    def ids(self, index: Sequence[int]) -> list[str]:
        """The ids of the rows that have these indices; for messages, not for many."""

    @abstractmethod
    def spans(self, seed: int, spans: Iterable[tuple[int, int]]) -> Iterator[Rows]:
        """Rows first .. first + count − 1 of the order for each (first, count); fastest where spans ascend."""

    def batches(self, batch: int, seed: int, start: int = 0, rank: int = 0, world: int = 1) -> Iterator[Rows]:
        """Endless `Rows` (batch / world,) for this rank: its share of each global batch from position `start` on."""
        first, share = _share(batch, start, rank, world)
        return self.spans(seed, ((first + k * batch, share) for k in numbers()))

    def moments(self) -> tuple[Tensor, float]:
        """The mean image and the root mean square around it, of the first `ENOUGH` rows in the order of seed 0."""
        import torch

        total, square, count = torch.zeros(self.shape, dtype=torch.float64), 0.0, min(ENOUGH, len(self))
        for rows in self.spans(0, ((first, min(64, count - first)) for first in range(0, count, 64))):
            x = rows.x().double()
            total += x.sum(0)
            square += float(x.square().sum())
        centre = total / count
        spread = square / (count * centre.numel()) - float(centre.square().mean())
        return centre.float(), max(spread, 0.0) ** 0.5


@dataclass(frozen=True, eq=False)
class Telling(Reader):
    """The same rows in the same order, with more told of them; subclasses add columns in `spans`."""

    rows: Reader

    @property
    def shape(self) -> tuple[int, ...]:
        return self.rows.shape

    def __len__(self) -> int:
        return len(self.rows)

    def ids(self, index: Sequence[int]) -> list[str]:
        return self.rows.ids(index)


@dataclass(frozen=True, eq=False)
class InMemory(Reader):
    """Examples in memory; `columns` are what of "label", "caption" and "operator.<name>" comes along."""

    examples: Examples
    columns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        order(len(self.examples), 0, 0, 0)
        for name in self.columns:
            column(self.examples, name)  # its complaints are due now

    @property
    def shape(self) -> tuple[int, ...]:
        return self.examples.shape

    def __len__(self) -> int:
        return len(self.examples)

    def ids(self, index: Sequence[int]) -> list[str]:
        return [self.examples.ids[i] for i in index]

    def spans(self, seed: int, spans: Iterable[tuple[int, int]]) -> Iterator[Rows]:
        held = {name: column(self.examples, name) for name in self.columns}
        for first, count in spans:
            index = order(len(self), seed, first, count)
            yield Rows(index, self.examples.images[index], {name: values[index] for name, values in held.items()})

    def moments(self) -> tuple[Tensor, float]:
        """The mean image and the root mean square around it, of all rows; few are held as numbers at a time."""
        import torch

        n, parts = len(self), [range(first, min(first + AT_ONCE, len(self))) for first in range(0, len(self), AT_ONCE)]
        centre = torch.stack([self.examples.x(part).double().sum(0) for part in parts]).sum(0) / n
        square = sum(float((self.examples.x(part).double() - centre).square().sum()) for part in parts)
        return centre.float(), (square / (n * centre.numel())) ** 0.5


def column(examples: Examples, name: str) -> np.ndarray:
    """A column (N, *) of examples by the name that readers have for it. Raises ValueError: they have none such."""
    known = {LABEL: examples.label} | {OPERATOR + name: values for name, values in examples.operator.items()}
    if name == CAPTION and examples.caption:
        return np.array(examples.caption, object)
    if name not in known:
        names = sorted([*known, *[CAPTION] * bool(examples.caption)])
        raise ValueError(f"The set has no column {name!r}; it has {', '.join(names)}.")
    return known[name]


def order(n: int, seed: int, start: int, count: int) -> np.ndarray:
    """The int64 indices in [0, n) of the images number start .. start + count − 1 of the stream; time O(count)."""
    if n < 1:
        raise ValueError("There are no examples to read; check that the data set is not empty.")
    if start < 0 or count < 0:
        raise ValueError(f"start={start} and count={count} must not be negative.")
    out = np.empty(count, dtype=np.int64)
    done = 0
    while done < count:
        epoch, at = divmod(start + done, n)
        if n > LARGE:
            part = Permutation(n, Key(seed).fold("order", epoch))(np.arange(at, min(at + count - done, n)))
        else:
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
    first, share = _share(batch, start, rank, world)
    order(len(examples), seed, start, 0)  # its complaints are due now, not at the first batch
    return (order(len(examples), seed, first + k * batch, share) for k in numbers())


def _share(batch: int, start: int, rank: int, world: int) -> tuple[int, int]:
    """(first position, how many) of this rank's share of the global batch that starts at `start`."""
    if world < 1 or not 0 <= rank < world:
        raise ValueError(f"rank={rank} must be one of the {world} ranks 0..{world - 1} of the world.")
    if batch < 1 or batch % world:
        raise ValueError(f"batch={batch} must be a positive multiple of the {world} workers that share it.")
    if start < 0:
        raise ValueError(f"start={start} must not be negative.")
    return start + rank * (batch // world), batch // world


@lru_cache(maxsize=32)  # a batch may reach over the end of its epoch, and several sets may be read in turn
def _permutation(n: int, seed: int, epoch: int) -> np.ndarray:
    words = Key(seed).fold("order", epoch).numpy().bit_generator.random_raw(n)
    permutation = np.argsort(words, kind="stable")
    permutation.setflags(write=False)
    return permutation
