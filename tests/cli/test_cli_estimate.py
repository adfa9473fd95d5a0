"""`estimate` takes a few real steps of each training and sampling left, says what all would take, leaves nothing."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import pytest

from pipeline import graph
from pipeline.backbones import mlp
from pipeline.backbones.count import count
from pipeline.diffusion.sample import Heun
from pipeline.engine import cluster
from pipeline.learning import course
from pipeline.store import Store
from stages.recipe import build, find, options_of

SMALL = "{is: pipeline.backbones.mlp.Config, width: 32, blocks: 1}"
NETWORKS = ("view", "joint", "completed", "clean", "residual", "ceiling", "distilled")
VIEWS = [
    *("--clean", "24", "--per-view", "40", "--samples", "16", "--rounds", "1", "--ceiling", "--steps", "4"),
    *("--distil", "8"),
    *(
        w
        for n in ("view", "joint", "completed", "clean", "residual", "ceiling", "distilled")
        for w in (f"--{n}-backbone", SMALL)
    ),
]


@pytest.fixture
def here_and_now(alone, monkeypatch, tmp_path):
    """The command line with probes in this process; every call of the loop, and its first batch, is noted."""
    calls, inner = [], course.fit
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()

    def fit(state, batches, objective, levels, clock, key, **more):
        seen = []
        noted = (seen.append(batch) or batch for batch in batches)
        calls.append({"state": state, "clock": clock, "objective": objective, "seen": seen, **more})
        return inner(state, noted, objective, levels, clock, key, **more)

    def call(scale, function, *arguments, fresh=False):
        assert fresh, "another probe's memory would count"
        return function(*arguments)

    monkeypatch.setattr(course, "fit", fit)
    monkeypatch.setattr(cluster, "call", call)

    def run(*words):
        return alone("estimate", *words)

    run.calls = calls
    run.plan = lambda *words: alone("plan", *(word for word in words if word not in ("--steps", "4")))
    return run


def left(tmp_path) -> list[Path]:
    return [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_training_is_counted_from_real_steps_of_its_own_loop(here_and_now, tmp_path):
    said = here_and_now("learn", "--price", "3", "--steps", "8", "--json", "--scale.micro", "8", "--scale.cpus", "2")
    assert said.code == 0, said.err
    *others, step = said.json["steps"]
    wanted = count(mlp.Config(width=32, blocks=1, dropout=0.0), (1, 8, 8), 1, 1)
    assert (step["step"], step["parameters"], step["images"], step["batch"]) == ("learnt", wanted.parameters, 640, 32)
    assert [(row["step"], row["hours"], row["cost"]) for row in others] == [
        ("ingest", None, None),
        ("data", None, None),
    ]
    assert said.json["not_estimated"] == 2
    low, high = step["images_per_second_range"]
    assert 0 < low <= step["images_per_second"] <= high
    assert step["hours"] == pytest.approx(640 / step["images_per_second"] / 3600)
    assert step["cost"] == pytest.approx(step["hours"] * 2 * 3)
    assert said.json["cost"] == step["cost"]
    assert said.json["hours"] == said.json["hours_sum"] == step["hours"]
    assert step["memory"] >= 0
    (call,) = here_and_now.calls
    assert (call["clock"].images, call["clock"].batch, call["clock"].micro) == (8 * 32, 32, 8)
    assert (call["state"].step, len(call["seen"]), len(call["seen"][0])) == (8, 8, 32)
    assert call["hooks"] == (), "nothing is saved"
    assert left(tmp_path) == []
    assert not (tmp_path / "runs").exists()


def test_a_worker_takes_its_share_with_the_options_of_its_scale(here_and_now, tmp_path):
    words = ("--set", "fit.bf16=true", "--set", "fit.posthoc={}", "--scale.checkpointing", "--scale.deterministic")
    said = here_and_now("learn", "--scale.workers", "2", "--steps", "4", "--json", "--price", "1", *words)
    (*_, step), (call,) = said.json["steps"], here_and_now.calls
    assert [len(batch) for batch in call["seen"]] == [16] * 4
    speed = call["speed"]
    assert (speed.bf16, speed.checkpointing, speed.deterministic, speed.compile) == (True, True, True, False)
    assert len(call["state"].profiles) == 2
    assert step["images_per_second"] == pytest.approx(640 / step["hours"] / 3600), "of both workers"
    assert step["cost"] == pytest.approx(2 * step["hours"])


@pytest.mark.slow
def test_what_is_made_is_read_and_what_is_trained_is_left_out(here_and_now, here, tmp_path):
    assert here_and_now("learn", "--steps", "4", "--json").code == 0
    store, recipe = Store("runs"), find("learn")
    target = build(recipe, options_of(recipe)())
    here(target.needs["data"], store)
    before = left(tmp_path)
    said = here_and_now("learn", "--steps", "4", "--json")
    first, second = ({batch.numpy().tobytes() for b in call["seen"] for batch in b.x} for call in here_and_now.calls)
    assert [row["step"] for row in said.json["steps"]] == ["learnt"]
    assert not first & second
    assert (np.frombuffer(next(iter(second)), np.uint8) == 0).mean() > 0.2, "digits have black corners, noise not"
    assert left(tmp_path) == before

    with store.writing(target):
        pass
    again = here_and_now("learn", "--steps", "4", "--price", "1")
    assert again.out == "nothing is left to be done\n"
    said = here_and_now("learn", "--json")
    assert (said.json["steps"], said.json["hours"], said.json["cost"]) == ([], 0, None)
    assert len(here_and_now.calls) == 2


@pytest.mark.slow
def test_every_training_and_sampling_of_the_shipped_recipe_is_probed_before_anything_is_made(here_and_now, tmp_path):
    said, planned = (kind("partial_views", "--json", *VIEWS) for kind in (here_and_now, here_and_now.plan))
    assert said.code == 0, said.err
    assert [row["step"] for row in said.json["steps"]] == [line["step"] for line in planned.json["steps"]]
    everything = {row["step"]: row for row in said.json["steps"]}
    rows = {name: row for name, row in everything.items() if row["parameters"] is not None}
    asked = {name: row for name, row in everything.items() if row["passes"] is not None}
    models = ("composed", "base", "joint", "completed", "distilled", "clean_only", "ceiling")
    restored = {"samples/teacher": 8} | {f"data/completed/0/{view}": 2 * 40 for view in ("left", "right", "pooled")}
    assert {name: row["images"] for name, row in asked.items()} == {f"samples/{name}": 16 for name in models} | restored
    assert {row["passes"] for row in asked.values()} == {2 * 14 - 1, 2 * 18 - 1}
    want = {
        "joint",
        "completed/0",
        "view/left",
        "view/right",
        "view/pooled",
        "composed",
        "distilled",
        "clean_only",
        "ceiling",
    }
    assert rows.keys() == want
    assert rows["composed"]["parameters"] > rows["clean_only"]["parameters"], "the residual sees more"
    each = [row["hours"] for row in everything.values() if row["hours"] is not None]
    assert max(each) < said.json["hours"] <= said.json["hours_sum"] == pytest.approx(sum(each))
    chain = rows["joint"]["hours"] + rows["completed/0"]["hours"] + rows["composed"]["hours"]
    assert said.json["hours"] >= chain * (1 - 1e-9)
    base = next(call["objective"].base for call in here_and_now.calls if hasattr(call["objective"], "base"))
    assert [tuple(map_.out_shape) for map_ in base.maps] == [(1, 8, 8), (1, 8, 8), (1, 8, 5), (1, 8, 5), (1, 4, 4)]
    assert left(tmp_path) == []


def test_people_get_a_table_and_what_it_leaves_out(here_and_now):
    said = here_and_now("learn", "--steps", "4", "--price", "0.5")
    head, *others, row, total, device, left_out = said.out.splitlines()
    columns = ["step", "parameters", "images", "passes", "images/s", "(range)", "hours", "peak", "memory", "cost"]
    assert head.split() == columns
    assert [other.split() for other in others] == [[name, "not", "estimated"] for name in ("ingest", "data")]
    assert row.split()[0] == "learnt"
    assert total.endswith("one after the other, cost 0.00, without 2 steps that are not estimated")
    assert "with 2 CPUs and 0 GPUs" in total
    assert device.startswith("measured on CPU; memory of each worker: by how much its process grows")
    assert left_out.startswith("not included: ")
    assert "(no --price)" in here_and_now("learn", "--steps", "4").out
    events = [line for line in said.err.splitlines() if '"probed"' in line]
    assert len(events) == 1


def test_rows_that_are_to_be_restored_take_the_levels_below_their_noise_for_each_of_them(here_and_now, tmp_path):
    words = ("--set", "fit.images=640", "--steps", "8", "--backbone", SMALL, "--price", "1", "--json")
    few = ("--clean", "20", "--count", "60", "--test", "20", "--rounds.most", "1", "--rounds.steps", "32")
    said = here_and_now("sfbd", "--noise", "0.2", *few, *words)
    assert said.code == 0, said.err
    rows = {row["step"]: row for row in said.json["steps"]}
    restored, drawn = rows["round/1/restored"], rows["samples/sfbd"]
    below = int((Heun(steps=32).sigmas()[:-1, 0] < 0.2).sum())
    assert (restored["images"], restored["batch"], restored["passes"]) == (60, 60, 2 * (below + 1) - 1)
    assert (drawn["images"], drawn["batch"], drawn["passes"], drawn["parameters"]) == (256, 256, 35, None)
    for row in (restored, drawn):
        assert row["hours"] == pytest.approx(row["images"] / row["images_per_second"] / 3600)
        assert row["cost"] == pytest.approx(row["hours"] * row["workers"])
    costs = [row["cost"] for row in rows.values() if row["cost"] is not None]
    assert said.json["cost"] == pytest.approx(sum(costs))
    assert said.json["not_estimated"] == len(rows) - len(costs) > 0
    assert rows["round/1/judged"]["hours"] is None
    assert left(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "tells", "last"), [("bridge", "bridge", "round/2/bridge"), ("omni", "telltale", "model")]
)
def test_trainings_on_what_other_networks_are_to_make_can_be_estimated(here_and_now, recipe, tells, last):
    backbones = [w for name in ("", "clean-", f"{tells}-") for w in (f"--{name}backbone", SMALL)]
    said = here_and_now(recipe, *backbones, "--steps", "4", "--json")
    assert said.code == 0, said.err
    assert next(row["hours"] for row in said.json["steps"] if row["step"] == last) > 0


def test_what_is_restored_or_drawn_with_a_network_that_nobody_can_build_yet_is_not_estimated(here_and_now):
    said = here_and_now("em", "--laps", "2", "--backbone", SMALL, "--set", "fit.images=640", "--steps", "4", "--json")
    hours = {row["step"]: row["hours"] for row in said.json["steps"]}
    assert hours["data/restored/0"] is hours["samples/gaussian"] is None
    assert min(hours["data/restored/1"], hours["samples/em"]) > 0


def test_a_recipe_of_which_nothing_can_be_estimated_says_so(here_and_now):
    *rows, last = here_and_now("corrupted").out.splitlines()[1:]
    assert last == "nothing is left that could be estimated"
    assert rows
    assert all(row.endswith("not estimated") for row in map(str.rstrip, rows))
    assert "--price" in here_and_now("learn", "--help").out


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("learn", "--steps", "3"), ("--steps is 3", "at least 4")),
        (("learn", "--price", "-1"), ("--price is -1",)),
        (("learn", "--price", "nan"), ("--price is nan",)),
        (("learn", "--price", "much"), ("--price",)),
        (("lern",), ("there is no recipe 'lern'", "learn")),
        ((), ("say which recipe to estimate",)),
        (("learn", "--scale.workers", "4"), ("learnt wants 4 CPUs",)),
        (("learn", "--scale.workers", "2", "--set", "fit.batch=33"), ("2 workers cannot share a batch of 33",)),
        (("learn", "--set", "fit.images=0"), ("images is 0",)),
    ],
)
def test_what_cannot_be_estimated_is_refused(here_and_now, tmp_path, words, parts):
    here_and_now(*words).refused(*parts)
    assert left(tmp_path) == []


@pytest.mark.ray
@pytest.mark.slow
def test_each_probe_has_a_process_of_its_own(kintsugi, one_ray, tmp_path):
    said = kintsugi("estimate", "learn", "--json", "--set", "fit.batch=512", "--steps", "4")
    assert said.code == 0, said.err
    step = said.json["steps"][-1]
    assert step["memory"] > 0
    assert step["device"] == "CPU"
    assert left(tmp_path) == []
    pids = {cluster.call(graph.Scale(), os.getpid, fresh=True) for _ in range(2)}
    assert len(pids) == 2
