"""A run that meets what is not finite goes back and passes over it: as if those images had never been, to the bit."""

from __future__ import annotations

import logging
import math
from itertools import islice

import pytest
import torch
from processes import together
from test_loop import Broken
from tiny_backbone import batches, build, same

from pipeline.diffusion.levels import Stratified
from pipeline.keys import Key
from pipeline.learning.checkpoint import Checkpoints
from pipeline.learning.course import Course
from pipeline.learning.ema import EMA
from pipeline.learning.guard import NotFinite
from pipeline.learning.loop import Clock, Every, fit
from pipeline.learning.optim import AdamW
from pipeline.learning.posthoc import PostHoc
from pipeline.learning.state import State
from pipeline.learning.weighting import LevelWeight
from pipeline.objectives.denoising import Denoising

BATCH, STEPS, ANCHOR = 16, 10, 48  # step 7 goes wrong, what it was at step 6 is remembered, step 9 is when it is found
HURTS = 7 * BATCH + 3
BAD = [Broken(HURTS, math.nan), Broken(HURTS, math.inf), Broken(HURTS, 0.0, gradient=True)]
KINDS = ["nan", "inf", "gradient"]


def course(seed=0, objective=BAD[0], log=None, dropout=0.3, weight=True, **clock):
    """Everything that has a state is in it: dropout, moments, three averages, level weights, best."""
    optim = AdamW(lr=1e-2, weight_decay=0.1, warmup=40)
    state = State.create(
        build(seed, dropout=dropout), optim, EMA(60, 0.5), PostHoc(), LevelWeight() if weight else None
    )

    def stream(start, rank, world):
        for batch in batches(BATCH, start, rank, world):
            if log is not None:
                log.append(int(batch.index[0]))
            yield batch

    wanted = {"validate": 3 * BATCH, "rollbacks": 1, "anchor": ANCHOR} | clock
    score = lambda model: float(sum(p.sum() for p in model.parameters()).sin())  # noqa: E731
    clock = Clock(STEPS * BATCH, BATCH, **wanted)
    return Course(state, stream, objective, Stratified(), clock, Key(1), score)


@pytest.mark.slow
@pytest.mark.parametrize("objective", BAD, ids=KINDS)
def test_it_is_as_if_the_images_since_the_moment_remembered_had_never_been(objective):
    log = []
    made = course(objective=objective, log=log).run()
    assert log == [*range(0, 9 * BATCH, BATCH), *range(8 * BATCH, 12 * BATCH, BATCH)]
    assert (made.images, made.rollbacks, made.passed, made.position) == (160, 1, 2 * BATCH, 192)
    want = course(rollbacks=0)
    part = Clock(6 * BATCH, BATCH, validate=3 * BATCH)
    fit(want.state, batches(BATCH), Denoising(), want.levels, part, want.key, validate=want.validate)
    after, key = batches(BATCH, 8 * BATCH), want.key.fold("rolled back", 1)
    fit(want.state, after, Denoising(), want.levels, want.clock, key, validate=want.validate)
    assert same(made.tensors(), want.state.tensors())
    assert made.meta() == want.state.meta() | {"rollbacks": 1, "passed": 2 * BATCH}
    assert all(bool(t.isfinite().all()) for t in made.tensors().values())


class Killed(Exception):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("cut", range(1, STEPS + 2))
def test_a_run_killed_after_any_step_rolls_back_to_the_same_moment(tmp_path, cut):
    """Saved after every step, killed after the cut-th that was taken, before or after the roll-back."""
    want, log, seen, kept = course().run(), [], [], Checkpoints(tmp_path)

    def save(state, metrics):
        kept.save(state)
        seen.append(state.step)
        if len(seen) == cut:
            raise Killed

    with pytest.raises(Killed):
        course().run([Every(BATCH, save)])
    second = course(seed=5, log=log)
    assert kept.restore(second.state)
    assert second.state.step == seen[-1] == (cut if cut < 8 else cut - 1)
    second.run([Every(BATCH, save)])
    assert same(second.state.tensors(), want.tensors())
    assert second.state.meta() == want.meta()
    assert log == [] or max(log) <= 12 * BATCH


def test_the_moment_is_in_a_checkpoint_only_where_it_is_another(tmp_path):
    sizes = {}
    made = course(objective=Denoising())
    made.run([Every(BATCH, lambda state, metrics: sizes.update({state.step: len(state.tensors())}))])
    assert {step for step, size in sizes.items() if size == sizes[3]} == {3, 6, 9, 10}
    assert made.state.back is None
    assert "back" not in made.state.meta()


@pytest.mark.parametrize("objective", BAD, ids=KINDS)
def test_so_often_and_no_more(objective):
    class Always(Broken):
        """From step 7 on, wherever the images come from."""

        def loss(self, D, batch, sigma, drawn):
            held = batch.index.clone()
            batch.index[:] = torch.where(batch.index >= 7 * BATCH, self.example, batch.index)
            loss = super().loss(D, batch, sigma, drawn)
            batch.index[:] = held
            return loss

    run = course(objective=Always(objective.example, objective.value, objective.gradient), rollbacks=3)
    with pytest.raises(NotFinite, match=r"step 6 at 96 images"):
        run.run()
    assert (run.state.rollbacks, run.state.passed) == (3, 4 * BATCH)
    good = course(objective=Denoising(), rollbacks=0)
    fit(
        good.state,
        batches(BATCH),
        Denoising(),
        good.levels,
        Clock(96, BATCH, validate=48),
        good.key,
        validate=good.validate,
    )
    assert same(run.state._tensors(), good.state.tensors())


def test_skips_come_first_and_are_those_of_the_steps_that_count():
    assert course(skips=1).run().rollbacks == 0
    twice = Broken(HURTS, math.nan)
    run = course(objective=twice, skips=1)
    inner = run.batches
    run.batches = lambda start, rank, world: (
        b if b.index[0] != 8 * BATCH else next(batches(BATCH, 7 * BATCH)) for b in inner(start, rank, world)
    )
    made = run.run()
    assert (made.rollbacks, made.skipped, made.passed) == (1, 0, 3 * BATCH)


def test_the_log_names_the_examples_and_says_where_the_run_goes_on(caplog):
    run = course()
    run.names = lambda index: [f"image-{i}" for i in index]
    with caplog.at_level(logging.WARNING, "kintsugi"):
        run.run()
    (said,) = (record.getMessage() for record in caplog.records)
    assert f"step 7 at 112 images: the loss of example ['image-{HURTS}'] is not finite" in said
    assert "Rolled back to 96 images, and on with number 128 of the order, for the 1. of at most 1 times" in said
    caplog.clear()
    with caplog.at_level(logging.WARNING, "kintsugi"):
        course(skips=1).run()
    assert [r.getMessage() for r in caplog.records] == [
        f"1 steps passed over, 0 before: the loss of example [{HURTS}] is not finite"
    ]


def test_checkpoints_that_were_gone_back_on_make_way(tmp_path):
    kept, state = Checkpoints(tmp_path), State.create(build(width=2))
    for images in (10, 20):
        state.images = images
        kept.save(state)
    state.images = 15
    with pytest.raises(ValueError, match="further than this run"):
        kept.save(state)
    state.rollbacks = 1
    kept.save(state)
    assert kept.latest()[1]["images"] == 15


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="say how often"):
        Clock(16, 16, rollbacks=1)
    for wrong in ({"skips": -1}, {"rollbacks": -1, "anchor": 16}):
        with pytest.raises(ValueError, match="numbers from 0"):
            Clock(16, 16, **wrong)
    with pytest.raises(ValueError, match="call remember first"):
        State.create(build()).roll_back(16)
    state = course(objective=Denoising()).state
    state.remember()
    state.images = 16
    tensors, meta = state.tensors(), state.meta()
    with pytest.raises(ValueError, match=r"no training run's: it has no .*images"):
        state.load(tensors, meta | {"back": {}})
    with pytest.raises(ValueError, match=r"model.net.calls: none in the checkpoint"):
        state.load({name: t for name, t in tensors.items() if name != "back.model.net.calls"}, meta)


WORKER = """
import sys
import torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from test_rollback import BAD, BATCH, course
from pipeline.learning.loop import Every

rank, world, folder = int(sys.argv[1]), 2, sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
for kind, objective in enumerate(BAD):
    made = course(objective=objective, dropout=0.0, weight=False, micro=4)
    hooks = [Every(BATCH, lambda state, metrics: None)] if rank == 0 else []  # the others hear of it later
    made.run(hooks, rank, world, DistributedDataParallel(made.state.model))
    torch.save((made.state.tensors(), made.state.meta()), f"{folder}/{kind}-{rank}.pt")
dist.barrier()
"""


@pytest.mark.slow
def test_two_processes_go_back_together_though_one_alone_saw_why(tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    together(2, script, tmp_path)
    for kind, objective in enumerate(BAD):
        one = course(objective=objective, dropout=0.0, weight=False, micro=8).run()
        (first, meta), (second, other) = (torch.load(tmp_path / f"{kind}-{rank}.pt") for rank in range(2))
        assert meta == other
        assert (meta["images"], meta["passed"], meta["rollbacks"]) == (one.images, one.passed, 1)
        assert same(first, second)
        for name, tensor in one.tensors().items():
            assert bool(first[name].isfinite().all())
            if name.startswith(("model", "average")):
                torch.testing.assert_close(first[name], tensor, atol=1e-3, rtol=1e-2)


def test_a_row_that_hurts_is_passed_over_in_every_epoch_that_it_comes_up_in():
    """The order repeats after 5 batches; the same row comes up twice and is gone back on twice."""
    run = course(rollbacks=2, anchor=BATCH, validate=None, objective=Broken(35, math.nan))
    seen = []

    def repeat(start, rank, world):
        for k in range(start // BATCH, 99):
            batch = next(islice(batches(BATCH, (k % 5) * BATCH), 1))
            seen.append(k)
            yield batch

    run.batches = repeat
    made = run.run()
    assert (made.rollbacks, made.images, made.position) == (2, 160, 192)
    assert seen == list(range(12))
