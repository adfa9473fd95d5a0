"""Training reads a set from memory or from its shards: the same batches whoever reads them, turned or not."""

from __future__ import annotations

import time
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pipeline.backbones import mlp
from pipeline.data.manifest import Manifest, name
from pipeline.data.reader import InMemory, batches, order
from pipeline.data.records import Examples
from pipeline.data.shards import write_shard
from pipeline.data.stream import Streamed
from pipeline.graph import step
from pipeline.learning.optim import AdamW, Cosine, InverseSqrt
from pipeline.place import Place
from stages.ingest import Ingest
from stages.train import Fit, Share, Train, course, opened, reader

N = 2500
SIZE = N * 9  # bytes


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """What an artifact is to a reader: a place, and files in it."""
    place = Place(str(tmp_path_factory.mktemp("set")))
    pixels = np.random.default_rng(0).integers(0, 256, (N, 1, 3, 3), dtype=np.uint8)
    for i, (first, count) in enumerate(((0, 1100), (1100, 1400))):
        rows = Examples(tuple(map(str, range(first, first + count))), pixels[first : first + count])
        with place.writing(name(i)) as file:
            write_shard(file, rows)
    Manifest.of((1100, 1400), (1, 3, 3), "uint8").write(place)
    return SimpleNamespace(place=place, file=place.open)


def batch(of, **place) -> list:
    place = {"start": 0, "rank": 0, "world": 1} | place
    return list(islice(of(**place), 4))


def test_the_sets_size_and_the_configuration_alone_say_where_it_is_read_from(data):
    assert isinstance(opened(data, SIZE / 2**30), InMemory)
    assert isinstance(opened(data, (SIZE - 1) / 2**30), Streamed)
    assert isinstance(opened(data, 0), Streamed)


def test_in_memory_batches_are_what_they_were(data):
    rows = opened(data, 1)
    for fit in (Fit(batch=16), Fit(batch=16, memory=0.5)):
        for got, index in zip(batch(reader(rows, fit, 3), start=5), batches(range(N), 16, 3, 5)):
            assert np.array_equal(got.index.numpy(), index)
            assert got.x.dtype == torch.uint8, "four times as much to move"
            assert torch.equal(got.decoded().x, rows.examples.x()[got.index])


@pytest.mark.parametrize("memory", [0, 1])
@pytest.mark.parametrize("fit", [Fit(batch=16), Fit(batch=16, dihedral=True), Fit(batch=16, shift=1, dihedral=True)])
def test_workers_together_see_what_one_sees_and_a_restart_goes_on(data, memory, fit):
    read = reader(opened(data, memory), fit, 3)
    alone = batch(read, start=N - 20)
    shares = list(zip(*(batch(read, start=N - 20, rank=rank, world=4) for rank in range(4))))
    restarted = batch(read, start=N - 20 + 16)
    for k, one in enumerate(alone):
        assert torch.equal(one.x, torch.cat([share.x for share in shares[k]]))
        assert torch.equal(one.index, torch.cat([share.index for share in shares[k]]))
        assert k == 0 or torch.equal(one.x, restarted[k - 1].x)


def test_turned_images_have_the_pixels_that_they_had(data):
    rows = opened(data, 1)
    plain, turned = (batch(reader(rows, Fit(batch=16, dihedral=dihedral), 3)) for dihedral in (False, True))
    for one, other in zip(plain, turned):
        assert not torch.equal(one.x, other.x)
        assert torch.equal(one.x.flatten(1).sort().values, other.x.flatten(1).sort().values)


def test_a_streamed_course_trains_and_takes_its_scale_from_the_rows(data):
    stage = Train(step(Ingest(None, (1, 3, 3))), mlp.Config(width=8, blocks=1), Fit(images=64, batch=16, memory=0))
    made, known = (course(stage, [data], torch.device("cpu")), opened(data, 1).moments())
    assert torch.allclose(made.state.model.centre, known[0], atol=1e-5)
    assert made.objective.precond.sigma_data == pytest.approx(known[1], rel=1e-4)
    assert made.run().images == 64


@pytest.mark.parametrize("memory", [0, 1])
def test_a_mixture_has_every_set_in_its_proportion_whoever_reads_it(data, memory):
    of = step(Ingest(None, (1, 3, 3)))
    stage = Train(
        of, mlp.Config(width=8, blocks=1), Fit(images=64, batch=16, memory=memory), also=(Share(of, 0.25),), weight=0.75
    )
    made = course(stage, [data, data], torch.device("cpu"))
    alone = batch(made.batches, start=32)
    assert [int((one.index < N).sum()) for one in alone] == [12] * 4
    halves = zip(*(batch(made.batches, start=32, rank=rank, world=2) for rank in range(2)))
    for one, parts in zip(alone, halves, strict=True):
        assert torch.equal(one.x, torch.cat([part.x for part in parts]))
    assert made.run().images == 64


@pytest.mark.parametrize("weight", [0, -1.0, float("nan")])
def test_a_set_without_weight_is_refused(weight):
    of = step(Ingest(None, (1, 3, 3)))
    with pytest.raises(ValueError, match="positive one"):
        Train(of, also=(Share(of, weight),))


def test_memory_below_nothing_is_refused():
    for memory in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="memory is"):
            Fit(memory=memory)


def damaged(data, by: str) -> SimpleNamespace:
    """The same rows, said to have arrived so."""
    place = Place(f"memory://{by}")
    for i in range(2):
        with data.place.open(name(i)) as file:
            place.write(name(i), file.read())
    Manifest.of((1100, 1400), (1, 3, 3), "uint8", {"damage": [by]}).write(place)
    return SimpleNamespace(place=place, file=place.open, address=by)


def test_rows_that_plain_training_would_misread_are_refused(data):
    of = step(Ingest(None, (1, 3, 3)))
    with pytest.raises(ValueError, match="seen through masks"):
        course(Train(of), [damaged(data, "mask")], torch.device("cpu"))
    with pytest.raises(ValueError, match=r"fit.shift repeats edges"):
        course(Train(of, fit=Fit(shift=1)), [damaged(data, "sigma")], torch.device("cpu"))


def test_orders_of_more_rows_than_are_sorted_are_found_at_once(data):
    n = (1 << 16) + 1
    seen = order(n, 3, n - 5, n + 10)
    assert sorted(seen[5 : n + 5]) == list(range(n)), "an epoch is not a permutation"
    assert np.array_equal(order(n, 3, n + 7, 9), seen[12:21])
    assert not np.array_equal(order(n, 4, n, 9), seen[5:14])
    start = time.process_time()
    order(10**12, 3, 10**15 + 7, 64)
    assert time.process_time() - start < 1, "it walks"


def test_a_schedule_and_the_cosine_that_would_replace_it_are_not_both_taken():
    with pytest.raises(ValueError, match=r"cosine would replace optim.schedule, InverseSqrt: set cosine to false"):
        Fit(optim=AdamW(schedule=InverseSqrt(100)))
    fit = Fit(optim=AdamW(schedule=InverseSqrt(100)), cosine=False)
    assert fit.state(torch.nn.Linear(1, 1)).optim.schedule == InverseSqrt(100)
    assert Fit(images=50).state(torch.nn.Linear(1, 1)).optim.schedule == Cosine(50)
