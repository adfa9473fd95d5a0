"""An artifact is there whole or not at all, whatever dies, fills up, races or rots."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import random
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import strategies as st

from pipeline import store as store_module
from pipeline.artifact import Damaged, sealed
from pipeline.graph import Context, Stage, Step, step
from pipeline.lease import LEASE, WORK
from pipeline.place import Place, PlaceError
from pipeline.store import Artifact, Store, StoreError, slug

FILES = {"a.txt": b"first", "deep/b.bin": bytes(range(256)) * 40, "empty": b"", "_workshop": b"kept"}


@dataclass(frozen=True)
class Make(Stage):
    name: str = "x"
    kernel: tuple[int, ...] = (1, 2)

    def run(self, at: Context) -> None:
        raise NotImplementedError


def made(store: Store, node: Step, files: dict[str, bytes] = FILES) -> Artifact:
    """Write a step's artifact."""
    with store.writing(node) as out:
        out.write(f"{WORK}/progress", b"1")
        for name, data in files.items():
            out.write(name, data)
    return store.artifact(node.address)


def intact(artifact: Artifact) -> bool:
    return {name: artifact.read(name) for name in artifact.names()} == FILES


@pytest.fixture(params=["local", "memory"])
def store(request, tmp_path):
    return Store(str(tmp_path / "runs") if request.param == "local" else f"memory://{uuid.uuid4().hex}")


def test_what_a_step_writes_is_what_its_artifact_holds(store):
    node = step(Make("x"), label="my label")
    assert store.manifest(node.address) is None
    assert not store.has(node)
    assert store.addresses() == []
    artifact = made(store, node)
    assert intact(artifact)
    assert store.has(node)
    assert store.addresses() == [node.address] == [artifact.address]
    assert artifact.manifest["files"] == {
        name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)} for name, data in FILES.items()
    }
    assert artifact.manifest["config"] == node.config
    attempt = artifact.manifest["attempt"]
    assert store.place.names() == sorted(
        [f"objects/{node.address}/manifest.json", *(f"objects/{node.address}/{attempt}/{name}" for name in FILES)]
    )
    assert Store(store.url).artifact(node.address).names() == artifact.names()


def test_what_is_not_there_is_said(store):
    with pytest.raises(StoreError, match=r"is not in .*: run its recipe first"):
        store.artifact("make/0000")
    with pytest.raises(StoreError, match=r"has no file 'a.tx'; did you mean 'a.txt'\?"):
        made(store, step(Make())).read("a.tx")


# What rots: every kind of damage to every file is found.


def path_of(store: Store, artifact: Artifact, name: str) -> str:
    return f"objects/{artifact.address}/{artifact.manifest['attempt']}/{name}"


@pytest.mark.parametrize("name", [name for name in FILES if FILES[name]])
def test_truncated_flipped_and_missing_files_are_found(store, name):
    artifact = made(store, step(Make()))
    path, data, rng = path_of(store, artifact, name), FILES[name], random.Random(0)
    damaged = [data[: len(data) * i // 20] for i in range(20)] + [data + b"\0", b""]
    for _ in range(25):
        bit = rng.randrange(len(data) * 8)
        damaged.append(bytes(byte ^ (1 << bit % 8 if i == bit // 8 else 0) for i, byte in enumerate(data)))
    for wrong in damaged:
        store.place.write(path, wrong)
        with pytest.raises(StoreError, match="is damaged: delete"):
            artifact.read(name)
    store.place.remove(path)
    with pytest.raises(StoreError, match="is damaged: delete"):
        artifact.read(name)
    store.place.write(path, data)
    assert intact(artifact)


@pytest.mark.parametrize(
    ("manifest", "sentence"),
    [
        (b"", "is damaged"),
        (b"{", "is damaged"),
        (b"\xff\xfe", "is damaged"),
        (b"[]", "is damaged"),
        (b"null", "is damaged"),
        (b"{}", "is damaged"),
        (b"[" * 100_000, "is damaged"),
        (b'{"format": "1"}', "is damaged"),
        (b'{"format": 2}', "was written in format 2, this version reads 1"),
        (b'{"format": 1, "address": "make/other"}', "holds what was made as make/other"),
        (json.dumps({"format": 1, "address": "make/" + "f" * 9999}).encode(), "holds what was made as make/fff"),
    ],
)
def test_a_manifest_that_is_none_is_found(store, manifest, sentence):
    node = step(Make())
    store.place.write(f"objects/{node.address}/manifest.json", manifest)
    for ask in (lambda: store.has(node), lambda: store.artifact(node.address)):
        with pytest.raises(StoreError, match=sentence) as caught:
            ask()
        assert len(str(caught.value)) < 400
        assert f"kintsugi gc --damaged --yes --store {store.url}" in str(caught.value) or "this version" in sentence


@pytest.mark.parametrize("field", ["label", "attempt", "config", "needs", "files", "created"])
def test_a_manifest_that_lacks_a_field_is_damaged(store, field):
    artifact = made(store, step(Make()))
    for wrong in ({}, {field: 3}, {field: {"a": None}}, {field: {"a": {"sha256": "0"}}}):
        manifest = {k: v for k, v in artifact.manifest.items() if k != field} | wrong
        fits = field == "config" and isinstance(wrong.get(field), dict)
        store.place.write(f"objects/{artifact.address}/manifest.json", sealed(manifest))
        with contextlib.nullcontext() if fits else pytest.raises(Damaged, match="is damaged"):
            store.artifact(artifact.address)


def changes(tree: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The tree with one of its values, at any depth, another one; and with one of them left out."""
    for name, value in tree.items():
        yield {k: v for k, v in tree.items() if k != name}
        yield tree | {name: {} if value != {} else {"new": 1}}
        if isinstance(value, dict):
            yield from (tree | {name: inner} for inner in changes(value))


@pytest.mark.slow
def test_a_manifest_changed_by_hand_is_damaged_and_gc_takes_it(store):
    artifact = made(store, step(Make()))
    path = f"objects/{artifact.address}/manifest.json"
    original = store.place.read(path)
    wrong = list(changes(json.loads(original)))
    assert len(wrong) > 20
    for manifest in wrong:
        store.place.write(path, json.dumps(manifest))
        if "sha256" in manifest and "format" in manifest and manifest["format"] == 1:
            with pytest.raises(Damaged, match="kintsugi gc --damaged --yes"):
                store.artifact(artifact.address)
            assert store.garbage(damaged=True) == [f"objects/{artifact.address}"]
    store.place.write(path, json.dumps(json.loads(original), sort_keys=True))  # another layout is no other content
    assert intact(store.artifact(artifact.address))
    unsealed = {name: value for name, value in json.loads(original).items() if name != "sha256"}
    store.place.write(path, json.dumps(unsealed))  # as written before there were seals
    assert intact(store.artifact(artifact.address))


def test_a_hostile_manifest_leads_nowhere_outside(store):
    artifact = made(store, step(Make()))
    hostile = artifact.manifest | {"files": {"../../../../x": {"sha256": hashlib.sha256(b"").hexdigest()}}}
    with pytest.raises(PlaceError):
        Artifact(store.place, hostile).read("../../../../x")
    with pytest.raises(PlaceError):
        Artifact(store.place, artifact.manifest | {"attempt": "../../etc"})


# The same address for two recipes.


def variant(default: Any, **extra: Any) -> Step:
    """A step of one class path whose field has another default, as after an edit of the code."""
    space = {"__annotations__": {"kernel": Any, **dict.fromkeys(extra, Any)}, "kernel": default, **extra}
    cls = type("Edited", (Stage,), space | {"run": Make.run, "__module__": "edited"})
    return step(dataclass(frozen=True)(cls)())


@pytest.mark.parametrize(
    ("old", "new", "path"),
    [
        (1, 2, "kernel"),
        ((1, 2), (1, 3), "kernel.1"),
        ((1, 2), (1, 2, 3), "kernel"),
        ((), (1,), "kernel"),
        (None, Make(), "kernel"),
        (Make("a"), Make("b"), "kernel.name"),
    ],
)
def test_a_changed_default_is_the_same_address_but_another_recipe(store, old, new, path):
    before, after = variant(old), variant(new)
    assert before.address == after.address
    made(store, before)
    assert store.has(variant(old))
    with pytest.raises(StoreError, match=rf"same address, other recipe: .* with {path} = .*; bump `version` in Edited"):
        store.has(after)


def test_a_new_field_is_still_the_same_recipe(store):
    made(store, variant(1))
    assert store.has(variant(1, fresh=7))
    assert store.has(variant(1.0))


# Names for people.


def test_names_lead_to_addresses(store):
    nodes = [step(Make(str(i))) for i in range(3)]
    for node in nodes:
        made(store, node)
    store.point("my recipe", {"train 🙂/last": nodes[0].address, "data": nodes[1].address})
    assert store.refs() == {"my-recipe/train/last": nodes[0].address, "my-recipe/data": nodes[1].address}
    assert store.find("my recipe/train 🙂/last") == store.find("my-recipe/train/last") == nodes[0].address
    assert store.find(nodes[2].address) == nodes[2].address
    assert store.find(nodes[2].fingerprint[:12]) == nodes[2].address
    store.point("my recipe", {"data": nodes[2].address})
    assert store.find("my-recipe/data") == nodes[2].address
    with pytest.raises(StoreError, match="write more of it"):
        store.find("")
    with pytest.raises(StoreError, match=r"there is no 'my-recipe/dta' in .*; did you mean 'my-recipe/data'\?"):
        store.find("my-recipe/dta")
    for wrong in (b"{", b"[]", b"{}", b'{"address": 3}', b'{"address": "../../etc"}', b'{"address": "a/b/c"}'):
        store.place.write("refs/my-recipe/data.json", wrong)
        with pytest.raises(Damaged, match=r"data\.json is damaged: delete it with `kintsugi gc --damaged --yes"):
            store.refs()
        with pytest.raises(Damaged, match=r"data\.json"):  # its artifacts look as if nothing led to them
            store.garbage()
        assert store.garbage(damaged=True) == ["refs/my-recipe/data.json"]
    store.place.remove("refs/my-recipe/data.json")
    assert store.garbage() == sorted(f"objects/{node.address}" for node in nodes[1:])


@given(
    st.text(max_size=400)
    | st.sampled_from(["../../etc", "..", "/", "", "a" * 300, "🙂", "..\\..\\x", "a/" * 500, "a" * 79 + "-b"])
)
def test_a_slug_is_a_harmless_file_name(name):
    parts = slug(name).split("/")
    assert 1 <= len(parts) <= 8
    for part in parts:
        assert 1 <= len(part) <= 80
        assert part not in (".", "..")
        assert all(c.isascii() and (c.isalnum() or c in "._-") for c in part)
        assert part[0] not in ".-"
    assert slug(slug(name)) == slug(name)


def test_slugs_people_meet():
    assert slug("../../etc") == "etc"
    assert slug("sfbd/round 2") == "sfbd/round-2"
    assert slug("🙂") == "unnamed"


# What dies. A child stops at one phase of writing and is killed there; or at any moment.

PHASES = ["nothing", "work", "half", "file", "all", "link", "cleanup"]


def child(url: str, phase: str) -> None:
    """Write `Make()` and, at `phase`, say so and wait to be killed."""

    def wait() -> None:
        print("here", flush=True)
        time.sleep(600)

    def at(here: str) -> None:
        if here == phase:
            wait()

    store, link = Store(url), os.link
    with store.writing(step(Make())) as out:
        at("nothing")
        out.write(f"{WORK}/progress", b"1")
        at("work")
        with out.writing("deep/b.bin") as file:
            file.write(FILES["deep/b.bin"][:100])
            file.flush()
            at("half")
            file.write(FILES["deep/b.bin"][100:])
        at("file")
        for name, data in FILES.items():
            out.write(name, data)
        at("all")
        if phase == "link":
            os.link = lambda *a: wait() if a[1].endswith("manifest.json") else link(*a)
        if phase == "cleanup":
            Place.remove = lambda *a: wait()


def children(url: str, beginning: int) -> None:
    """Write one artifact after another for ever."""
    print("here", flush=True)
    for i in range(beginning, 10**6):
        made(Store(url), step(Make(str(i))))


@pytest.mark.slow
@pytest.mark.parametrize("phase", PHASES)
def test_a_kill_at_any_phase_leaves_no_artifact_and_the_next_takes_the_attempt_over(tmp_path, background, phase):
    store, node = Store(str(tmp_path)), step(Make())
    process = background("import sys, test_store as t; t.child(*sys.argv[1:])", str(tmp_path), phase)
    assert process.stdout.readline() == "here\n", process.stderr.read()
    (attempt,) = {name.split("/")[3] for name in store.place.names() if name.endswith(LEASE)}
    if phase == "file":  # the living are not robbed
        with pytest.raises(InterruptedError), store.writing(node) as out:  # noqa: PT012
            assert not out.url.endswith(attempt)
            assert out.names() == [LEASE]
            raise InterruptedError
        out.remove()
    process.kill()
    process.wait()
    assert store.has(node) == (phase == "cleanup")
    if phase == "cleanup":
        assert intact(store.artifact(node.address))
        return
    with store.writing(node) as out:
        assert out.url.endswith(attempt)
        assert out.exists(f"{WORK}/progress") == (phase != "nothing")
        assert out.exists("deep/b.bin") == (phase in ("file", "all", "link"))
        for name, data in FILES.items():
            out.write(name, data)
    assert intact(store.artifact(node.address))
    assert store.artifact(node.address).manifest["attempt"] == attempt


@pytest.mark.slow
def test_a_kill_at_any_moment_leaves_whole_artifacts_only(tmp_path, background):
    store, rng, beginning = Store(str(tmp_path)), random.Random(1), 0
    for _ in range(3):
        code = "import sys, test_store as t; t.children(sys.argv[1], int(sys.argv[2]))"
        process = background(code, str(tmp_path), str(beginning))
        assert process.stdout.readline() == "here\n", process.stderr.read()
        time.sleep(0.1 + 0.2 * rng.random())
        process.kill()
        process.wait()
        assert all(intact(store.artifact(address)) for address in store.addresses())
        beginning = len(store.addresses())
        assert store.addresses() == sorted(step(Make(str(i))).address for i in range(beginning))
    made(store, step(Make(str(beginning))))  # where the last one died
    assert intact(store.artifact(step(Make(str(beginning))).address))


# What races.


def racer(url: str, name: str) -> None:
    """Write `Make()` with files that name their writer, beside another who does the same."""
    store = Store(url)
    with store.writing(step(Make())) as out:
        out.write(f"{name}.txt", name)
        out.write("who", name)
        print("here", flush=True)
        while len([n for n in store.place.names() if n.endswith("/who")]) < 2 and not store.has(step(Make())):
            time.sleep(0.005)


@pytest.mark.slow
def test_two_writers_make_one_object_and_no_mixture(tmp_path, fresh, background):
    code = "import sys, test_store as t; t.racer(*sys.argv[1:])"
    both = [background(code, str(tmp_path), name) for name in ("one", "two")]
    assert [process.wait(60) for process in both] == [0, 0]
    store = Store(str(tmp_path))
    (address,) = store.addresses()
    artifact = store.artifact(address)
    winner = artifact.read("who").decode()
    assert artifact.names() == sorted([f"{winner}.txt", "who"])
    names = store.place.names()
    assert len(names) == 3
    assert {name.split("/")[3] for name in names} == {
        "manifest.json",
        artifact.manifest["attempt"],
    }


def test_the_second_of_two_writers_leaves_the_first_ones_artifact(store):
    node = step(Make())
    with store.writing(node) as late:
        late.write("a.txt", b"late")
        made(store, node)
    assert intact(store.artifact(node.address))
    assert not late.exists()


def test_a_writer_that_was_robbed_publishes_nothing(store):
    node = step(Make())
    with pytest.raises(StoreError, match="was taken over by another writer"), store.writing(node) as out:  # noqa: PT012
        out.write("a.txt", b"mine")
        out.write(LEASE, json.dumps({"host": "elsewhere", "pid": 1, "nonce": "robber", "beat": time.time()}))
    assert not store.has(node)


# What fails. Every mutating call of a file system fails once, each in its turn.


class Faulty(MemoryFileSystem):
    """Memory whose n-th mutating call raises."""

    protocol = "faulty"
    store: ClassVar[dict] = {}
    pseudo_dirs: ClassVar[list] = [""]
    calls: ClassVar[int] = 0
    failing: ClassVar[int] = -1
    code: ClassVar[int] = errno.ENOSPC

    def tick(self) -> None:
        Faulty.calls += 1
        if Faulty.calls - 1 == Faulty.failing:
            raise OSError(Faulty.code, os.strerror(Faulty.code))

    def pipe_file(self, *args, **kwargs):
        self.tick()
        return super().pipe_file(*args, **kwargs)

    def makedirs(self, *args, **kwargs):
        self.tick()
        return super().makedirs(*args, **kwargs)

    def rm(self, *args, **kwargs):
        self.tick()
        return super().rm(*args, **kwargs)


fsspec.register_implementation("faulty", Faulty, clobber=True)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EIO])
def test_whichever_call_fails_there_is_no_half_artifact_and_the_next_run_makes_it(code):
    Faulty.calls, Faulty.failing, Faulty.code = 0, -1, code
    made(Store(f"faulty://{uuid.uuid4().hex}"), step(Make()))
    total = Faulty.calls
    assert total > 10
    for failing in range(total):
        store, node = Store(f"faulty://{uuid.uuid4().hex}"), step(Make())
        Faulty.calls, Faulty.failing = 0, failing
        with pytest.raises(OSError, match=os.strerror(code)):
            made(store, node)
        Faulty.failing = -1
        assert not store.has(node) or intact(store.artifact(node.address))
        assert intact(made(store, node))


@pytest.mark.parametrize("call", ["fsync", "replace", "link"])
def test_whichever_call_fails_on_a_local_disk(tmp_path, monkeypatch, call):
    real, node = getattr(os, call), step(Make())
    calls, failing = 0, -1

    def maybe(*args: Any) -> None:
        nonlocal calls
        calls += 1
        if calls - 1 == failing:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(*args)

    monkeypatch.setattr(os, call, maybe)
    made(Store(str(tmp_path / "whole")), node)
    for i in range(calls):
        store, calls, failing = Store(str(tmp_path / str(i))), 0, i
        with pytest.raises(OSError, match="No space left"):
            made(store, node)
        failing = -1
        assert not store.has(node)
        assert intact(made(store, node))


def test_a_disk_that_is_really_full(tmp_path):
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting is not permitted here")
    try:
        store, node = Store(str(tmp_path)), step(Make())
        with pytest.raises(OSError, match="No space left"):
            made(store, node, FILES | {"large": b"x" * 100_000})
        assert not store.has(node)
        assert intact(made(store, node))
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_store_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    for url in (tmp_path / "file", tmp_path / "file" / "runs"):
        store = Store(str(url))
        with pytest.raises(
            StoreError, match=r"cannot be written to \(.*\): make it writable or name another with --store"
        ):
            store.check_writable()
    if os.path.isdir("/proc/self"):
        with pytest.raises(StoreError, match="cannot be written to"):
            Store("/proc/self/runs").check_writable()
    good = Store(str(tmp_path / "new" / "runs"))
    good.check_writable()
    assert good.place.names() == []


def test_a_relative_store_is_where_it_was_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = Store("runs")
    monkeypatch.chdir("/")
    assert store.place.root == str(tmp_path / "runs")
    assert store_module.FORMAT == 1
