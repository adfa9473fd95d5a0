"""Ids: those of one shard without its images, and shards taken together for passes over all ids of a set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.data.manifest import name

# Applies a picklable function to each item, here or on a cluster, and gives the results in any order.
Sweep = Callable[[Callable[[Any], Any], Sequence[Any]], Iterator[Any]]
FEWEST, GROUPS = 64, 1024  # shards that are looked at together, at least; how many such groups, about, at most


def read_ids(file: IO[bytes], called: str) -> list[str]:
    """The ids of a shard in its order; of an open parquet file only that column is read.

    Raises ValueError about `called` where it has none.
    """
    try:
        with pq.ParquetFile(file) as parquet:
            column = parquet.read(columns=["id"])["id"]
    except (pa.ArrowException, KeyError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ValueError(f"{called} is not a shard whose ids can be read: {reason}.") from error
    if column.type not in (pa.string(), pa.large_string()) or column.null_count:
        raise ValueError(f"{called} is not a shard whose ids can be read: they are {column.type}, or some are missing.")
    return column.to_pylist()


def ids_of(open_file: Callable[[str], IO[bytes]], shards: Sequence[int]) -> Iterator[list[str]]:
    """The ids of each of these shards; `open_file` leads from a name to an open file (`Place.open`)."""
    for i in shards:
        with open_file(name(i)) as file:
            yield read_ids(file, name(i))


def groups(shards: np.ndarray, width: int = 0) -> list[tuple[int, ...]]:
    """Runs of `width` shards; 0: as many as make few enough runs that each may answer with some hundred kilobytes."""
    width = width or max(FEWEST, -(-len(shards) // GROUPS))
    return [tuple(shards[at : at + width].tolist()) for at in range(0, len(shards), width)]
