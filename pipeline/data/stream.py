"""Streamed rows: packed shards of any number, read in a shuffled order that needs no list of what is in them.

The set's rows are cut into blocks of 256 neighbours, as parquet files have row groups. Epoch e takes the blocks in the
order of a permutation keyed by (seed, e), the partial block last, and every `window` consecutive blocks of that order
are shuffled inside, row by row, by a permutation keyed by (seed, e, window). So which row has a position is a closed
formula: any position is found in O(1), for any number of workers, and two windows of blocks are all that is in memory,
the one being read from and the next, which threads fetch meanwhile. What that promises less than a full shuffle: rows
of one block, neighbours when the set was made, are always seen within a window of each other. Each worker reads all of
a window and keeps its share of the rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.data.ids import ids_of
from pipeline.data.listing import shown
from pipeline.data.manifest import Manifest, name
from pipeline.data.permute import Permutation
from pipeline.data.reader import CAPTION, LABEL, Reader, Rows
from pipeline.data.shards import GROUP, MALFORMED, MAX_BYTES, _forms, _refusal, _unpack
from pipeline.keys import Key
from pipeline.place import Place

THREADS = 4  # that fetch a window's blocks: from a disk two would do, from far away they wait
WIDEST = 32  # blocks in a window, if that many fit


@dataclass(frozen=True)
class Order:
    """The order of n rows in blocks of `block` rows, shuffled within windows of `window` blocks."""

    n: int
    block: int = GROUP
    window: int = WIDEST

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ValueError("There are no examples to read; check that the data set is not empty.")
        if self.block < 1 or self.window < 1:
            raise ValueError(f"block={self.block} and window={self.window} must be positive.")

    def at(self, position: int) -> tuple[int, int, int]:
        """(epoch, window, place within the window) of a position of the endless order."""
        if position < 0:
            raise ValueError(f"start={position} must not be negative.")
        epoch, rest = divmod(position, self.n)
        return epoch, *divmod(rest, self.block * self.window)

    def size(self, window: int) -> int:
        """How many rows a window has; all but an epoch's last one have as many."""
        return min(self.block * self.window, self.n - window * self.block * self.window)

    def blocks(self, seed: int, epoch: int, window: int) -> np.ndarray:
        """The numbers int64 (<= window,) of the blocks in a window; block b is rows b block .. (b + 1) block − 1."""
        whole = self.n // self.block
        slots = np.arange(window * self.window, min((window + 1) * self.window, -(-self.n // self.block)))
        inner = slots < whole
        if inner.any():
            slots[inner] = Permutation(whole, Key(seed).fold("blocks", epoch))(slots[inner])
        return slots

    def within(self, seed: int, epoch: int, window: int) -> Permutation:
        """Place within a window -> row of its blocks, one after the other."""
        return Permutation(self.size(window), Key(seed).fold("window", epoch, window))

    def rows(self, seed: int, start: int, count: int) -> np.ndarray:
        """The rows int64 (count,) at positions start .. start + count − 1; time O(count)."""
        out, done = np.empty(count, dtype=np.int64), 0
        while done < count:
            epoch, window, place = self.at(start + done)
            places = np.arange(place, min(place + count - done, self.size(window)))
            block, inside = np.divmod(self.within(seed, epoch, window)(places), self.block)
            out[done : done + len(places)] = self.blocks(seed, epoch, window)[block] * self.block + inside
            done += len(places)
        return out


@dataclass(frozen=True, eq=False)
class Streamed(Reader):
    """The rows of the shards under `place`, as far as they are needed and no further.

    Args:
        place: the folder that the manifest's shards are in, at any URL.
        manifest: which rows are in which shard.
        columns: what of "label", "caption" and "operator.<name>" comes along.
        memory: bytes that may be held by two windows of images; a block of each is held in any case, and the columns.

    Reading raises ValueError, in one sentence that names the file, where a shard is missing, damaged or another's.
    """

    place: Place
    manifest: Manifest
    columns: tuple[str, ...] = ()
    memory: int = 1 << 30

    @property
    def shape(self) -> tuple[int, ...]:
        return self.manifest.shape

    def __len__(self) -> int:
        return self.manifest.rows

    def ids(self, index: Sequence[int]) -> list[str]:
        found = zip(*self.manifest.shard_of(np.array(index)), strict=True)
        return [next(ids_of(self.place.open, [int(shard)]))[row] for shard, row in found]

    @cached_property
    def order(self) -> Order:
        """The order of the rows: a function of their number, their size and `memory`."""
        block = GROUP * math.prod(self.shape) * np.dtype(self.manifest.dtype).itemsize
        return Order(len(self), GROUP, max(1, min(WIDEST, self.memory // (2 * block))))

    @cached_property
    def forms(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """The shape of a row and the dtype of "image" and of each of `columns`, as the first shard has them."""
        with self._opened(int(self.manifest.filled()[0])) as file:
            return self._forms(file)

    def fill(self, held: dict[str, np.ndarray], shard: int, pieces: list[tuple[int, int, int]]) -> None:
        """Copy rows of a shard, for each (first, count, to), to held[...][to : to + count]."""
        with self._opened(shard) as file:
            forms = self._forms(file)
            if forms != self.forms:
                raise ValueError("its columns are not like those of the set's first shard")
            if file.metadata.num_rows != self.manifest.count(shard):
                raise ValueError(f"it has {file.metadata.num_rows} rows and {self.manifest.count(shard)} were promised")
            sizes = [file.metadata.row_group(g).num_rows for g in range(file.metadata.num_row_groups)]
            ends = np.cumsum(sizes)
            each = sum(math.prod(shape) * dtype.itemsize for shape, dtype in forms.values())
            for first, count, to in pieces:
                low, high = np.searchsorted(ends, [first, first + count - 1], side="right").tolist()
                if sum(sizes[low : high + 1]) * each > MAX_BYTES:
                    raise ValueError(f"its row groups {low}..{high} would take more than {MAX_BYTES >> 30} GiB")
                table = file.read_row_groups(list(range(low, high + 1)), columns=list(forms), use_threads=False)
                skip = first - (int(ends[low - 1]) if low else 0)
                for column, form in forms.items():
                    held[column][to : to + count] = _values(table[column], column, *form)[skip : skip + count]

    @contextmanager
    def _opened(self, shard: int) -> Iterator[pq.ParquetFile]:
        path, local = self.place.at(name(shard)), self.place.is_local
        far = {} if local else {"filesystem": self.place.fs, "pre_buffer": True}
        try:
            with pq.ParquetFile(path, page_checksum_verification=True, **far) as file:
                yield file
        except FileNotFoundError as error:
            raise ValueError(f"{shown(path)} is missing; ingest the images again or bring the file back.") from error
        except (pa.ArrowException, OSError, *MALFORMED) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # the disk or the network, not the file: worth another try
            raise _refusal(path, error) from error

    def _forms(self, file: pq.ParquetFile) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        forms = _columns(file)
        if forms["image"] != (self.shape, np.dtype(self.manifest.dtype)):
            shape, dtype = forms["image"]
            raise ValueError(f"its images are {dtype} {shape}, not {self.manifest.dtype} {self.shape}")
        if lacking := set(self.columns) - set(forms):
            raise ValueError(f"it has no column {min(lacking)!r}, only {', '.join(sorted(forms))}")
        return {column: forms[column] for column in ("image", *self.columns)}

    def spans(self, seed: int, spans: Iterable[tuple[int, int]]) -> Iterator[Rows]:
        order = self.order  # its complaints are due now, not at the first batch

        def read() -> Iterator[Rows]:
            with _Windows(self, seed) as windows:
                for first, count in spans:
                    parts = []
                    while True:
                        epoch, window, place = order.at(first)
                        parts.append(windows.get(epoch, window).take(place, count))
                        first, count = first + len(parts[-1]), count - len(parts[-1])
                        if not count:
                            break
                    yield joined(parts)

        return read()


def column_of(file: pq.ParquetFile, name: str) -> np.ndarray:
    """One column (N, *) of a shard. Raises ValueError: it has none of that name."""
    forms = _columns(file)
    if name not in forms:
        raise ValueError(f"it has no column {name!r}, only {', '.join(sorted(forms))}")
    return _values(file.read(columns=[name])[name], name, *forms[name])


def _columns(file: pq.ParquetFile) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """The shape of a row and the dtype of every column but the ids."""
    forms = _forms(file.schema_arrow) | {LABEL: ((), np.dtype(np.int64))}
    return forms | ({CAPTION: ((), np.dtype(object))} if CAPTION in file.schema_arrow.names else {})


def _values(column: pa.ChunkedArray, name: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    if name == LABEL:
        return column.fill_null(-1).to_numpy()
    if column.null_count:
        raise ValueError(f"its column {name!r} has rows without a value")
    if name == CAPTION:
        return np.array(column.to_pylist(), object)
    values = _unpack(column, name, shape, dtype)
    if dtype.kind == "f" and not np.isfinite(values).all():
        raise ValueError(f"its column {name!r} has values that are not finite")
    return values


def joined(parts: list[Rows]) -> Rows:
    """The rows of all parts, one after the other."""
    if len(parts) == 1:
        return parts[0]
    columns = {name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns}
    index, images = (np.concatenate([getattr(part, name) for part in parts]) for name in ("index", "images"))
    return Rows(index, images, columns)


@dataclass
class _Window:
    """A window in memory, or on its way there: its rows block by block, and the order in which they are taken."""

    blocks: np.ndarray
    block: int
    order: Future[np.ndarray]
    held: dict[str, np.ndarray]
    pending: list[Future[None]]

    def take(self, place: int, count: int) -> Rows:
        """Up to `count` rows from a place on: fewer where the window ends."""
        for piece in self.pending:
            piece.result()
        self.pending = []
        at = self.order.result()[place : place + count]
        block, inside = np.divmod(at, self.block)
        taken = {name: column[at] for name, column in self.held.items()}
        return Rows(self.blocks[block] * self.block + inside, taken.pop("image"), taken)


class _Windows:
    """The window that was asked for last and the one after it, which is fetched while batches are taken."""

    def __init__(self, of: Streamed, seed: int):
        self.of, self.seed = of, seed
        self.pool = ThreadPoolExecutor(THREADS, "kintsugi-read")
        self.held: dict[tuple[int, int], _Window] = {}

    def __enter__(self) -> _Windows:
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown(wait=False, cancel_futures=True)

    def get(self, epoch: int, window: int) -> _Window:
        here = (epoch, window)
        if here not in self.held:
            self.held = {here: self._fetch(*here)}  # alone: a first batch waits for no more than it needs
        elif next(reversed(self.held)) == here:
            order = self.of.order
            end = (window + 1) * order.window * order.block >= order.n
            after = (epoch + 1, 0) if end else (epoch, window + 1)
            self.held = {here: self.held[here], after: self._fetch(*after)}
        return self.held[here]

    def _fetch(self, epoch: int, window: int) -> _Window:
        of, order = self.of, self.of.order
        blocks, size = order.blocks(self.seed, epoch, window), order.size(window)
        held = {column: np.empty((size, *shape), dtype) for column, (shape, dtype) in of.forms.items()}
        wanted: dict[int, list[tuple[int, int, int]]] = {}
        for j, first in enumerate((blocks * order.block).tolist()):
            end = min(first + order.block, order.n)
            (low, high), (row, _) = of.manifest.shard_of(np.array([first, end - 1]))
            to = j * order.block
            for shard in range(low, high + 1):
                count = min(of.manifest.count(shard) - int(row), end - first)
                if count:
                    wanted.setdefault(shard, []).append((int(row), count, to))
                first, to, row = first + count, to + count, 0
        places = self.pool.submit(lambda: order.within(self.seed, epoch, window)(np.arange(size)))
        pending = [self.pool.submit(of.fill, held, shard, pieces) for shard, pieces in wanted.items()]
        return _Window(blocks, order.block, places, held, pending)
