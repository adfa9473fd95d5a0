"""Shards: examples as an Arrow table and as one parquet file, read back as if a stranger had written it.

The `image` column and every `operator.<name>` column hold the raw little-endian C-order bytes of one array a row;
its shape and dtype stand once, as JSON, in the schema's metadata. Raw bytes read twice as fast as Arrow's fixed-shape
tensors (apache/arrow#34510), and both directions move one buffer per column, without a loop over rows. Captions, where
there are any, are one more column of texts; without them nothing tells that there could have been.
"""

from __future__ import annotations

import json
import math
import os
import re
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.core import url_to_fs

from pipeline.data.listing import shown
from pipeline.data.records import Examples

VERSION = 1
GROUP = 256  # rows in a row group, the unit of reading: neighbours, of which a shuffled batch should have few
MAX_BYTES = 1 << 32  # of arrays in one shard: a few kilobytes of parquet can claim terabytes
METADATA = b"kintsugi"
PREFIX = "operator."
MALFORMED = (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError)  # what wrong metadata raises


def to_table(examples: Examples) -> pa.Table:
    """The Arrow table of these examples, the inverse of `from_table`: id, image, label (null = none), operator.*."""
    (_, shape, image), *operators = examples.form
    layout = {
        "kintsugi.rows": VERSION,
        "shape": shape,
        "dtype": np.dtype(image).name,
        "operator": {name: {"shape": shape, "dtype": dtype} for name, shape, dtype in operators},
    }
    columns: dict[str, Any] = {"id": pa.array(examples.ids, pa.string()), "image": _pack(examples.images)}
    columns["label"] = pa.array(examples.label, pa.int64(), mask=examples.label == -1)
    if examples.caption:
        layout["caption"] = True
        columns["caption"] = pa.array(examples.caption, pa.string())
    for name in sorted(examples.operator):
        columns[PREFIX + name] = _pack(examples.operator[name])
    return pa.table(columns).replace_schema_metadata({METADATA: json.dumps(layout, sort_keys=True)})


def from_table(table: pa.Table, name: str = "this table") -> Examples:
    """The examples of a table that `to_table` made; anything else is a ValueError in one sentence about `name`."""
    try:
        return _examples(table)
    except (pa.ArrowException, *MALFORMED) as error:
        raise _refusal(name, error) from error


def write_shard(path_or_file: str | os.PathLike[str] | IO[bytes], examples: Examples) -> None:
    """Writes a parquet file (path, any fsspec URL, or a binary file open for writing); equal examples, equal bytes.

    LZ4 costs nothing to read; zstd saves 4% more of photographs' pixels and takes three times as long.
    """
    if isinstance(path_or_file, str | os.PathLike):
        fs, path = url_to_fs(os.fspath(path_or_file))
        with fs.open(path, "wb") as file:
            return write_shard(file, examples)
    pq.write_table(
        to_table(examples),
        path_or_file,
        row_group_size=GROUP,
        compression="lz4",
        use_dictionary=False,
        write_statistics=["id", "label"],  # type: ignore[arg-type]  # a list is documented; the stub knows bools only
    )


def read_shard(path_or_file: str | os.PathLike[str] | IO[bytes], name: str = "") -> Examples:
    """The examples of one shard (path, any fsspec URL, or a binary file); a bad one is a ValueError that names it."""
    if isinstance(path_or_file, str | os.PathLike):
        fs, path = url_to_fs(os.fspath(path_or_file))
        with fs.open(path, "rb") as file:
            return read_shard(file, name or os.fspath(path_or_file))
    name = name or str(getattr(path_or_file, "name", "this file"))
    try:
        with pq.ParquetFile(path_or_file) as parquet:
            rows = parquet.metadata.num_rows
            sizes = [math.prod(shape) * dtype.itemsize for shape, dtype in _forms(parquet.schema_arrow).values()]
            if rows * sum(sizes) > MAX_BYTES:
                raise ValueError(f"its {rows} rows would take more than {MAX_BYTES >> 30} GiB")
            table = parquet.read()
    except (pa.ArrowException, OSError, *MALFORMED) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk or the network, not the file: worth another try
        raise _refusal(name, error) from error
    return from_table(table, name)


def _refusal(name: str, error: Exception) -> ValueError:
    reason = " ".join(str(error).split()).rstrip(".")
    return ValueError(f"{shown(name)} is not a shard that can be read: {reason}.")


def _forms(schema: pa.Schema) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """The shape and dtype of each column of arrays, once the schema is known to be one of ours."""
    text = (schema.metadata or {}).get(METADATA)
    if text is None:
        raise ValueError("its schema carries no kintsugi metadata, so import the data with the ingest stage first")
    layout = json.loads(text)
    if layout["kintsugi.rows"] != VERSION:
        raise ValueError(f"it has row version {layout['kintsugi.rows']!r} and this program reads version {VERSION}")
    if layout["dtype"] not in ("uint8", "float16"):
        raise ValueError(f"its images are {layout['dtype']!r}, neither uint8 nor float16")
    stated = {"image": {"shape": layout["shape"], "dtype": np.dtype(layout["dtype"]).str}}
    stated |= {PREFIX + key: value for key, value in layout["operator"].items()}
    for name, form in stated.items():
        if not re.fullmatch(r"[<|][biuf][1248]", form["dtype"]):
            raise ValueError(f"the dtype {form['dtype']!r} of {name!r} is not one of bools or numbers")
        if not all(isinstance(n, int) and n > 0 for n in form["shape"]):
            raise ValueError(f"the shape {form['shape']!r} of {name!r} is not made of positive numbers")
    kinds = {"id": (pa.string(), pa.large_string()), "label": (pa.int64(),)}
    if layout.get("caption") is True:
        kinds["caption"] = kinds["id"]
    kinds |= dict.fromkeys(stated, (pa.binary(), pa.large_binary()))
    if sorted(schema.names) != sorted(kinds):
        raise ValueError(f"its columns are {sorted(schema.names)} and its metadata calls for {sorted(kinds)}")
    for column in schema:
        if column.type not in kinds[column.name]:
            raise ValueError(f"its column {column.name!r} holds {column.type}, not {kinds[column.name][0]}")
    return {name: (tuple(form["shape"]), np.dtype(form["dtype"])) for name, form in stated.items()}


def _examples(table: pa.Table) -> Examples:
    forms = _forms(table.schema)
    table.validate(full=True)
    texts = [name for name in ("id", "caption") if name in table.column_names]
    for name in (*texts, *forms):
        if table[name].null_count:
            raise ValueError(f"its column {name!r} has rows without a value")
    arrays = {name: _unpack(table[name], name, *form) for name, form in forms.items()}
    label = table["label"].fill_null(-1).to_numpy()
    operator = {name.removeprefix(PREFIX): array for name, array in arrays.items() if name != "image"}
    caption = tuple(table["caption"].to_pylist()) if "caption" in texts else ()
    return Examples(tuple(table["id"].to_pylist()), arrays["image"], label, operator, caption)


def _pack(arrays: np.ndarray) -> pa.ChunkedArray:
    """(N, *) as N binary values that share one buffer; several chunks where 32-bit offsets would overflow."""
    size = arrays.dtype.itemsize * math.prod(arrays.shape[1:])
    little = np.ascontiguousarray(arrays, dtype=arrays.dtype.newbyteorder("<"))
    flat = little.view(np.uint8).reshape(len(arrays), size)
    most = min(GROUP, (2**31 - 1) // size)
    chunks = []
    for part in (flat[start : start + most] for start in range(0, len(flat), most)):
        offsets = pa.py_buffer(np.arange(len(part) + 1, dtype=np.int32) * np.int32(size))
        chunks.append(pa.Array.from_buffers(pa.binary(), len(part), [None, offsets, pa.py_buffer(part)]))
    return pa.chunked_array(chunks, pa.binary())


def _unpack(column: pa.ChunkedArray, name: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """(N, *shape), a copy, after the length of every value was checked against the shape."""
    size = dtype.itemsize * math.prod(shape)
    flat = np.empty((len(column), size), dtype=np.uint8)
    row = 0
    for chunk in column.chunks:
        if not len(chunk):
            continue
        wide = np.int64 if pa.types.is_large_binary(chunk.type) else np.int32
        _, offsets, data = chunk.buffers()
        ends = np.frombuffer(offsets, wide)[chunk.offset : chunk.offset + len(chunk) + 1]
        wrong = np.flatnonzero(np.diff(ends) != size)
        if wrong.size:
            has = int(np.diff(ends)[wrong[0]])
            raise ValueError(f"row {row + int(wrong[0])} of {name!r} has {has} bytes where the shape calls for {size}")
        flat[row : row + len(chunk)] = np.frombuffer(data, np.uint8)[ends[0] : ends[-1]].reshape(-1, size)
        row += len(chunk)
    if dtype.kind == "b" and (flat > 1).any():
        raise ValueError(f"the bools of {name!r} are not all 0 or 1")
    return flat.view(dtype).reshape(len(column), *shape)
