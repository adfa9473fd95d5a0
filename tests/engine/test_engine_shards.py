"""A map over pieces on Ray: the same bytes for any number of workers, and after a restart only what is missing."""

from __future__ import annotations

import errno
import json
import pickle
from functools import partial

import courses
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.data.manifest import Manifest, name
from pipeline.data.ranks import between
from pipeline.data.unique import check_unique
from pipeline.engine import cluster, tasks
from pipeline.engine.shards import map_shards
from pipeline.engine.tasks import each, sweep
from pipeline.graph import Context, Scale
from pipeline.keys import Key
from pipeline.store import Store

pytestmark = pytest.mark.ray
PIECES = list(range(0, 60, 12))


class Silent:
    def __init__(self):
        self.said = []

    def metrics(self, values, at):
        pass

    def warn(self, text):
        self.said.append(text)


def mapped(folder, workers):
    store = Store(str(folder))
    at = Context(store.place / "out", store, Scale(workers=workers), Silent())
    reports = {}
    counts = map_shards(courses.noisy, PIECES, at, lambda report: reports.update({report["piece"]: report}))
    assert counts.tolist() == [reports[i]["rows"] for i in range(len(PIECES))]
    return reports, {name(i): at.out.read(name(i)) for i in range(len(PIECES))}, at


def test_any_number_of_workers_makes_the_same_bytes(one_ray, tmp_path):
    (one, alone, _), (three, together, _) = (mapped(tmp_path / str(workers), workers) for workers in (1, 3))
    assert alone == together
    assert one == three
    assert [one[i]["rows"] for i in range(5)] == [12] * 5


def test_a_restart_makes_only_what_is_missing(one_ray, tmp_path):
    _, before, at = mapped(tmp_path, 1)
    kept = f"_work/shards/{1:06d}.json"
    report = json.loads(at.out.read(kept)) | {"mark": "of the first run"}
    at.out.write(kept, json.dumps(report))
    at.out.remove(f"_work/shards/{2:06d}.json")
    at.out.remove(name(2))
    reports, after, _ = mapped(tmp_path, 2)
    assert after == before
    assert reports[1]["mark"] == "of the first run", "a finished piece was made again"
    assert reports.keys() == set(range(5))


def test_a_refusal_comes_back_as_it_was_said(one_ray, tmp_path):
    store = Store(str(tmp_path))
    at = Context(store.place / "out", store, Scale(), Silent())
    with pytest.raises(ValueError, match=r"^piece 24 cannot be used$"):
        map_shards(courses.refusing, PIECES, at)


def test_a_failure_arrives_as_it_was_said_and_only_one_that_may_pass_is_tried_three_times(monkeypatch):
    monkeypatch.setattr(tasks, "PAUSES", (0.0, 0.0))
    for error, most in {
        ValueError("no"): 1,
        OSError(errno.ENOENT, "no", "file"): 1,
        OSError(errno.ENOSPC, "no"): 1,
        OSError(errno.ECONNRESET, "gone", "file"): 3,
        OSError("nobody answers"): 3,
    }.items():
        tries = []

        def failing(item, error=error, tries=tries):
            tries.append(item)
            raise error

        with pytest.raises(type(error)) as caught:
            tasks._result(tasks._Tried(failing)({"item": pickle.dumps(0)}))
        assert (str(caught.value), len(tries)) == (str(error), most)


def test_what_trying_again_may_change_is_tried_again_and_nothing_else(one_ray, tmp_path):
    store = Store(str(tmp_path))
    at = Context(store.place / "out", store, Scale(), Silent())
    asked = str(tmp_path / "asked")
    with pytest.raises(PermissionError) as caught:
        list(each(courses.unreadable, [asked], at))
    assert (caught.value.errno, caught.value.filename) == (errno.EACCES, asked)
    assert (tmp_path / "asked.tries").read_text() == "tried\n"
    assert list(each(courses.unreliable, [str(tmp_path / "far")], at)) == [str(tmp_path / "far")]


def test_passes_over_all_ids_find_on_the_cluster_what_they_find_here(one_ray, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.data.ids.FEWEST", 2)
    store = Store(str(tmp_path))
    at = Context(store.place / "out", store, Scale(workers=2), Silent())
    for i in range(5):
        with at.out.writing(name(i)) as file:
            pq.write_table(pa.table({"id": [f"{i}-{k}" for k in range(9)]}), file)
    manifest, key = Manifest.of([9] * 5, (1, 1, 1), "uint8"), Key(0).fold("split")
    swept = partial(sweep, at=at)
    check_unique(at.out, manifest, swept, 10)
    for most in (4, 100):
        found = between(key, 5, 30, manifest, at.out.open, swept, most)
        assert found == between(key, 5, 30, manifest, at.out.open, map, most)
    with at.out.writing(name(4)) as file:
        pq.write_table(pa.table({"id": ["0-3", *(f"4-{k}" for k in range(8))]}), file)
    with pytest.raises(ValueError, match="1 ids occur more than once, such as '0-3'"):
        check_unique(at.out, manifest, swept, 10)


def test_what_tasks_warn_of_is_said_once_whatever_the_items(one_ray, tmp_path, caplog):
    at = Context(Store(str(tmp_path)).place / "out", Store(str(tmp_path)), Scale(), Silent())
    assert sorted(each(courses.grumbling, [1, 3, 5], at)) == [1, 3, 5]
    want = ["item 1 is odd", "item 3 is odd", "item 5 is odd", "items are few"]
    assert sorted(at.tracker.said) == sorted(record.getMessage() for record in caplog.records) == want
    caplog.clear()
    assert cluster.call(Scale(), courses.grumbling, 7) == 7
    assert [record.getMessage() for record in caplog.records] == ["items are few", "item 7 is odd"]
