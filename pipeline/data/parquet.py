"""Parquet: one file or a tree of them, with a column of encoded images, as Hugging Face and most others publish them.

Only the columns that are needed are read, a few rows at a time and never beyond one row group. Paths inside the data
are not followed. A column that its file says to inflate more than 100 times is refused, as in archives.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.data.images import MAX_BYTES
from pipeline.data.listing import inside, listing, locate, reading, shown, unread
from pipeline.data.shards import METADATA
from pipeline.data.source import Piece, Raw, Source, checked_id, checked_label, spans
from pipeline.data.splits import chosen
from pipeline.data.tars import INFLATION

BATCH = 64  # rows in memory, at most
BATCH_BYTES = 1 << 25  # of them, about
STRUCT = pc.StructFieldOptions("bytes")


@dataclass(frozen=True)
class Parquet(Source):
    """Rows of parquet files under `url`: `image` holds encoded bytes, or Hugging Face's struct of bytes and path.

    `label` (integers) and `id` (texts or integers) name columns that must be there; None means the column of that name
    where there is one, "" none at all. Without ids a row is "<path without suffix>-<row in file>". `caption` (texts),
    `mask` (encoded images or lists of lists, what is seen being white or true) and `sigma` (numbers) name columns that
    are taken too, "" none: `source_of` fills them in where it sees columns of these names. `embedding` (lists of
    numbers, all of one length; null or zeros: none) is taken where it is named.

    `glob` keeps the files whose relative path matches (** crosses folders), `split` those of one split; with neither,
    files of several splits are refused.
    """

    url: str
    image: str = "image"
    label: str | None = None
    id: str | None = None
    caption: str = ""
    mask: str = ""
    sigma: str = ""
    embedding: str = ""
    glob: str = ""
    split: str = ""

    def cut(self) -> Iterator[Piece]:
        """Whole row groups up to a piece's size, larger ones in ranges; every file's schema is checked on the way."""
        rows = 0
        for file in self.files():
            with self._opened(file) as (parquet, columns):
                self._check_sizes(parquet, columns, file)
                groups = [parquet.metadata.row_group(i).num_rows for i in range(parquet.num_row_groups)]
            rows += sum(groups)
            yield from (Piece((file,), start=start, stop=stop) for start, stop in spans(groups))
        if not rows:
            raise ValueError(f"{shown(self.url)} has no rows; give a data set with at least one.")

    def read(self, piece: Piece) -> Iterator[Raw]:
        """The rows start .. stop − 1 of one file."""
        (file,) = piece.files
        stem = str(PurePosixPath(file).with_suffix(""))
        with self._opened(file) as (parquet, columns):
            ends = [0]
            for i in range(parquet.num_row_groups):
                ends.append(ends[-1] + parquet.metadata.row_group(i).num_rows)
            touched = [i for i, end in enumerate(ends[1:]) if ends[i] < piece.stop and end > piece.start]
            if not touched:
                return
            row = ends[touched[0]]
            wanted = list(dict.fromkeys(column for column in columns if column))
            for batch in parquet.iter_batches(_at_once(parquet, touched, wanted), row_groups=touched, columns=wanted):
                low, high = max(piece.start - row, 0), min(piece.stop - row, len(batch))
                if low < high:
                    yield from self._raws(batch.slice(low, high - low), columns, row + low, file, stem)
                row += len(batch)
                if row >= piece.stop:
                    return

    def _check_sizes(self, parquet: pq.ParquetFile, columns: list[str], file: str) -> None:
        for group in range(parquet.num_row_groups):
            for column, packed, size, _ in _chunks(parquet, group, columns):
                if size > MAX_BYTES + INFLATION * packed:
                    raise ValueError(
                        f"Column {column!r} of {shown(file)} inflates from {packed} to {size} bytes; it seems to be a "
                        "bomb, so store it without compression."
                    )

    def _raws(self, batch: pa.RecordBatch, columns: list[str], row: int, file: str, stem: str) -> Iterator[Raw]:
        image = batch.column(columns[0])
        label, key, caption, mask, sigma, embedding = (
            _plain(batch.column(column)) if column else None for column in columns[1:]
        )
        encoded = _plain(image)
        for i in range(len(batch)):
            name = f"row {row + i} of {shown(file)}"
            text, number = f"{stem}-{row + i}", None
            if key is not None:
                if not key[i].is_valid:
                    raise ValueError(f"{name} has no id; set id='' to number the rows.")
                text = checked_id(str(key[i].as_py()), name)
            if label is not None and label[i].is_valid:
                number = checked_label(label[i].as_py(), name)
            said = None if caption is None else caption[i].as_py() or ""
            damage = {
                key: column[i].as_py() for key, column in (("mask", mask), ("sigma", sigma)) if column is not None
            }
            vector = None if embedding is None else embedding[i].as_py()
            yield Raw(text, encoded[i].as_py() or b"", number, name, said, damage, vector)

    def noticed(self) -> Parquet:
        """This, with the columns that hold captions, masks and sigmas by name and by type in the first file.

        Where none is called "image", the only one that can hold images is taken.
        """
        schema = self.schema()
        usual = {"caption": ("caption", "text"), "mask": ("mask",), "sigma": ("sigma",)}
        found = {
            field: next((n for n in names if n in schema.names and _usable(schema.field(n).type, field)), "")
            for field, names in usual.items()
        }
        if self.image == "image" and "image" not in schema.names:
            able = [field.name for field in schema if field.name != "mask" and _usable(field.type, "image")]
            if len(able) > 1:
                raise ValueError(
                    f"{shown(self.url)} has the columns {shown(', '.join(schema.names))}, of which "
                    f"{shown(' and '.join(able))} may be the images: choose one with --image-column."
                )
            found["image"] = able[0] if able else "image"
        return replace(self, **found)

    def schema(self) -> pa.Schema:
        """The columns of the first file."""
        with self._file(self.files()[0]) as parquet:
            return parquet.schema_arrow

    def values(self, file: str, column: str) -> Iterator[Any]:
        """The values of any small column of one file; none where it has no such column."""
        with self._opened(file) as (parquet, _):
            if column in parquet.schema_arrow.names:
                for batch in parquet.iter_batches(1 << 14, columns=[column]):
                    yield from batch.column(0).to_pylist()

    def unread(self) -> dict[str, int]:
        """What is no parquet in the folder, where it is one and all of it was asked for."""
        fs, root = locate(self.url)
        return unread(fs, root, _is_parquet) if fs.isdir(root) and not self.glob else {}

    def files(self) -> list[str]:
        """Paths relative to the folder named by `url`, or to the folder of the one file that it names."""
        fs, root = locate(self.url)
        if not fs.isdir(root):
            return chosen([PurePosixPath(root).name], self.url, self.glob, self.split)
        files = listing(fs, root, _is_parquet)
        if not files:
            raise ValueError(f"{shown(self.url)} has no .parquet files; name a folder that has some.")
        return chosen(files, self.url, self.glob, self.split)

    @contextmanager
    def _opened(self, file: str) -> Iterator[tuple[pq.ParquetFile, list[str]]]:
        """The open file and the names of its image, label and id columns, "" for one that is not used."""
        with self._file(file) as parquet:
            yield parquet, self._columns(parquet.schema_arrow, file)

    @contextmanager
    def _file(self, file: str) -> Iterator[pq.ParquetFile]:
        fs, root = locate(self.url)
        path = inside(fs, root, file) if fs.isdir(root) else root
        try:
            with (
                reading(fs, path) as handle,
                pq.ParquetFile(handle, pre_buffer=False, buffer_size=1 << 20) as parquet,
            ):
                yield parquet
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # the disk or the network, not the file: worth another try
            reason = " ".join(str(error).split()).rstrip(".")
            raise ValueError(f"{shown(file)} in {shown(self.url)} is not a sound parquet file: {reason}.") from error

    def _columns(self, schema: pa.Schema, file: str) -> list[str]:
        if METADATA in (schema.metadata or {}):
            raise ValueError(f"{shown(file)} is a kintsugi shard already; give it to the next stage as it is.")
        names = [self.image]
        for named, usual in ((self.label, "label"), (self.id, "id")):
            names.append((usual if usual in schema.names else "") if named is None else named)
        names += [self.caption, self.mask, self.sigma, self.embedding]
        for field, column in zip(KINDS, names):
            if column and schema.names.count(column) != 1:
                near = difflib.get_close_matches(column, schema.names, 1)
                hint = f"did you mean {near[0]!r}" if near else "none is near"
                raise ValueError(
                    f"{shown(file)} does not have one column {column!r}; it has {', '.join(schema.names)} ({hint}); "
                    f"{_how(field)}."
                )
            if column and not _usable(schema.field(column).type, field):
                raise ValueError(
                    f"Column {column!r} of {shown(file)} holds {schema.field(column).type}, not {KINDS[field]}; "
                    f"{_how(field)}."
                )
        return names


KINDS = {
    "image": "encoded images",
    "label": "integers",
    "id": "texts or integers",
    "caption": "texts",
    "mask": "encoded images or lists of lists",
    "sigma": "numbers",
    "embedding": "lists of numbers",
}


def _how(field: str) -> str:
    return f"set {field}=<column>" + f", or --{field}-column" * (field in ("image", "label", "caption", "embedding"))


def _chunks(parquet: pq.ParquetFile, group: int, columns: list[str]) -> Iterator[tuple[str, int, int, bool]]:
    """(name, bytes stored, bytes once inflated, has it a dictionary?) of these columns in a row group."""
    told = parquet.metadata.row_group(group)
    for chunk in map(told.column, range(told.num_columns)):
        name = chunk.path_in_schema.split(".")[0]
        if name in columns:
            yield name, chunk.total_compressed_size, chunk.total_uncompressed_size, chunk.has_dictionary_page


def _at_once(parquet: pq.ParquetFile, groups: list[int], columns: list[str]) -> int:
    """How many rows to read at once: with a dictionary, each may be as large as all that is stored."""
    most = max(
        size if repeated else size // max(1, parquet.metadata.row_group(group).num_rows)
        for group in groups
        for _, _, size, repeated in _chunks(parquet, group, columns)
    )
    return max(1, min(BATCH, BATCH_BYTES // max(1, most)))


def _is_parquet(name: str) -> bool:
    return name.lower().endswith(".parquet")


def _plain(column: pa.Array) -> pa.Array:
    """The bytes of Hugging Face's images, any other column as it is."""
    return pc.call_function("struct_field", [column], STRUCT) if pa.types.is_struct(column.type) else column


def _usable(kind: pa.DataType, field: str) -> bool:
    """Whether a column of this type can serve as this field."""
    if field in ("image", "mask") and pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _usable(kind.field("bytes").type, field)
    tests = {
        "image": (pa.types.is_binary, pa.types.is_large_binary),
        "label": (pa.types.is_integer,),
        "id": (pa.types.is_integer, pa.types.is_string, pa.types.is_large_string),
        "caption": (pa.types.is_string, pa.types.is_large_string),
        "mask": (pa.types.is_binary, pa.types.is_large_binary, _is_grid),
        "sigma": (pa.types.is_floating, pa.types.is_integer),
        "embedding": (_is_vector,),
    }
    return any(test(kind) for test in tests[field])


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _is_grid(kind: pa.DataType) -> bool:
    return _is_list(kind) and _is_list(kind.value_type)


def _is_vector(kind: pa.DataType) -> bool:
    return _is_list(kind) and (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type))
