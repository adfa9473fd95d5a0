"""Online SFBD: parts of one course are that course, and every row has its turn before any has another."""

from __future__ import annotations

import itertools
import json
import pickle
from dataclasses import dataclass, replace

import alone
import numpy as np
import pytest
import torch

from pipeline import graph
from pipeline.backbones import mlp
from pipeline.data.manifest import Manifest, name
from pipeline.data.reader import InMemory
from pipeline.data.records import Examples
from pipeline.data.shards import read_shard, write_shard
from pipeline.diffusion.precond import Preconditioned
from pipeline.diffusion.sample import Heun
from pipeline.graph import Context, Stage, step
from pipeline.keys import Key
from pipeline.learning.checkpoint import Checkpoints, run_from
from pipeline.learning.course import Course
from pipeline.learning.optim import AdamW, Cosine
from pipeline.learning.posthoc import PostHoc
from pipeline.learning.weights import pack
from pipeline.store import Store
from stages.ambient import Learned, TrainAmbient, whole
from stages.denoise import Denoise
from stages.layers import in_front, layers
from stages.noisy import Harm
from stages.online import Online, divided
from stages.probe import probe
from stages.recipes.online import online
from stages.recipes.sfbd import sfbd
from stages.refresh import Refresh, turn, worth
from stages.rounds import Rounds, images_seen
from stages.train import Fit

SHAPE, NOISE, ROWS = (1, 2, 2), 0.5, 23
TINY = mlp.Config(width=8, blocks=1, dropout=0.2)
FIT = Fit(images=320, batch=16, optim=AdamW(lr=4e-3, weight_decay=0.1, warmup=48))


@dataclass(frozen=True)
class Rows(Stage):
    """Noisy rows in three shards."""

    count: int = ROWS

    def run(self, at: Context) -> None:
        y = 0.6 * torch.randn(self.count, *SHAPE, generator=Key(0).torch())
        rows, cuts = Examples.from_x([f"row-{i}" for i in range(self.count)], y), [0, 9, 10, self.count]
        for i, (first, end) in enumerate(itertools.pairwise(cuts)):
            with at.out.writing(name(i)) as file:
                write_shard(file, rows.take(range(first, end)))
        Manifest.of(np.diff(cuts), SHAPE, "float16").write(at.out)


@dataclass(frozen=True)
class Model(Stage):
    """A network that nobody trained, and that is off by `bias` then."""

    bias: float = 0.0

    def run(self, at: Context) -> None:
        torch.manual_seed(0)
        model = Preconditioned.Config(SHAPE, TINY).build()
        model.centre.fill_(self.bias)
        for file, content in pack(model).items():
            at.out.write(file, content)


NOISY, FIRST = step(Rows()), step(Model())
ASKED = Denoise(FIRST, NOISY, NOISE, Heun(steps=6), batch=1)  # so that a row is the same to the bit in any turn


@pytest.fixture
def run(tmp_path, monkeypatch):
    alone.installed(monkeypatch)
    store = Store(str(tmp_path / "store"))
    return lambda target: alone.made(target, store) and store.artifact(target.address)


def state_of(artifact):
    return run_from(artifact.read)


def test_a_course_in_parts_is_the_course_to_the_bit_where_what_is_restored_stays_the_same(run):
    """Weights, average, moments, clock, order, noise, dropout and rate: none knows that it was cut."""
    buffer = step(Refresh(ASKED))
    rows = lambda data: (Learned(NOISY, NOISE), Learned(data, factor=0.5))  # noqa: E731
    long = replace(FIT, cosine=False, optim=replace(FIT.optim, schedule=Cosine(FIT.images)))
    once = run(step(TrainAmbient(rows(buffer), TINY, long, 3, FIRST, keep=True)))
    plain = run(step(TrainAmbient(rows(buffer), TINY, FIT, 3, FIRST)))
    part, model = TrainAmbient(rows(buffer), TINY, divided(FIT, 4), 3, FIRST, keep=True), None
    for k in range(4):
        part = replace(part, rows=rows(buffer), onward=model, start=None if k else FIRST)
        model, buffer = step(part), step(Refresh(ASKED, buffer, 0.3))
    parts = run(model)
    (tensors, meta), (want, told) = state_of(parts), state_of(once)
    assert meta == told
    assert meta["images"] == FIT.images
    assert tensors.keys() == want.keys()
    assert all(torch.equal(tensors[key], want[key]) for key in want)
    assert plain.read("weights.safetensors") == parts.read("weights.safetensors")


def test_a_part_that_was_interrupted_goes_on_from_its_own_checkpoint(run, tmp_path):
    """Not from where the part before ended, which it also has at hand."""
    fit, rows = divided(FIT, 4), (Learned(NOISY, NOISE),)
    first = step(TrainAmbient(rows, TINY, fit, 3, keep=True))
    second = TrainAmbient(rows, TINY, fit, 3, onward=first, keep=True)
    want = state_of(run(step(second)))

    def opened() -> Course:
        return second.make(lambda data: run(data))(torch.device("cpu"))

    cut = opened()
    cut.begin()
    cut.clock = replace(cut.clock, images=cut.state.images + 2 * fit.batch)
    Checkpoints(tmp_path / "kept").save(cut.run())
    again = opened()
    assert Checkpoints(tmp_path / "kept").restore(again.state)
    again.begin()
    assert again.state.images == fit.images + 2 * fit.batch
    again.run()
    assert again.state.meta() == want[1]
    assert all(torch.equal(tensor, want[0][key]) for key, tensor in again.state.tensors().items())


def test_a_part_that_was_not_kept_cannot_be_gone_on_from(run):
    fit = divided(FIT, 4)
    first = step(TrainAmbient((Learned(NOISY, NOISE),), TINY, fit))
    with pytest.raises(ValueError, match="keeps nothing to go on from"):
        run(step(TrainAmbient((Learned(NOISY, NOISE),), TINY, fit, onward=first)))


def test_every_row_has_its_turn_once_before_any_has_another(run):
    chain = [step(Refresh(ASKED))]
    for _ in range(5):
        chain.append(step(Refresh(ASKED, chain[-1], 0.3)))
    run(chain[-1])
    found = [run(each) for each in chain]

    def ids(artifact):
        shards = Manifest.open(artifact.file).filled().tolist()
        return [text for i in shards for text in read_shard(artifact.file(name(i)), name(i)).ids]

    every, *turns = map(ids, found)
    assert sorted(every) == sorted(f"row-{i}" for i in range(ROWS))
    assert [len(each) for each in turns] == [7, 7, 7, 2, 7]
    assert sorted(itertools.chain(*turns[:4])) == sorted(every), "a permutation: none twice, none missing"
    assert turns[4] == turns[0]


def test_turns_of_any_part_divide_the_order():
    for rows, part in itertools.product((1, 2, 10, 97), (0.001, 0.3, 0.5, 1.0)):
        first, seen = 0, []
        while not seen or first:
            first, count = turn(first, rows, part)
            seen += range(first, first + count)
            first = (first + count) % rows
        assert seen == list(range(rows))


def test_the_newest_row_of_an_id_is_the_one_that_is_learned_from(run):
    before = step(Refresh(ASKED))
    after = step(Refresh(replace(ASKED, model=step(Model(0.3))), before, 0.3))
    run(after)
    old, new = (in_front([run(layer) for layer in layers(each)], 1.0) for each in (before, after))
    assert old.ids == new.ids == tuple(sorted(f"row-{i}" for i in range(ROWS)))
    moved = (old.images != new.images).reshape(ROWS, -1).any(1)
    own = run(after)
    shards = Manifest.open(own.file).filled().tolist()
    again = {text for i in shards for text in read_shard(own.file(name(i)), name(i)).ids}
    assert {text for text, is_new in zip(new.ids, moved, strict=True) if is_new} == again
    with pytest.raises(ValueError, match=r"raise fit\.memory"):
        in_front([run(before)], 0.0)


def test_how_many_are_taken_over_grows_with_what_they_gain(run):
    """An eighth of those tried at least, so that nothing stands still; all where nothing is left of the distance."""
    assert [worth(1.0, new, 80) for new in (2.0, 1.0, 0.5, 0.0, -0.1)] == [10, 10, 40, 80, 80]
    assert worth(-0.1, -0.2, 80) == 10
    assert worth(1.0, 1.0, 1) == 1

    asked = Denoise(FIRST, step(Rows(400)), NOISE, Heun(steps=6))

    def said(model):
        before = step(Refresh(replace(asked, model=step(Model(0.8)))))
        after = step(Refresh(replace(asked, model=model), before, 0.7, adaptive=True))
        found = run(after)
        old, new = (in_front([run(layer) for layer in layers(each)], 1.0) for each in (before, after))
        changed = int((np.abs(old.images - new.images) > 0.01).reshape(400, -1).any(1).sum())
        return found.json("refresh.json"), changed, step(Refresh(asked, after, 0.7))

    best, changed, _ = said(FIRST)
    assert abs(best["new"]) < 0.008 < best["old"] / 5, "with the noise of the data both are of one law"
    assert 200 < best["count"] == changed <= best["tried"] == 280
    better, changed, following = said(step(Model(0.6)))
    assert 70 < better["count"] == changed < 210
    assert run(following).json("refresh.json")["first"] == better["next"] == better["count"]
    same, changed, _ = said(step(Model(0.8)))
    assert same["new"] == pytest.approx(same["old"], rel=0.01)
    assert (same["count"], changed) == (35, 0)


def test_restored_images_come_to_count_as_much_as_clean_ones():
    how = Online(ramp=0.5)
    assert [how.factor(done) for done in (0.0, 0.25, 0.5, 1.0)] == [0.0, 0.5, 1.0, 1.0]
    assert Online(ramp=0.0).factor(0.0) == 1.0
    found = {n.label: n for n in graph.walk(online(online=Online(refreshes=4, ramp=1.0)))}
    factors = [{row.data.label: row.factor for row in found[f"online/{k}"].stage.rows} for k in range(1, 5)]
    assert [each[f"online/{k}/restored"] for k, each in enumerate(factors, 1)] == [0.125, 0.375, 0.625, 0.875]
    assert all(each["data/clean"] == 1.0 for each in factors)
    rows = InMemory(Examples(("a", "b", "c"), np.zeros((3, *SHAPE), np.uint8)))
    assert whole(rows, Learned(NOISY, factor=0.5), how.objective)[2].weight == 1.5
    assert whole(rows, Learned(NOISY, weight=0.8, factor=0.5), how.objective)[2].weight == 0.4
    learned = {n.label: n for n in graph.walk(sfbd(rounds=Rounds(most=3, ramp=2)))}
    assert [learned[f"round/{k}"].stage.rows[1].factor for k in (1, 2, 3)] == [0.5, 1.0, 1.0]


def test_parts_go_on_from_one_another_and_restore_by_the_model_so_far():
    found = {n.label: n for n in graph.walk(online(online=Online(refreshes=3)))}
    assert found["online/1/restored"].stage.asked.model is found["online/1"].stage.start is found["pretrained"]
    for k in (2, 3):
        assert found[f"online/{k}"].stage.onward is found[f"online/{k - 1}"]
        assert found[f"online/{k}"].stage.start is None
        assert found[f"online/{k}/restored"].stage.asked.model is found[f"online/{k - 1}"]
        assert found[f"online/{k}/restored"].stage.before is found[f"online/{k - 1}/restored"]
    assert len({found[f"online/{k}"].stage.seed for k in (1, 2, 3)}) == 1, "one course has one order"
    assert not found["online/3"].stage.keep
    assert images_seen(found["online/3"]) == 51_200 + 192_000


def test_chains_of_any_length_reach_the_workers():
    """Python cannot pickle steps that need one another to a depth of hundreds."""
    found = {n.label: n for n in graph.walk(online(online=Online(refreshes=150)))}
    pickle.dumps(found["online/150"].stage.make(lambda data: data.address))


def test_what_a_part_takes_can_be_estimated_before_anything_is_made(tmp_path):
    found = {n.label: n for n in graph.walk(online(online=Online(refreshes=3), backbone=TINY, fit=FIT))}
    store = Store(str(tmp_path / "store"))
    taken = probe(found["online/3"], found["online/3"].stage, store, 4)
    assert (taken.images, taken.batch, len(taken.seconds)) == (96, 16, 3)
    assert not store.addresses()


def test_a_toy_of_it_runs_from_end_to_end(run):
    toy = mlp.Config(width=32, blocks=1)
    how = {"samples": 20, "backbone": toy, "fit": Fit(images=640), "clean_fit": Fit(images=640)}
    few = Harm(clean=30, count=120, test=40)
    made = run(online(harm=few, online=Online(refreshes=3, part=0.5, adaptive=True), **how))
    assert {"denoising_error/online", "ratio"} <= json.loads(made.read("metrics.json")).keys()


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: Online(refreshes=0), "refreshes is 0"),
        (lambda: Online(part=0.0), r"part is 0\.0"),
        (lambda: Online(ramp=1.5), r"ramp 1\.5"),
        (lambda: Online(residual=1.0), r"residual is 1\.0"),
        (lambda: Rounds(ramp=0), "ramp 0"),
        (lambda: Refresh(ASKED, None, 1.5), r"part is 1\.5"),
        (lambda: Refresh(replace(ASKED, noise=None), adaptive=True), "leave out adaptive"),
        (lambda: Learned(NOISY, factor=0.0), "leave the rows out"),
        (lambda: TrainAmbient((Learned(NOISY),), start=FIRST, onward=FIRST, fit=divided(FIT, 2)), "leave out start"),
        (lambda: TrainAmbient((Learned(NOISY),), fit=FIT, keep=True), r"fit\.cosine to false"),
        (lambda: TrainAmbient((Learned(NOISY),), fit=replace(FIT, cosine=False, posthoc=PostHoc()), keep=True), "post"),
    ],
)
def test_what_makes_no_sense_is_refused_before_any_work(build, says):
    with pytest.raises(ValueError, match=says):
        build()
