"""Manifest: how many rows each shard of a set holds, so that any row of billions is found without opening a shard.

Beside a small `dataset.json` stands `shards.npy`, int64 (S,): ends[i] = rows in shards 0..i. Row r lies in the first
shard whose end is above r, one binary search away; eight bytes a shard are all that is ever held, or mapped. A shard
without rows repeats its neighbour's end and has no file.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any, Self

import numpy as np

from pipeline.place import Place

DATASET, SHARDS = "dataset.json", "shards.npy"
MAX_JSON = 1 << 24  # bytes of dataset.json
OWN = ("rows", "shape", "dtype", "shards")
STEP = 1 << 20  # ends looked at in one go


def name(i: int) -> str:
    """The file of shard i."""
    return f"shards/{i:06d}.parquet"


@dataclass(frozen=True, eq=False)
class Manifest:
    """A set of `rows` images of one `shape` (without the batch) and `dtype` in len(ends) shards.

    `ends` is int64 (S,), perhaps mapped from a file; `more` is whatever else `dataset.json` says.

    Raises ValueError where they contradict each other.
    """

    rows: int
    shape: tuple[int, ...]
    dtype: str
    ends: np.ndarray
    more: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(self.shape))
        if not self.shape or not all(type(n) is int and n > 0 for n in self.shape):
            raise ValueError(f"its shape {self.shape!r} is not made of positive whole numbers")
        if self.dtype not in ("uint8", "float16"):
            raise ValueError(f"its images are {self.dtype!r}, neither uint8 nor float16")
        if self.ends.ndim != 1 or self.ends.dtype != np.int64:
            raise ValueError(f"its ends are {self.ends.dtype} {self.ends.shape}, not one axis of int64")
        if taken := sorted(set(OWN) & set(self.more)):
            raise ValueError(f"{taken[0]!r} cannot be said twice; leave it out of `more`")
        last = 0
        for start in range(0, len(self.ends), STEP):
            part = self.ends[start : start + STEP]
            if part[0] < last or (np.diff(part) < 0).any():
                raise ValueError(f"the ends of its shards {start}..{start + len(part) - 1} are not ascending from 0")
            last = int(part[-1])
        if type(self.rows) is not int or self.rows != last:
            raise ValueError(f"its {len(self.ends)} shards hold {last} rows and it says {self.rows!r}")

    @classmethod
    def of(
        cls, counts: Sequence[int] | np.ndarray, shape: Sequence[int], dtype: str, more: Mapping[str, Any] | None = None
    ) -> Self:
        """The manifest of shards with `counts[i]` rows each."""
        each = np.asarray(counts, dtype=np.int64)
        if (each < 0).any():
            raise ValueError(f"shard {int(np.argmax(each < 0))} has fewer than 0 rows")
        ends = np.cumsum(each)
        return cls(int(ends[-1]) if len(ends) else 0, tuple(shape), dtype, ends, dict(more or {}))

    @classmethod
    def open(cls, file: Callable[[str], str | os.PathLike[str] | IO[bytes]]) -> Self:
        """The manifest in `dataset.json` and `shards.npy`, read as if a stranger had written them.

        Args:
            file: leads from one of these names to a path on this machine, which is mapped rather than read, or to a
                binary file, which is read (`Artifact.file`, `Place.open`).

        Raises:
            ValueError: they are damaged, or written by an earlier version.
        """
        try:
            said = json.loads(_bytes(_opened(file(DATASET))))
            shards = said["shards"]
            if isinstance(shards, list):
                raise ValueError("an earlier version wrote it, so ingest the images again")
            ends = _ends(file(SHARDS))
            if type(shards) is not int or shards != len(ends):
                raise ValueError(f"it says {shards!r} shards and {SHARDS} has {len(ends)}")
            more = {key: value for key, value in said.items() if key not in OWN}
            return cls(said["rows"], tuple(said["shape"]), said["dtype"], ends, more)
        except (ValueError, TypeError, KeyError, RecursionError, FileNotFoundError) as error:
            reason = f"it lacks {error}" if isinstance(error, KeyError) else " ".join(str(error).split()).rstrip(".")
            raise ValueError(f"{DATASET} and {SHARDS} do not describe a set that can be read: {reason}.") from error

    def write(self, out: Place) -> None:
        """Write both files; equal manifests give equal bytes."""
        packed = io.BytesIO()
        np.lib.format.write_array(packed, np.ascontiguousarray(self.ends, dtype="<i8"), (1, 0), allow_pickle=False)
        out.write(SHARDS, packed.getvalue())
        own = dict(zip(OWN, (self.rows, self.shape, self.dtype, len(self.ends)), strict=True))
        out.write(DATASET, json.dumps(own | self.more))

    def shard_of(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(shard, row within it) of rows int64 (*,), in [0, rows); time O(log S) each.

        Raises ValueError where a row is not one of the set's.
        """
        rows = np.asarray(rows, dtype=np.int64)
        if rows.size and not 0 <= rows.min() <= rows.max() < self.rows:
            raise ValueError(f"rows {rows.min()}..{rows.max()} are not all among the set's 0..{self.rows - 1}")
        shard = np.searchsorted(self.ends, rows, side="right")
        return shard, rows - np.where(shard > 0, self.ends[shard - 1], 0)

    def count(self, i: int) -> int:
        """How many rows shard i has; it has a file when there are any."""
        return int(self.ends[i]) - (int(self.ends[i - 1]) if i else 0)

    def filled(self) -> np.ndarray:
        """The numbers of the shards that have rows, hence a file, ascending: int64 (*,)."""
        return np.flatnonzero(np.diff(self.ends, prepend=np.int64(0)))


def _opened(source: str | os.PathLike[str] | IO[bytes]) -> IO[bytes]:
    return open(source, "rb") if isinstance(source, str | os.PathLike) else source


def _bytes(file: IO[bytes]) -> bytes:
    with file:
        data = file.read(MAX_JSON + 1)
    if len(data) > MAX_JSON:
        raise ValueError(f"{DATASET} has more than {MAX_JSON} bytes")
    return data


def _ends(source: str | os.PathLike[str] | IO[bytes]) -> np.ndarray:
    """The array of `shards.npy`, after its header and the file's length were found to agree."""
    with _opened(source) as file:
        if np.lib.format.read_magic(file) != (1, 0):  # type: ignore[arg-type]
            raise ValueError(f"{SHARDS} is not in version 1.0 of its format")
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)  # type: ignore[arg-type]
        if dtype != np.dtype("<i8") or len(shape) != 1:
            raise ValueError(f"{SHARDS} holds {dtype} {shape}, not one axis of int64")
        start, size = file.tell(), file.seek(0, os.SEEK_END)
        if size != start + 8 * shape[0]:
            raise ValueError(f"{SHARDS} has {size} bytes where its {shape[0]} shards call for {start + 8 * shape[0]}")
        if isinstance(source, str | os.PathLike) and shape[0]:
            return np.memmap(source, dtype="<i8", mode="r", offset=start, shape=shape)
        file.seek(start)
        return np.frombuffer(file.read(), dtype="<i8")
