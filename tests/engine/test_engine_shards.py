"""A map over pieces on Ray: the same bytes for any number of workers, and after a restart only what is missing."""

from __future__ import annotations

import json

import courses
import pytest

from pipeline.engine.shards import map_shards, name
from pipeline.graph import Context, Scale
from pipeline.store import Store

pytestmark = pytest.mark.ray
PIECES = list(range(0, 60, 12))


class Silent:
    def metrics(self, values, at):
        pass


def mapped(folder, workers):
    store = Store(str(folder))
    at = Context(store.place / "out", store, Scale(workers=workers), Silent())
    reports = map_shards(courses.noisy, PIECES, at)
    return reports, {name(i): at.out.read(name(i)) for i in range(len(PIECES))}, at


def test_any_number_of_workers_makes_the_same_bytes(one_ray, tmp_path):
    (one, alone, _), (three, together, _) = (mapped(tmp_path / str(workers), workers) for workers in (1, 3))
    assert alone == together
    assert one == three
    assert [report["rows"] for report in one] == [12] * 5


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
    assert [report["piece"] for report in reports] == list(range(5))


def test_a_refusal_comes_back_as_it_was_said(one_ray, tmp_path):
    store = Store(str(tmp_path))
    at = Context(store.place / "out", store, Scale(), Silent())
    with pytest.raises(ValueError, match=r"^piece 24 cannot be used$"):
        map_shards(courses.refusing, PIECES, at)
