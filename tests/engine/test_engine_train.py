"""Ray Train adds workers and restarts and changes nothing else."""

from __future__ import annotations

import errno
import os
import threading
import time
from dataclasses import replace
from functools import partial

import courses
import numpy as np
import pytest
import torch

from pipeline.engine import cluster
from pipeline.engine.conceded import Conceded
from pipeline.engine.kept import CHECKPOINTS
from pipeline.engine.preview import name, preview
from pipeline.engine.train import Cadence, begin_alike, train
from pipeline.graph import Context, Scale
from pipeline.learning.checkpoint import Checkpoints
from pipeline.learning.loop import Every
from pipeline.learning.peers import Peers
from pipeline.learning.step import Unable
from pipeline.store import Store

pytestmark = [pytest.mark.ray, pytest.mark.slow]
CADENCE = Cadence(batch=16, post=64, checkpoint=96)


class Seen:
    def __init__(self):
        self.at, self.said, self.losses, self.pictures = [], [], [], {}

    def metrics(self, values, at):
        self.at.append(at)
        self.losses.append([values["loss"], values["mse"]])

    def warn(self, text):
        self.said.append(text)

    def picture(self, name, png):
        self.pictures[name] = png


@pytest.fixture
def place(tmp_path):
    def context(scale: Scale = Scale()):
        store = Store(str(tmp_path / "store"))
        return Context(store.place / "out", store, scale, Seen())

    return context


@pytest.fixture(scope="module")
def bare():
    """The bare loop's weights, without Ray."""
    course = courses.plain(torch.device("cpu"))
    return courses.weights(course.run())["weights.bin"]


@pytest.fixture(scope="module")
def one(one_ray, tmp_path_factory):
    """What one worker was given that was killed on its way, and the metrics it ended with."""
    marker = tmp_path_factory.mktemp("one") / "killed"
    store = Store(str(marker.parent / "store"))
    at = Context(store.place / "out", store, Scale(), Seen())
    metrics = train(partial(courses.killed, marker=str(marker)), courses.weights, at, CADENCE)
    assert marker.exists(), "it was never killed"
    return at, metrics


def test_one_worker_learns_what_the_bare_loop_learns_to_the_bit_though_it_is_killed(one, bare):
    at, metrics = one
    assert at.out.read("weights.bin") == bare
    assert metrics["images"] == courses.FIT.images
    assert {"loss", "images_per_second", "input_wait_percent", "eta"} <= metrics.keys()
    assert at.tracker.at == sorted(at.tracker.at)
    assert at.tracker.at[-1] == courses.FIT.images


def test_at_every_checkpoint_the_average_draws_what_it_would_draw_anywhere(one):
    at, _ = one
    seen = {}
    course = courses.plain(torch.device("cpu"))
    course.run([Every(CADENCE.checkpoint, lambda state, metrics: seen.update({state.images: preview(state.average)}))])
    assert list(seen) == [96, 192, 288, 384, 480]
    drawn = {file: at.out.read(file) for file in at.out.names() if file.startswith("previews/")}
    assert drawn == {name(images): png for images, png in seen.items()}, "though a worker was killed on the way"
    assert at.tracker.pictures == {file.replace("/", "-"): png for file, png in drawn.items()}
    assert len(set(drawn.values())) == 5


def test_a_run_that_is_over_comes_back_from_its_checkpoint(one, bare):
    at, _ = one
    at.out.remove("weights.bin")
    train(courses.poisoned, courses.weights, at, CADENCE)
    assert at.out.read("weights.bin") == bare, "it trained again, or from the beginning"


@pytest.fixture(scope="module")
def pair(one_ray, tmp_path_factory):
    """Where two workers trained whom nothing happened to, saving after every step."""
    store = Store(str(tmp_path_factory.mktemp("two") / "store"))
    at = Context(store.place / "out", store, Scale(workers=2, save=1e-9, keep=3), Seen())
    train(courses.undropped, courses.weights, at, CADENCE)
    return at


@pytest.fixture
def two(pair):
    """What they learned."""
    return pair.out.read("weights.bin")


def test_checkpoints_are_written_when_time_has_passed_and_so_many_are_kept(pair):
    """Three in a row: those by images seen are six steps apart."""
    assert {name.split("/")[0] for name in (pair.out / CHECKPOINTS).names()} == {f"{n:012d}" for n in (448, 464, 480)}


def test_what_is_posted_does_not_depend_on_how_many_workers_there_are(pair):
    want, course = [], courses.undropped(torch.device("cpu"))
    hooks = [Every(CADENCE.post, lambda state, found: want.append([found["loss"], found["mse"]]))]
    course.run([*hooks, Every(CADENCE.checkpoint, lambda state, found: None)])
    np.testing.assert_allclose(pair.tracker.losses, want, rtol=1e-6)


def test_what_workers_warn_of_is_said_once_and_kept(pair, two, caplog):
    """Both find that the newest checkpoint is damaged, and the one before it."""
    for images in (464, 480):
        path = f"{CHECKPOINTS}/{images:012d}/state.safetensors"
        pair.out.write(path, pair.out.read(path)[:-3] + b"abc")
    pair.tracker.said.clear()
    train(courses.undropped, courses.weights, pair, CADENCE)
    said = [record.getMessage() for record in caplog.records]
    for images in (464, 480):
        assert [f"{images:012d} is damaged (state.safetensors has changed)" in text for text in said].count(True) == 1
    assert pair.tracker.said == said
    assert pair.out.read("weights.bin") == two


def test_the_images_that_hurt_are_named_whichever_worker_had_them(one_ray, place, caplog):
    at = place(Scale(workers=2))
    metrics = train(courses.spoilt_twice, courses.weights, at, CADENCE)
    assert metrics["skipped"] == 2
    course = courses.spoilt_twice(torch.device("cpu"))
    first, second = (f"id-{b.index[-1]}" for k, b in zip(range(30), course.batches(0, 0, 1)) if k in (11, 13))
    said = [record.getMessage() for record in caplog.records]
    assert said == at.tracker.said
    assert said == [  # posting in between looks in between
        f"1 steps passed over, 0 before: the loss of example ['{first}'] is not finite",
        f"2 steps passed over, 1 before: the loss of example ['{second}'] is not finite",
    ]


def test_two_workers_learn_what_one_learns(two, bare):
    alone = courses.weights(courses.undropped(torch.device("cpu")).run())["weights.bin"]
    one, both = (np.frombuffer(data, np.float32) for data in (alone, two))
    np.testing.assert_allclose(both, one, rtol=0, atol=2e-5)
    assert np.abs(one - np.frombuffer(bare, np.float32)).max() > 1e-3, "dropout made no difference: a weak test"


def test_as_many_workers_as_there_is_room_for_stop_when_one_is_told_to_and_go_on_from_that_step(
    two, place, tmp_path, caplog
):
    at = place(Scale(workers=1, cpus=cluster.capacity()[0] / 2, most=3, shard=True))
    marker = tmp_path / "told"
    train(partial(courses.told, marker=str(marker)), courses.weights, at, CADENCE)
    assert marker.exists(), "it was never told"
    assert at.out.read("weights.bin") == two
    said = [record.getMessage() for record in caplog.records]
    assert said.count("training with 2 of up to 2 workers") == 2
    assert "3 workers cannot share a batch of 16: at most 2 do" in said
    (went,) = [int(word) for text in said if "told to end" in text for word in text.split() if word.isdigit()]
    assert 300 < went < 480
    assert went % CADENCE.checkpoint, "a checkpoint was due there anyway: a weak test"


def interrupted(when):
    """A command that a person interrupts."""
    with cluster.connect():
        while not when():
            time.sleep(0.1)
        raise KeyboardInterrupt


def test_what_a_person_interrupts_ends_with_a_checkpoint_from_which_it_goes_on(one_ray, place, bare):
    at, ended = place(), []

    def work():
        try:
            train(courses.slow, courses.weights, at, CADENCE)
        except BaseException as error:
            ended.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        interrupted(lambda: not thread.is_alive() or max(at.tracker.at, default=0) >= 300)
    thread.join(60)
    assert isinstance(ended[0], KeyboardInterrupt)
    course = courses.plain(torch.device("cpu"))
    assert Checkpoints(at.out.folder(CHECKPOINTS)).restore(course.state)
    assert 300 < course.state.images < 480
    assert course.state.images % CADENCE.checkpoint, "a checkpoint was due there anyway: a weak test"
    assert courses.weights(course.run())["weights.bin"] == bare


def test_a_worker_that_hangs_is_found_named_and_replaced(two, place, tmp_path, caplog):
    at = place(Scale(workers=2, hang_after=8))
    marker = tmp_path / "hung"
    train(partial(courses.hung, marker=str(marker)), courses.weights, at, CADENCE)
    assert marker.exists(), "it never hung"
    assert at.out.read("weights.bin") == two
    said = [record.getMessage() for record in caplog.records]
    assert any(text.startswith("no step was finished for ") for text in said)
    # The last: a busy machine may have been taken for one that hangs before.
    waiting, asleep = ([text for text in said if text.startswith(f"worker {rank}:")][-1] for rank in (0, 1))
    assert "asleep_for_ever" in asleep
    assert "asleep_for_ever" not in waiting
    assert "pipeline/learning/step.py" in waiting


def test_where_one_workers_memory_does_not_suffice_all_begin_again_with_fewer_rows(two, place, caplog):
    """Though no failure is allowed for; the other one was waiting for gradients meanwhile."""
    at = place(Scale(workers=2))
    train(courses.cramped, courses.weights, at, replace(CADENCE, failures=0))
    assert Conceded.read(at.out) == Conceded(micro=4)
    said = [record.getMessage() for record in caplog.records]
    assert said == ["8 rows do not fit: set scale.micro below 8. All workers begin again, with less"]
    one, both = (np.frombuffer(data, np.float32) for data in (two, at.out.read("weights.bin")))
    np.testing.assert_allclose(both, one, rtol=0, atol=2e-5)


def test_workers_that_found_different_checkpoints_refuse_to_begin(monkeypatch):
    """As they do whose folders are their own machines'."""
    state, device = courses.plain(torch.device("cpu")).state, torch.device("cpu")
    others = [torch.tensor([0, 0, 0])]

    class Found(Peers):
        def all(self, mine):
            return torch.stack([mine, *others])

    monkeypatch.setattr("pipeline.engine.train.Peers", Found)
    begin_alike(state, device)
    others[0] = torch.tensor([32, 2, 0])
    with pytest.raises(ValueError, match="different checkpoints, of 0, 32 images: name a --store that all machines"):
        begin_alike(state, device)


def test_what_workers_give_up_adds_up_and_is_never_taken_back():
    less = Conceded().without(Unable("", 9)).without(Unable("", 8)).without(Unable("", 5)).without(Unable(""))
    assert less == Conceded(3, False)
    assert less.of(Scale(compile=True, micro=64)) == Scale(compile=False, micro=3)
    assert less.of(Scale(micro=2)).micro == 2
    assert Conceded().of(Scale(compile=True, micro=64)) == Scale(compile=True, micro=64)
    less = Conceded().without(Unable("", 4)).without(Unable("", 16))
    assert less.micro == 2, "who was slower to say so had asked for more"


def test_what_cannot_be_learned_is_refused_once_and_in_a_sentence(one_ray, place):
    """By all workers at the same step, or those without hooks would wait for the one that has them."""
    at = place(Scale(workers=2))
    with pytest.raises(ValueError, match="not finite"):
        train(courses.poisoned, courses.weights, at, CADENCE)
    assert "weights.bin" not in at.out.names()


def test_two_workers_roll_back_together_and_end_as_one_does(one_ray, place):
    at = place(Scale(workers=2, shard=True))
    metrics = train(courses.poisoned_once, courses.divided, at, CADENCE)
    assert at.out.read("divided") == b"True"
    assert (metrics["images"], metrics["rollbacks"]) == (courses.FIT.images, 1)
    course = courses.poisoned_once(torch.device("cpu"))
    alone = courses.weights(course.run())["weights.bin"]
    assert course.state.passed == 6 * courses.FIT.batch
    one, two = (np.frombuffer(data, np.float32) for data in (alone, at.out.read("weights.bin")))
    np.testing.assert_allclose(two, one, rtol=0, atol=2e-5)


def test_a_disk_that_takes_no_more_is_told_once_and_leaves_no_half_a_checkpoint(one_ray, place, tmp_path):
    at, tried = place(), tmp_path / "tried"
    with pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
        train(partial(courses.unwritable, marker=str(tried)), courses.weights, at, CADENCE)
    assert tried.read_text() == "tried\n", "it was tried again, though nothing had changed"
    assert "weights.bin" not in at.out.names()
    state = courses.plain(torch.device("cpu")).state
    assert Checkpoints(at.out.folder(CHECKPOINTS)).restore(state)
    assert state.images == 96, "the last whole one is not what was kept"
