"""A run of 24 steps over five epochs, cut at every step: weights, moments, averages, order and metrics are the same."""

from __future__ import annotations

import logging
import threading

import numpy as np
import pytest
import torch
from heard import warned
from tiny_backbone import build, same

from pipeline.data.reader import InMemory
from pipeline.data.records import Examples
from pipeline.diffusion.levels import Stratified
from pipeline.keys import Key
from pipeline.learning.background import Background
from pipeline.learning.checkpoint import Checkpoints, flaw
from pipeline.learning.course import Course
from pipeline.learning.ema import EMA
from pipeline.learning.loop import Clock, Every
from pipeline.learning.optim import AdamW, InverseSqrt
from pipeline.learning.posthoc import PostHoc
from pipeline.learning.speed import Speed
from pipeline.learning.state import State
from pipeline.learning.weighting import LevelWeight
from pipeline.objectives.denoising import Denoising
from pipeline.objectives.objective import Batch

STEPS, BATCH, ROWS = 24, 8, 40  # an epoch ends after every fifth step, and one after the 20th


def course(seed, log, steps=STEPS, width=32):
    """Everything that has a state is in it: dropout, moments, three averages, level weights, best, patience."""
    rows = InMemory(
        Examples(tuple(map(str, range(ROWS))), np.arange(2 * ROWS).reshape(ROWS, 2).astype(np.float16) / 80)
    )

    def stream(start, rank, world):
        for part in rows.batches(BATCH, 3, start, rank, world):
            log.append(part.index.tolist())
            yield Batch(part.x(), index=torch.from_numpy(part.index), total=BATCH)

    optim = AdamW(lr=1e-2, weight_decay=0.1, warmup=40, schedule=InverseSqrt(100))
    state = State.create(build(seed, dropout=0.3, width=width), optim, EMA(60, 0.5), PostHoc(), LevelWeight())
    clock = Clock(steps * BATCH, BATCH, micro=5, validate=3 * BATCH)
    score = lambda model: float(sum(p.sum() for p in model.parameters()).sin())  # noqa: E731
    return Course(state, stream, Denoising(), Stratified(), clock, Key(1), score, bf16=True)


@pytest.fixture(scope="module")
def whole():
    """The run that was never cut, the rows it saw and the metrics of each step."""
    log, metrics = [], []
    state = course(0, log).run([Every(BATCH, lambda state, found: metrics.append(found))])
    assert all(sorted(row for step in log[5 * e : 5 * e + 5] for row in step) == list(range(ROWS)) for e in range(4))
    return state, log[:STEPS], metrics


@pytest.mark.slow
@pytest.mark.parametrize("cut", range(1, STEPS + 1))
def test_a_run_cut_after_any_step_goes_on_as_if_it_were_not(whole, tmp_path, cut, caplog):
    want, order, told = whole
    log, metrics = [], []
    note = Every(BATCH, lambda state, found: metrics.append(found))
    with Background(Checkpoints(tmp_path)) as saving:
        course(0, log, cut).run([note, Every(cut * BATCH, lambda state, found: saving.save(state))])
    del log[cut:]
    torch.manual_seed(cut)  # another process: other weights, another state of the global generator
    second = course(9, log)
    assert Checkpoints(tmp_path).restore(second.state)
    assert second.state.step == cut
    with caplog.at_level(logging.WARNING, "kintsugi"):
        second.run([note])
    assert ("nothing left to do" in caplog.text) == (cut == STEPS)
    assert log[:STEPS] == order
    assert len(log) <= STEPS + 1 or cut == STEPS
    assert metrics == told
    assert second.state.meta() == want.meta()
    assert same(second.state.tensors(), want.tensors())
    assert len(want.averages) == 3
    for (_, mine), (_, theirs) in zip(second.state.averages, want.averages, strict=True):
        assert same(mine.state_dict(), theirs.state_dict())
    assert same(second.state.weight.state_dict(), want.weight.state_dict())


def test_what_is_saved_is_the_moment_at_which_saving_was_asked_for(tmp_path, monkeypatch):
    """The disk is slow: training goes on meanwhile, and what it does is not in the checkpoint."""
    go, inner, at = threading.Event(), Checkpoints.put, []

    def slow(self, images, *given):
        assert go.wait(30)
        return inner(self, images, *given)

    monkeypatch.setattr(Checkpoints, "put", slow)
    run = course(0, [], 4)
    held = []
    with Background(Checkpoints(tmp_path, keep=9)) as saving:

        def save(state, found):
            if not at:
                saving.save(state)
                held.append({name: tensor.clone() for name, tensor in state.tensors().items()})
            at.append(state.step)

        run.run([Every(BATCH, save)])
        assert at == [1, 2, 3, 4], "training waited for the disk"
        assert Checkpoints(tmp_path).latest() is None
        go.set()
    found = Checkpoints(tmp_path).latest()
    assert found is not None
    assert found[1]["step"] == 1
    assert same(found[0], held[0])
    assert not same(found[0], run.state.tensors())


def test_what_the_disk_refuses_is_raised_by_the_next_save_or_the_end(tmp_path, monkeypatch):
    def full(self, *given):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Checkpoints, "put", full)
    state = course(0, []).state
    with pytest.raises(OSError, match="No space"), Background(Checkpoints(tmp_path)) as saving:
        saving.save(state)
    saving.save(state)
    with pytest.raises(OSError, match="No space"):
        saving.save(state)
    error = ZeroDivisionError()
    saving.save(state)
    saving.__exit__(ZeroDivisionError, error, None)
    assert any("could not be written" in note for note in error.__notes__)


def test_a_damaged_newest_checkpoint_costs_its_steps_and_nothing_else(whole, tmp_path):
    kept = Checkpoints(tmp_path, keep=2)
    course(0, [], 12).run([Every(4 * BATCH, lambda state, found: kept.save(state))])
    newest = tmp_path / f"{12 * BATCH:012d}" / "state.safetensors"
    newest.write_bytes(newest.read_bytes()[:-3] + b"abc")
    assert flaw(newest.parent) is not None
    second = course(4, [])
    with warned(r"000096 is damaged .*: trying the one before it"):
        assert kept.restore(second.state)
    assert second.state.step == 8
    second.run([Every(4 * BATCH, lambda state, found: kept.save(state))])
    assert same(second.state.tensors(), whole[0].tensors())


def test_a_checkpoint_of_something_else_is_refused_with_both_shapes_and_changes_nothing(tmp_path):
    kept = Checkpoints(tmp_path)
    first = course(0, [], 2)
    first.run([Every(BATCH, lambda state, found: kept.save(state))])
    other = course(5, [], width=16).state
    before = {name: tensor.clone() for name, tensor in other.tensors().items()}
    wrong = r"model.net.layers.0.weight: \(32, 5\) in the checkpoint, \(16, 5\) here"
    with pytest.raises(ValueError, match=wrong):
        kept.restore(other)
    plain = State.create(build(3, width=32))
    with pytest.raises(ValueError, match=r"weight.share: \(128,\) in the checkpoint, none here"):
        kept.restore(plain)
    with pytest.raises(ValueError, match=r"stranger.x: \(1,\) in the checkpoint, none here"):
        other.load(other.tensors() | {"stranger.x": torch.zeros(1)}, other.meta())
    tensors, meta = kept.latest()
    cut = {name: tensor for name, tensor in tensors.items() if not name.startswith("optimiser.3.exp_avg_sq")}
    with pytest.raises(ValueError, match=r"optimiser.3.exp_avg_sq: none in the checkpoint"):
        course(5, []).state.load(cut, meta)
    with pytest.raises(ValueError, match=r"no training run's: it has no images"):
        first.state.load(tensors, {name: meta[name] for name in meta if name != "images"})
    assert same(other.tensors(), before)


def test_speed_is_the_courses_and_the_machines(tmp_path):
    one, other = course(0, [], 3), course(0, [], 3)
    other.bf16 = False
    one.run()
    seen = []
    other.state.model.register_forward_hook(lambda *_: seen.append(torch.get_float32_matmul_precision()))
    other.tf32 = True
    other.run(speed=Speed(bf16=True, checkpointing=True))
    assert set(seen) == {"high"}
    assert torch.get_float32_matmul_precision() == "highest"
    assert same(one.state.model.state_dict(), other.state.model.state_dict())
