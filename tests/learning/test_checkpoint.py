"""A run cut anywhere and continued equals one that was not; a damaged checkpoint is never taken for a good one."""

from __future__ import annotations

import hashlib
import json
import os
import shutil

import pytest
import torch
from heard import warned
from tiny_backbone import batches, build, same

from pipeline.diffusion.levels import Stratified
from pipeline.keys import Key
from pipeline.learning import checkpoint
from pipeline.learning.checkpoint import Checkpoints, copied, flaw, read, write
from pipeline.learning.ema import EMA
from pipeline.learning.loop import Clock, Every, fit
from pipeline.learning.optim import AdamW, Cosine
from pipeline.learning.state import State
from pipeline.objectives.denoising import Denoising

STEPS, BATCH = 8, 16


def start(seed=0, **sizes):
    optim = AdamW(lr=1e-2, weight_decay=0.1, warmup=40, schedule=Cosine(STEPS * BATCH))
    return State.create(build(seed, **({"dropout": 0.3} | sizes)), optim, EMA(100, 0.5))


def wiggle(model):
    """A score that goes up and down, so that best, stale and patience all have something to remember."""
    return float(sum(p.sum() for p in model.parameters()).sin())


def train(state, steps=STEPS, hooks=(), patience=None, micro=None):
    clock = Clock(steps * BATCH, BATCH, micro, validate=2 * BATCH, patience=patience)
    source = batches(BATCH, state.images)
    return fit(state, source, Denoising(), Stratified(), clock, Key(1), hooks=hooks, validate=wiggle)


@pytest.fixture(scope="module")
def whole():
    return train(start())


@pytest.mark.parametrize("cut", range(STEPS + 1))
def test_a_run_cut_anywhere_and_continued_is_the_same_to_the_bit(tmp_path, whole, cut):
    first = start()
    if cut:
        train(first, cut)
    Checkpoints(tmp_path).save(first)
    torch.manual_seed(999)  # another process: other weights, another state of the global generator
    second = start(seed=5)
    assert Checkpoints(tmp_path).restore(second)
    assert second.images == cut * BATCH
    train(second)
    assert same(second.tensors(), whole.tensors())
    assert second.meta() == whole.meta()
    assert same(second.result().state_dict(), whole.result().state_dict())


def test_two_cuts_and_a_killed_run_are_the_same_too(tmp_path, whole):
    """A run that dies between checkpoints loses the steps after the last one and nothing else."""

    class Killed(Exception):
        pass

    def die(state, metrics):
        raise Killed

    store = Checkpoints(tmp_path)
    for steps in (3, 5, 7):
        state = start(seed=steps - 3)
        store.restore(state)
        hooks = [Every(2 * BATCH, lambda s, m: store.save(s)), Every(steps * BATCH, die)]
        with pytest.raises(Killed):
            train(state, hooks=hooks)
    state = start(seed=9)
    store.restore(state)
    assert state.images == 6 * BATCH
    assert same(train(state).tensors(), whole.tensors())


def test_cuts_with_micro_batches_are_the_same_too(tmp_path):
    want = train(start(), micro=6)
    first, second = train(start(), 3, micro=6), start(seed=2)
    Checkpoints(tmp_path).save(first)
    Checkpoints(tmp_path).restore(second)
    assert same(train(second, micro=6).tensors(), want.tensors())


def test_patience_survives_a_cut(tmp_path):
    want = train(start(), 40, patience=2)
    assert want.images < 40 * BATCH
    first, second = train(start(), want.step - 1, patience=2), start(seed=2)
    Checkpoints(tmp_path).save(first)
    Checkpoints(tmp_path).restore(second)
    assert second.stale == 1
    train(second, 40, patience=2)
    assert second.meta() == want.meta()
    assert same(second.tensors(), want.tensors())


def test_dropout_and_the_key_do_matter(whole):
    """Guards the tests above: without these differences equality would say nothing."""
    plain = train(start(dropout=0.0))
    assert not same(plain.tensors(), whole.tensors())
    state = start()
    other = fit(state, batches(BATCH), Denoising(), Stratified(), Clock(STEPS * BATCH, BATCH), Key(2))
    assert not same(other.model.state_dict(), whole.model.state_dict())
    assert whole.best is not None
    assert whole.stale > 0 or whole.best_images != whole.images


def test_a_checkpoint_holds_all_and_restores_into_fresh_memory(tmp_path, whole):
    place = Checkpoints(tmp_path).save(whole, extra={"note": "σ"})
    tensors, meta = read(place)
    assert same(tensors, whole.tensors())
    assert meta == whole.meta() | {"extra": {"note": "σ"}}
    twin = start(seed=3)
    twin.load(whole.tensors(), whole.meta())
    train(twin, STEPS + 2)
    assert same(whole.tensors(), tensors)


def test_only_the_newest_are_kept(tmp_path):
    store = Checkpoints(tmp_path, keep=3)
    train(start(), hooks=[Every(BATCH, lambda s, m: store.save(s))])
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"{n * BATCH:012d}" for n in (6, 7, 8)]
    assert store.latest()[1]["images"] == 8 * BATCH
    assert Checkpoints(tmp_path / "none").latest() is None
    assert not Checkpoints(tmp_path / "none").restore(start())
    with pytest.raises(ValueError, match="at least 1"):
        Checkpoints(tmp_path, keep=0)


@pytest.fixture
def two(tmp_path):
    """A store of two small checkpoints: the older and the newer."""
    store, state = Checkpoints(tmp_path), State.create(build(width=2))
    places = []
    for images in (10, 20):
        state.images = images
        places.append(store.save(state))
    return store, *places


def falls_back(store):
    with warned("is damaged") as caught:
        found = store.latest()
    assert len(caught) == 1
    return found is not None and found[1]["images"] == 10


def test_a_whole_checkpoint_warns_of_nothing(two):
    with warned() as said:
        assert two[0].latest()[1]["images"] == 20
    assert said == []


def test_every_truncation_is_found(two):
    store, _, newer = two
    for path in sorted(newer.iterdir()):
        raw = path.read_bytes()
        for size in {0, 1, 7, 8, len(raw) // 3, len(raw) // 2, len(raw) - 8, len(raw) - 1}:
            path.write_bytes(raw[:size])
            assert falls_back(store), (path.name, size)
        path.write_bytes(raw + b"\0")
        assert falls_back(store), path.name
        path.write_bytes(raw)
    assert flaw(newer) is None


@pytest.mark.slow
def test_every_flipped_bit_is_found(two):
    _, _, newer = two
    for path in sorted(newer.iterdir()):
        raw = path.read_bytes()
        bits = range(8 * len(raw)) if path.name == checkpoint.MANIFEST else range(0, 8 * len(raw), 401)
        for bit in bits:
            bad = bytearray(raw)
            bad[bit // 8] ^= 1 << bit % 8
            path.write_bytes(bad)
            assert flaw(newer) is not None, (path.name, bit)
        path.write_bytes(raw)
    assert flaw(newer) is None


def test_missing_files_are_found_and_two_bad_ones_leave_nothing(two):
    store, older, newer = two
    for name in (checkpoint.TENSORS, checkpoint.NUMBERS, checkpoint.MANIFEST):
        raw = (newer / name).read_bytes()
        (newer / name).unlink()
        assert falls_back(store), name
        with pytest.raises(ValueError, match="use an earlier one"):
            read(newer)
        (newer / name).write_bytes(raw)
    (older / checkpoint.NUMBERS).write_bytes(b"{}")
    (newer / checkpoint.MANIFEST).write_bytes(json.dumps([]).encode())
    with warned("is damaged"):
        assert store.latest() is None


@pytest.mark.parametrize("fatal", ["save_file", "_render", "_sha256", "_sync", "replace"])
def test_a_crash_while_writing_leaves_the_last_one(two, monkeypatch, fatal):
    store, _, newer = two
    state = State.create(build(width=2))
    state.images = 30

    def crash(*given, **named):
        raise OSError("the machine went away")

    target = {"save_file": checkpoint._safetensors(), "replace": os}.get(fatal, checkpoint)
    with monkeypatch.context() as patch:
        patch.setattr(target, fatal, crash)
        with pytest.raises(OSError, match="went away"):
            store.save(state)
    assert store.latest()[1]["images"] == 20
    store.save(state)
    assert store.latest()[1]["images"] == 30
    assert sorted(p.name for p in newer.parent.iterdir()) == [newer.name, f"{30:012d}"]


def test_the_manifest_is_written_last(two, monkeypatch, tmp_path):
    order = []
    render = checkpoint._render
    monkeypatch.setattr(checkpoint, "_render", lambda value: order.append(sorted(value)) or render(value))
    write(tmp_path / "here", {"a": torch.ones(2)}, {"images": 1})
    assert order == [["images"], ["state.json", "state.safetensors"]]


def test_going_back_replaces_damaged_futures_and_refuses_whole_ones(two):
    store, _, newer = two
    state = State.create(build(width=2))
    state.images = 15
    with pytest.raises(ValueError, match="further than this run"):
        store.save(state)
    (newer / checkpoint.NUMBERS).write_bytes(b"")
    store.save(state)
    assert store.latest()[1]["images"] == 15
    assert not newer.exists()
    state.step = 7
    store.save(state)
    assert store.latest()[1]["step"] == 7


def test_the_only_checkpoint_survives_a_crash_while_it_is_replaced(tmp_path, monkeypatch):
    """Between the renames of the old one aside and of the new one into its place."""
    store, state = Checkpoints(tmp_path, keep=1), State.create(build(width=2))
    state.images = 15
    store.save(state)
    real, calls = os.replace, []

    def crashing(source, target):
        calls.append(target)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(checkpoint.os, "replace", crashing)
    with pytest.raises(KeyboardInterrupt):
        store.save(state)
    monkeypatch.undo()
    assert store.latest()[1]["images"] == 15
    store.save(state)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["000000000015"]


def test_another_model_is_refused_and_shared_weights_are_saved(two, tmp_path):
    store, _, newer = two
    with pytest.raises(ValueError, match="of another model"):
        store.restore(State.create(build(width=3)))
    shared = torch.ones(3)
    write(tmp_path / "shared", copied({"a": shared, "b": shared, "c": shared[::2]}), {})
    assert read(tmp_path / "shared")[0]["c"].tolist() == [1, 1]
    shutil.rmtree(newer)
    assert store.latest()[1]["images"] == 10


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        (checkpoint.TENSORS, b"\x80\x04N.", "is none of ours"),
        (checkpoint.TENSORS, (1 << 60).to_bytes(8, "little") + b"{}", "is none of ours"),
        (
            checkpoint.TENSORS,
            b'\x40\0\0\0\0\0\0\0{"a":{"dtype":"F32","shape":[999999999],"data_offsets":[0,4]}}  ',
            "none of",
        ),
        (checkpoint.NUMBERS, b"[]", "holds no numbers by name"),
        (checkpoint.NUMBERS, b"[" * 100_000, "is none of ours"),
        (checkpoint.NUMBERS, b"\xff", "is none of ours"),
    ],
)
def test_what_somebody_else_wrote_is_one_sentence_though_its_hashes_are_right(two, name, data, says):
    _, _, newer = two
    (newer / name).write_bytes(data)
    told = json.loads((newer / checkpoint.MANIFEST).read_bytes())
    (newer / checkpoint.MANIFEST).write_text(json.dumps(told | {name: hashlib.sha256(data).hexdigest()}))
    assert flaw(newer) is None
    with pytest.raises(ValueError, match=says):
        read(newer)


@pytest.mark.parametrize(("name", "value"), [("images", -1), ("step", "7"), ("skipped", True), ("rollbacks", 0.5)])
def test_numbers_that_are_no_counts_are_refused_and_change_nothing(name, value):
    state = start()
    before = copied(state.tensors())
    with pytest.raises(ValueError, match=f"its {name} is"):
        state.load(start(seed=1).tensors(), state.meta() | {name: value})
    assert same(before, state.tensors())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda tensors, meta: meta.update(micro=-3), "its micro is -3"),
        (lambda tensors, meta: meta.update(micro="a"), "its micro is 'a'"),
        (lambda tensors, meta: meta.update(best_score="x"), "its best_score is 'x'"),
        (lambda tensors, meta: [tensors.pop(n) for n in list(tensors) if n.startswith("optimiser.")], "no moments"),
        (lambda tensors, meta: tensors["model.net.layers.0.weight"].fill_(float("nan")), "not finite, in model.net"),
        (lambda tensors, meta: tensors["optimiser.0.exp_avg"].fill_(float("inf")), "not finite, in optimiser.0"),
    ],
)
def test_what_no_run_could_go_on_from_is_refused_and_changes_nothing(whole, change, says):
    tensors, meta, state = copied(whole.tensors()), whole.meta(), start()
    change(tensors, meta)
    before = copied(state.tensors())
    with pytest.raises(ValueError, match=says):
        state.load(tensors, meta)
    assert same(before, state.tensors())


def test_a_manifest_without_an_end_costs_its_checkpoint_alone(two):
    _, _, newer = two
    (newer / checkpoint.MANIFEST).write_text("[" * 100_000)
    assert flaw(newer) == "manifest.json is not JSON"


def test_workers_that_begin_at_once_all_find_a_checkpoint_that_was_left_aside(tmp_path, monkeypatch):
    """As one of them would who sees it there and then finds that another has brought it back."""
    Checkpoints(tmp_path).save(start())
    (place,) = (p for p in tmp_path.iterdir() if p.name.isdigit())
    os.replace(place, tmp_path / f"{checkpoint.REPLACED}{place.name}")
    calls, replace = [], os.replace

    def late(old, new):
        calls.append(old)
        if len(calls) == 1:
            assert Checkpoints(tmp_path).latest() is not None
        replace(old, new)

    monkeypatch.setattr(checkpoint.os, "replace", late)
    assert Checkpoints(tmp_path).latest() is not None
    assert len(calls) == 2


def test_tensors_of_another_kind_of_number_are_refused():
    tensors = start().tensors()
    name = next(iter(tensors))
    with pytest.raises(ValueError, match=r"of int32 in the checkpoint"):
        start().load(tensors | {name: tensors[name].int()}, start().meta())
