"""Labels of shards without their images, and what is wrong with them for a network of so many classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.data.manifest import name
from pipeline.data.reader import LABEL


def read_labels(file: IO[bytes], called: str) -> np.ndarray:
    """The labels (N,) int64 of a shard in its order, -1 where there is none; only that column is read.

    Raises ValueError about `called` where they cannot be read.
    """
    try:
        with pq.ParquetFile(file) as parquet:
            column = parquet.read(columns=[LABEL])[LABEL]
        if column.type != pa.int64():
            raise ValueError(f"they are {column.type}, not int64")
        return column.fill_null(-1).to_numpy()
    except (pa.ArrowException, KeyError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ValueError(f"{called} is not a shard whose labels can be read: {reason}.") from error


def unfit(open_file: Callable[[str], IO[bytes]], classes: int, shards: Sequence[int]) -> tuple[int, int, int]:
    """(shard, row, label) of the first row in `shards` whose label is none of 0 .. classes − 1; (-1, -1, -1): none."""
    for i in shards:
        with open_file(name(i)) as file:
            labels = read_labels(file, name(i))
        wrong = np.flatnonzero((labels < 0) | (labels >= classes))
        if len(wrong):
            return i, int(wrong[0]), int(labels[wrong[0]])
    return -1, -1, -1
