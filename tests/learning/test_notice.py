"""A run that is told to end stops after a whole step and goes on later as if it had never been told."""

from __future__ import annotations

import os
import signal

import pytest
import torch
from test_resume import STEPS, course
from tiny_backbone import same

from pipeline.learning.background import Background
from pipeline.learning.checkpoint import Checkpoints
from pipeline.learning.loop import Every
from pipeline.learning.notice import Notice


@pytest.fixture(scope="module")
def whole():
    log = []
    return course(0, log).run(), log[:STEPS]


def attempt(seed, log, folder, notice, hooks=()):
    """One life of a process: from the last checkpoint to the end, or to where it is told to stop."""
    run, kept = course(seed, log), Checkpoints(folder)
    kept.restore(run.state)
    begun = run.state.step
    with Background(kept) as saving:
        run.run(hooks, stop=notice)
        saving.save(run.state)
    del log[run.state.step - begun :]  # a batch more is fetched than is used, sometimes
    return run


class Signalled:
    """A process whose machine is taken away after some steps of every life: `SIGTERM` comes while a step is done."""

    def __init__(self, log, after):
        self.log, self.after = log, after

    def append(self, index):
        self.log.append(index)
        if len(self.log) == self.after:
            os.kill(os.getpid(), signal.SIGTERM)

    def __delitem__(self, cut):
        del self.log[cut]


@pytest.mark.slow
@pytest.mark.parametrize("after", [1, 5, 7, 24])
def test_a_run_that_is_ended_by_sigterm_again_and_again_is_the_run_that_was_not(whole, tmp_path, after):
    want, order = whole
    seen, lives, called = [], 0, []
    before = signal.getsignal(signal.SIGTERM)
    while True:
        log = []
        with Notice() as notice:
            hook = Every(10**9, lambda state, metrics: called.append(state.step))
            run = attempt(lives, Signalled(log, after), tmp_path, notice, [hook])
        assert notice.given == (len(log) == after)
        seen += log
        lives += 1
        if run.over:
            break
        assert len(log) == after, "it did not stop after the step in which it was told"
        assert not called, "hooks are for images seen and for the end, which this is not"
        torch.manual_seed(lives)
    assert signal.getsignal(signal.SIGTERM) is before
    assert lives == -(-STEPS // after)
    assert seen == order
    assert called == [STEPS]
    assert run.state.meta() == want.meta()
    assert same(run.state.tensors(), want.tensors())


def test_a_second_signal_is_not_held_back():
    heard = []
    before = signal.signal(signal.SIGTERM, lambda *said: heard.append(said))
    try:
        with Notice() as notice:
            signal.raise_signal(signal.SIGTERM)
            assert (notice(), heard) == (True, [])
            signal.raise_signal(signal.SIGTERM)
            assert len(heard) == 1
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_step_that_ends_the_run_badly_is_not_taken_for_a_good_place_to_stop():
    run = course(0, [])
    inner = run.batches

    def batches(*where):
        for batch in inner(*where):
            batch.x[0] = float("nan")
            yield batch

    run.batches = batches
    with pytest.raises(FloatingPointError, match="step 0"):
        run.run(stop=lambda: True)
