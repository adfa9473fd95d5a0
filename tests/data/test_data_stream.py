"""Streams: every row once an epoch, in one order from anywhere and for any number of workers, and bad shards named."""

from __future__ import annotations

import errno
import itertools

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch

from pipeline.data.manifest import Manifest, name
from pipeline.data.reader import InMemory, batches
from pipeline.data.records import Examples
from pipeline.data.shards import GROUP, read_shard, write_shard
from pipeline.data.stream import WIDEST, Order, Streamed, _Windows
from pipeline.place import Place

COUNTS = (1500, 0, 700, 2600, 3, 1397)  # 6200 rows in 25 blocks, of which none but the first begins where a shard does
N = sum(COUNTS)
SHAPE = (1, 2, 2)
TIGHT = 2 * 2 * GROUP * 4  # bytes of two windows of two blocks
EXTRA = ("label", "operator.at")


def examples(n: int = N) -> Examples:
    """Rows each of which says in every column which it is."""
    rows = np.arange(n)
    images = np.stack([rows % 256, rows // 256, rows % 7, rows % 11], 1).astype(np.uint8).reshape(n, *SHAPE)
    label = np.where(rows % 5 == 0, -1, rows)
    return Examples(tuple(map(str, rows)), images, label, {"at": np.stack([rows, -rows], 1)})


def stored(url: str, counts: tuple[int, ...] = COUNTS) -> tuple[Place, Examples]:
    place, rows, start = Place(url), examples(sum(counts)), 0
    for i, count in enumerate(counts):
        if count:
            with place.writing(name(i)) as file:
                write_shard(file, rows.take(np.arange(start, start + count)))
        start += count
    Manifest.of(counts, SHAPE, "uint8").write(place)
    return place, rows


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return stored(str(tmp_path_factory.mktemp("streamed")))


@pytest.fixture
def own(tmp_path):
    """A set of the test's own, to be harmed."""
    return stored(str(tmp_path))[0]


def stream(place: Place, columns=(), memory=TIGHT) -> Streamed:
    return Streamed(place, Manifest.open(place.at if place.is_local else place.open), columns, memory)


def first(rows, count):
    return list(itertools.islice(rows, count))


def test_rows_come_in_the_stated_order_with_all_their_columns(whole):
    place, rows = whole
    reader = stream(place, EXTRA)
    assert reader.order == Order(N, GROUP, 2)
    assert (len(reader), reader.shape) == (N, SHAPE)
    for k, got in enumerate(first(reader.batches(500, 4, start=300), 30)):
        assert np.array_equal(got.index, reader.order.rows(4, 300 + 500 * k, 500))
        assert np.array_equal(got.images, rows.images[got.index])
        assert np.array_equal(got.columns["label"], rows.label[got.index])
        assert np.array_equal(got.columns["operator.at"], rows.operator["at"][got.index])
        assert torch.equal(got.x(), rows.x(got.index))


EDGES = [(GROUP - 1, 2 * GROUP + 1), (GROUP + 1, 2 * GROUP - 1), (1, GROUP, 1), (GROUP, GROUP)]


@pytest.mark.parametrize("counts", EDGES)
def test_a_piece_of_a_shard_may_begin_or_end_at_any_row_of_a_row_group(counts):
    place, rows = stored(f"memory://edges-{counts}", counts)
    got = next(stream(place).batches(sum(counts), 0))
    assert np.array_equal(np.sort(got.index), np.arange(sum(counts)))
    assert np.array_equal(got.images, rows.images[got.index])


@pytest.mark.parametrize("counts", [(GROUP - 1, 3 * GROUP + 1), (4 * GROUP + 1,), (2 * GROUP - 1,)])
def test_while_the_last_window_of_an_epoch_is_read_the_first_of_the_next_is_fetched(counts):
    place, _ = stored(f"memory://ends-{counts}", counts)
    last = -(-sum(counts) // (2 * GROUP)) - 1
    with _Windows(stream(place), 0) as windows:
        for _ in range(2):
            windows.get(5, last)
        assert list(windows.held) == [(5, last), (6, 0)]


@pytest.mark.parametrize("memory", [0, 1, TIGHT - 1, TIGHT, 1 << 60])
def test_two_windows_fit_into_memory_and_as_many_blocks_as_do_are_in_them(whole, memory):
    window, block = stream(whole[0], memory=memory).order.window, GROUP * 4
    assert 2 * window * block <= memory or window == 1
    assert 2 * (window + 1) * block > memory or window == WIDEST


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("kind", ["streamed", "in memory"])
def test_workers_together_read_what_one_reads(whole, world, kind):
    place, rows = whole
    reader = stream(place) if kind == "streamed" else InMemory(rows)
    alone = first(reader.batches(64, 0, start=N - 100), 4)
    together = zip(*(reader.batches(64, 0, N - 100, rank, world) for rank in range(world)))
    for one, shares in zip(alone, together):
        assert np.array_equal(one.index, np.concatenate([share.index for share in shares]))
        assert np.array_equal(one.images, np.concatenate([share.images for share in shares]))


def test_in_memory_the_order_is_what_it_was(whole):
    rows = whole[1]
    for got, index in zip(first(InMemory(rows, ("label",)).batches(48, 5, 7, 1, 3), 5), batches(rows, 48, 5, 7, 1, 3)):
        assert np.array_equal(got.index, index)
        assert torch.equal(got.x(), rows.x()[torch.from_numpy(index)])
        assert np.array_equal(got.columns["label"], rows.label[index])


def test_no_shard_is_opened_before_its_window_is_next(own):
    reader = stream(own)
    near = np.concatenate([reader.order.blocks(0, 0, w) for w in (0, 1)])
    held = reader.manifest.shard_of(np.minimum(near[:, None] * GROUP + np.arange(GROUP), N - 1))[0]
    gone = set(reader.manifest.filled().tolist()) - set(np.unique(held).tolist()) - {0}
    assert gone, "another seed is needed for this test"
    for shard in gone:
        own.remove(name(shard))
    rows = reader.batches(GROUP, 0)
    assert len(first(rows, 2)) == 2
    with pytest.raises(ValueError, match="is missing"):
        first(rows, 24)


def test_any_fsspec_url_is_read_from(whole):
    place, rows = stored("memory://streamed")
    got = next(stream(place, EXTRA).batches(100, 0))
    assert np.array_equal(got.images, rows.images[got.index])


def test_the_mean_of_a_stream_is_that_of_its_rows(whole):
    place, rows = whole
    centre, spread = stream(place).moments()
    known, around = InMemory(rows).moments()
    assert torch.allclose(centre, known, atol=1e-5)
    assert spread == pytest.approx(around, rel=1e-5)


def test_a_missing_shard_is_named(own, refused):
    own.remove(name(3))
    with refused(name(3), "is missing"):
        first(stream(own).batches(256, 0), 30)
    own.remove(name(0))
    with refused(name(0), "is missing"):
        next(stream(own).batches(1, 0))


def harmed(place: Place, i: int, change) -> None:
    path = place.at(name(i))
    with open(path, "rb") as file:
        data = change(file.read())
    with open(path, "wb") as file:
        file.write(data)


@pytest.mark.parametrize("change", [lambda b: b[:-9], lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"x" * 99])
def test_a_damaged_shard_is_named(own, refused, change):
    harmed(own, 3, change)
    with refused(name(3), "is not a shard that can be read"):
        first(stream(own).batches(256, 0), 30)


def test_a_flipped_bit_is_found_where_pages_have_checksums(own, refused):
    path = own.at(name(3))
    pq.write_table(pq.read_table(path), path, write_page_checksum=True, row_group_size=GROUP, use_dictionary=False)
    assert len(first(stream(own).batches(256, 0), 30)) == 30
    at = pq.read_metadata(path).row_group(1).column(1)
    assert at.path_in_schema == "image"
    middle = at.data_page_offset + at.total_compressed_size - 20
    harmed(own, 3, lambda b: b[:middle] + bytes([b[middle] ^ 4]) + b[middle + 1 :])
    with refused(name(3), "CRC"):
        first(stream(own).batches(256, 0), 30)


def test_shards_of_another_set_are_named(own, refused):
    rows = read_shard(own.at(name(3)))
    others = {
        "2599 rows and 2600": rows.take(np.arange(2599)),
        "2601 rows and 2600": Examples.concat([rows, read_shard(own.at(name(2))).take([0])]),
        "images are uint8 (1, 4, 1)": Examples(rows.ids, rows.images.reshape(-1, 1, 4, 1), rows.label, rows.operator),
        "no column 'operator.at'": Examples(rows.ids, rows.images, rows.label),
        "not like those": Examples(rows.ids, rows.images, rows.label, {"at": rows.operator["at"][:, :1]}),
    }
    for said, other in others.items():
        write_shard(own.at(name(3)), other)
        with refused(name(3), said):
            first(stream(own, EXTRA).batches(256, 0), 30)


def test_row_groups_that_would_fill_the_memory_are_not_read(whole, monkeypatch, refused):
    monkeypatch.setattr("pipeline.data.stream.MAX_BYTES", GROUP * 4 - 1)
    with refused("its row groups", "would take more"):
        first(stream(whole[0]).batches(256, 0), 9)


def test_what_the_disk_says_is_no_fault_of_the_file(whole, monkeypatch):
    def failing(*_, **__):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(pq, "ParquetFile", failing)
    with pytest.raises(OSError, match="Input/output error"):
        next(stream(whole[0]).batches(256, 0))


def test_a_row_without_a_value_is_refused(own, refused):
    path = own.at(name(3))
    table = pq.read_table(path)
    at = table.schema.get_field_index("operator.at")
    holes = pc.if_else(pa.array(np.arange(len(table)) != 7), table["operator.at"], None)
    pq.write_table(table.set_column(at, table.schema.field(at), holes), path)
    with refused(name(3), "'operator.at'", "without a value"):
        first(stream(own, EXTRA).batches(256, 0), 30)


def test_values_that_are_not_finite_do_not_reach_training(tmp_path, refused):
    rows = Examples(("a", "b"), np.zeros((2, *SHAPE), np.float16))
    place = Place(str(tmp_path))
    with place.writing(name(0)) as file:
        rows.images[1, 0, 1, 1] = np.nan
        write_shard(file, rows)
    with refused(name(0), "'image'", "not finite"):
        next(Streamed(place, Manifest.of([2], SHAPE, "float16")).batches(2, 0))


def test_what_cannot_be_read_is_refused_at_once(whole, refused):
    place, rows = whole
    with refused("no examples"):
        Streamed(place, Manifest.of([], SHAPE, "uint8")).batches(1, 0)
    with refused("batch=10"):
        stream(place).batches(10, 0, world=4)
    with refused("start=-1"):
        stream(place).batches(4, 0, start=-1)
    with refused("no column 'operator.mask'"):
        next(stream(place, ("operator.mask",)).batches(4, 0))
    with refused("no column 'operator.mask'"):
        InMemory(rows, ("operator.mask",))
    with refused("no examples"):
        InMemory(rows.take([]))
    with refused("block=0"):
        Order(1, 0)
    with refused("window=0"):
        Order(1, 1, 0)
    with refused("start=-1"):
        Order(5).at(-1)
