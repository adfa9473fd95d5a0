"""Examples survive every packing, and a shard is believed only as far as it can be checked."""

from __future__ import annotations

import io
import json
import tracemalloc

import hypothesis.extra.numpy as arrays
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data import shards
from pipeline.data.records import Examples
from pipeline.data.shards import from_table, read_shard, to_table, write_shard

KINDS = ["|b1", "<i4", "<i8", "|u1", "<f2", "<f4", "<f8"]


@st.composite
def examples(draw: st.DrawFn) -> Examples:
    n = draw(st.integers(0, 5))
    column = st.builds(tuple, st.lists(st.integers(1, 3), max_size=3))

    def array(dtype: str, least: int = 0) -> np.ndarray:
        shape = (n, *draw(st.builds(tuple, st.lists(st.integers(1, 3), min_size=1, max_size=3)) if least else column))
        finite = {"allow_nan": False, "allow_infinity": False} if "f" in dtype else {}
        elements = arrays.from_dtype(np.dtype(dtype), **finite)
        return draw(arrays.arrays(dtype, shape, elements=elements))

    ids = draw(
        st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=n, max_size=n, unique=True)
    )
    label = draw(arrays.arrays(np.int64, n, elements=st.integers(-1, 2**63 - 1)))
    names = draw(st.lists(st.sampled_from(["mask", "sigma", "a.b", "_x1"]), unique=True))
    operator = {name: array(draw(st.sampled_from(KINDS))) for name in names}
    return Examples(tuple(ids), array(draw(st.sampled_from(["|u1", "<f2"])), 1), label, operator)


def same(a: Examples, b: Examples) -> bool:
    return (
        a.ids == b.ids
        and a.form == b.form
        and a.images.tobytes() == b.images.tobytes()
        and a.label.tobytes() == b.label.tobytes()
        and all(a.operator[name].tobytes() == b.operator[name].tobytes() for name in a.operator)
    )


def some(n: int = 6, dtype: type = np.uint8) -> Examples:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (n, 3, 4, 5)).astype(dtype)
    operator = {"mask": rng.random((n, 4, 5)) < 0.5, "sigma": rng.random(n).astype(np.float32)}
    return Examples(tuple(f"id-{i}" for i in range(n)), images, np.arange(n) - 1, operator)


@pytest.mark.slow
@settings(deadline=None, max_examples=80)
@given(examples())
def test_a_table_and_a_shard_give_back_what_went_in_and_equal_examples_equal_bytes(a: Examples) -> None:
    one, two = io.BytesIO(), io.BytesIO()
    write_shard(one, a)
    write_shard(two, Examples(a.ids, a.images.copy(), a.label, dict(reversed(a.operator.items()))))
    assert one.getvalue() == two.getvalue()
    assert same(from_table(to_table(a)), a)
    assert same(read_shard(io.BytesIO(one.getvalue())), a)


def test_shards_lie_behind_urls_in_small_row_groups_and_shrink_what_can_be_shrunk() -> None:
    a = Examples(tuple(map(str, range(2500))), np.zeros((2500, 1, 2, 2), np.uint8))
    write_shard("memory://shard/0.parquet", a)
    assert same(read_shard("memory://shard/0.parquet"), a)
    buffer = io.BytesIO()
    write_shard(buffer, a)
    meta = pq.ParquetFile(buffer).metadata
    assert [meta.row_group(i).num_rows for i in range(meta.num_row_groups)] == [256] * 9 + [196]
    assert meta.row_group(0).column(1).total_compressed_size < meta.row_group(0).column(1).total_uncompressed_size / 10


def test_a_table_survives_slicing_chunking_and_large_types() -> None:
    a = some(10)
    table = to_table(a)
    assert same(from_table(table.slice(3, 4)), a.take(range(3, 7)))
    assert same(from_table(pa.concat_tables([table.slice(0, 3), table.slice(3, 0), table.slice(3)])), a)
    large = {pa.binary(): pa.large_binary(), pa.string(): pa.large_string()}
    wide = pa.schema([f.with_type(large.get(f.type, f.type)) for f in table.schema], metadata=table.schema.metadata)
    assert same(from_table(table.cast(wide).slice(2)), a.take(range(2, 10)))


def test_big_endian_columns_come_back_with_the_same_values() -> None:
    back = from_table(
        to_table(Examples(("a", "b"), np.ones((2, 1), np.uint8), operator={"s": np.array([1.5, -2], ">f8")}))
    )
    np.testing.assert_array_equal(back.operator["s"], [1.5, -2])


def test_no_label_is_null_in_the_table_and_minus_one_in_memory() -> None:
    a = some()
    assert to_table(a)["label"].to_pylist() == [None, 0, 1, 2, 3, 4]
    assert (Examples(a.ids, a.images).label == -1).all()


def test_every_byte_survives_the_trip_through_x_and_x_spans_minus_one_to_one() -> None:
    u = np.arange(256, dtype=np.uint8).reshape(256, 1, 1, 1)
    ids = tuple(map(str, range(256)))
    x = Examples(ids, u).x()
    assert x.dtype == torch.float32
    assert x.min() == -1
    assert x.max() == 1
    np.testing.assert_array_equal(Examples.from_x(ids, x, uint8=True).images, u)
    torch.testing.assert_close(x.flatten(), torch.arange(256) / 127.5 - 1, rtol=0, atol=1e-7)


def test_half_precision_keeps_what_leaves_the_unit_range_and_eight_bits_clamp_it() -> None:
    x = torch.tensor([-3.0, -1.004, 0.25, 7.5]).reshape(4, 1, 1, 1)
    half = Examples.from_x("abcd", x)
    assert half.images.dtype == np.float16
    torch.testing.assert_close(half.x(), x, rtol=2**-11, atol=0)
    assert Examples.from_x("abcd", x, uint8=True).images.ravel().tolist() == [0, 0, 159, 255]


def test_take_and_concat_are_inverse_and_x_may_repeat() -> None:
    a = some()
    assert same(Examples.concat([a.take([0, 1]), a.take(range(2, 6))]), a)
    torch.testing.assert_close(a.x([4, 4, 1]), a.x()[[4, 4, 1]], rtol=0, atol=0)
    assert len(a) == 6
    assert a.shape == (3, 4, 5)


def test_examples_that_break_the_rules_are_refused(refused) -> None:
    a = some()
    cases = {
        "'id-0' occurs more than once": lambda: Examples(("id-0",) * 6, a.images),
        "5 rows in 'image'": lambda: Examples(a.ids, a.images[:5]),
        "convert them to uint8": lambda: Examples(a.ids, a.images.astype(np.float32)),
        "'image' has values that are not finite": lambda: Examples(a.ids, np.full((6, 1), np.nan, np.float16)),
        "'sigma' has values": lambda: Examples(a.ids, a.images, operator={"sigma": np.full(6, np.inf)}),
        "'mask' must be": lambda: Examples(a.ids, a.images, operator={"mask": np.array([None] * 6)}),
        "cannot name": lambda: Examples(a.ids, a.images, operator={"a b": np.zeros(6)}),
        "The labels must be": lambda: Examples(a.ids, a.images, np.full(6, -2)),
        "at least one character": lambda: Examples(("", *a.ids[1:]), a.images),
        "without empty axes": lambda: Examples(a.ids, np.zeros((6, 0), np.uint8)),
        "nothing to concatenate": lambda: Examples.concat([]),
        "differ in shape": lambda: Examples.concat([a, Examples(("z",), np.zeros((1, 1), np.uint8))]),
        "half precision": lambda: Examples.from_x("ab", torch.tensor([[1.0], [7e4]])),
        "finite": lambda: Examples.from_x("ab", torch.tensor([[1.0], [float("nan")]]), uint8=True),
    }
    for part, make in cases.items():
        with refused(part):
            make()


def relabelled(table: pa.Table, **changes: object) -> pa.Table:
    layout = json.loads(table.schema.metadata[shards.METADATA])
    return table.replace_schema_metadata({shards.METADATA: json.dumps(layout | changes)})


def replaced(table: pa.Table, name: str, values: list, kind: pa.DataType) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), name, pa.array(values, kind))


def test_a_hostile_shard_is_one_sentence_that_names_the_file(refused, tmp_path) -> None:
    good = to_table(some(3, np.float16))
    size, ids = 3 * 4 * 5 * 2, ["a", "b", "c"]
    nan = np.full(size // 2, np.nan, np.float16).tobytes()
    mask = {"mask": {"shape": [4, 5], "dtype": "|b1"}}
    sigma = {"sigma": {"shape": [], "dtype": "<f4"}}
    cases = {
        "no kintsugi metadata": good.replace_schema_metadata(None),
        "row version 2": relabelled(good, **{"kintsugi.rows": 2}),
        "neither uint8 nor float16": relabelled(good, dtype="object"),
        "not made of positive numbers": relabelled(good, shape=[3, -4, 5]),
        "'|O'": relabelled(good, operator=mask | {"sigma": {"shape": [], "dtype": "|O"}}),
        "calls for": good.drop_columns(["label"]),
        "its columns": good.append_column("more", pa.array(ids)),
        "not int64": good.set_column(2, "label", pa.array([1.0, 2.0, 3.0])),
        "not binary": replaced(good, "image", ids, pa.string()),
        "'image' has rows without a value": replaced(good, "image", [None, bytes(size), bytes(size)], pa.binary()),
        "'id' has rows without": replaced(good, "id", ["a", None, "c"], pa.string()),
        f"row 1 of 'image' has 7 bytes where the shape calls for {size}": replaced(
            good, "image", [bytes(size), bytes(7), bytes(size)], pa.binary()
        ),
        "not finite": replaced(good, "image", [bytes(size), nan, bytes(size)], pa.binary()),
        "more than once": replaced(good, "id", ["a", "a", "c"], pa.string()),
        "not all 0 or 1": replaced(good, "operator.mask", [bytes([2] * 20)] * 3, pa.binary()),
        "labels must": replaced(good, "label", [1, -7, 0], pa.int64()),
        "would take more than 4 GiB": relabelled(good, shape=[1 << 20, 1 << 20]),
        "kintsugi.rows": good.replace_schema_metadata({shards.METADATA: b"{}"}),
        "": relabelled(good, operator=[mask, sigma]),
        "Expecting": good.replace_schema_metadata({shards.METADATA: b"{"}),
    }
    for i, (part, table) in enumerate(cases.items()):
        path = tmp_path / f"bad-{i}.parquet"
        pq.write_table(table, path)
        with refused(part, path.name):
            read_shard(path)


def test_files_that_are_no_parquet_or_only_half_of_one_are_refused(refused, tmp_path) -> None:
    buffer = io.BytesIO()
    write_shard(buffer, some(50))
    whole = buffer.getvalue()
    middle = len(whole) // 3
    damaged = whole[:middle] + bytes(200) + whole[middle + 200 :]
    for name, data in {"empty": b"", "text": b"hello" * 99, "half": whole[: len(whole) // 2], "hole": damaged}.items():
        (tmp_path / name).write_bytes(data)
        with refused(f"/{name} is not a shard"):
            read_shard(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        read_shard(tmp_path / "absent")


def test_a_shard_that_claims_terabytes_is_refused_before_it_is_read(refused, tmp_path) -> None:
    table = relabelled(to_table(some(1000)), shape=[3, 4, 1 << 30])
    pq.write_table(table, tmp_path / "bomb.parquet")
    tracemalloc.start()
    with refused("GiB", "bomb.parquet"):
        read_shard(tmp_path / "bomb.parquet")
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()
