"""More images asked for than there are: refused before anything starts, wherever their number is known by then."""

from __future__ import annotations

import pytest

from pipeline import graph
from pipeline.data.digits import COUNT, Digits
from pipeline.store import Store
from stages.ingest import Ingest
from stages.recipes.corrupted import corrupted


def test_the_digits_are_as_many_as_they_say():
    assert Digits().count() == COUNT == sum(1 for piece in Digits().pieces() for _ in Digits().read(piece))


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["plan", "run"])
@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("partial_views", "--per-view", "5000"), "part 96..5095 was asked for"),
        (("partial_views", "--per-view", "567"), "none is left after the first 1797"),
        (("partial_views", "--clean", "1798"), "part 1798..2227 was asked for"),
        (("corrupted", "--count", "1798"), "part 0..1797 was asked for"),
        (("corrupted", "--first", "2000"), "none is left after the first 2000"),
    ],
)
def test_of_the_digits(kintsugi, toy, monkeypatch, verb, words, part):
    monkeypatch.setattr("pipeline.engine.cluster.connect", lambda: pytest.fail("Ray was started"))
    kintsugi(verb, *words).refused("there are 1797 images", part, "fewer")


@pytest.mark.parametrize("words", [("partial_views", "--per-view", "566"), ("corrupted", "--count", "1797")])
def test_as_many_as_there_are_is_not_too_many(kintsugi, words):
    assert kintsugi("plan", *words).code == 0


def test_of_a_folder_once_it_was_ingested(kintsugi, here, pictures, tmp_path):
    folder = pictures(6, bad=False)
    words = ("corrupted", "--data", folder, "--count", "7")
    steps = kintsugi("plan", *words, "--json").json["steps"]
    assert {line["why"] for line in steps} == {"never made"}
    (ingest,) = (n for n in graph.walk(corrupted(data=str(folder))) if isinstance(n.stage, Ingest))
    here(ingest, Store(str(tmp_path / "runs")))
    kintsugi("plan", *words).refused("there are 6 images and part 0..6 was asked for")
    assert kintsugi("plan", "corrupted", "--data", folder, "--count", "6").code == 0


def test_a_part_that_was_made_is_asked_for_again_without_counting(kintsugi, here, pictures, tmp_path, monkeypatch):
    target = corrupted(data=str(pictures(6, bad=False)), count=6)
    monkeypatch.setattr("stages.corrupt.Corrupt.check", lambda self, store: pytest.fail("it was counted"))
    data = next(n for n in graph.walk(target) if n.label == "data")
    here(data, Store(str(tmp_path / "runs")))
    assert [line.cached for line in graph.plan(data, Store(str(tmp_path / "runs")))] == [True, True]


@pytest.mark.parametrize("verb", ["plan", "run"])
def test_more_workers_than_examples_are_refused_before_anything_starts(kintsugi, monkeypatch, verb):
    """Four images are left to train on; a batch would do for eight workers."""
    monkeypatch.setattr("pipeline.engine.cluster.connect", lambda: pytest.fail("Ray was started"))
    words = ("plain", "--test", "1793", "--scale.workers", "8", "--scale.cpus", "0.01")
    kintsugi(verb, *words).refused("8 workers cannot share 4 examples: give at most 4")
    assert kintsugi("plan", *words[:3], "--scale.workers", "4").code == 0
