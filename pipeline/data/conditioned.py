"""What shards tell of their images, without the images: how many are told nothing, and what no network can be told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.backbones.condition import Condition, Labels
from pipeline.data.manifest import name
from pipeline.data.reader import LABEL
from pipeline.data.stream import column_of


@dataclass(frozen=True)
class Found:
    """Of some rows: how many there are, how many are told nothing, and the sum of squares of the others' conditions.

    `wrong` is (shard, row, label) of the first whose label is beyond the network's classes.
    """

    rows: int = 0
    silent: int = 0
    squares: float = 0.0
    wrong: tuple[int, int, int] | None = None


def read_column(file: IO[bytes], called: str, column: str = LABEL) -> np.ndarray:
    """One column (N, *) of a shard in its order, the only one that is read; labels are -1 where there is none.

    Raises ValueError about `called` where it cannot be read.
    """
    try:
        with pq.ParquetFile(file) as parquet:
            return column_of(parquet, column)
    except (pa.ArrowException, KeyError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ValueError(f"{called} is not a shard whose {column} can be read: {reason}.") from error


def look(open_file: Callable[[str], IO[bytes]], condition: Condition, shards: Sequence[int]) -> Found:
    """What the rows of `shards` tell a network of this condition; the first wrong label ends the search.

    Raises ValueError where a shard has nothing that it takes, or embeddings of another size.
    """
    rows = silent = 0
    squares = 0.0
    for i in shards:
        with open_file(name(i)) as file:
            values = read_column(file, name(i), condition.column)
        if isinstance(condition, Labels) and (wrong := np.flatnonzero(values >= condition.classes)).size:
            return Found(rows, silent, squares, (i, int(wrong[0]), int(values[wrong[0]])))
        cond = condition.told(values)
        rows, silent = rows + len(cond), silent + int(condition.untold(cond).sum())
        squares += float(cond.double().square().sum())
    return Found(rows, silent, squares)
