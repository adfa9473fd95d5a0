"""Files appear whole or not at all, once, and never outside their place."""

from __future__ import annotations

import errno
import os
import pickle
import threading
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.place import Place, PlaceError


@pytest.fixture(params=["local", "file", "memory"])
def place(request, tmp_path):
    urls = {"local": str(tmp_path / "at"), "file": f"file://{tmp_path}/at", "memory": f"memory://{uuid.uuid4().hex}"}
    return Place(urls[request.param])


def test_what_is_written_is_read(place):
    assert place.names() == []
    place.write("a/b.txt", "σ")
    place.write("a/b.txt", b"again")
    with place.writing("c.bin") as file:
        file.write(b"one")
        file.write(b"two")
    assert place.names() == ["a/b.txt", "c.bin"]
    assert (place.read("a/b.txt"), place.read("c.bin")) == (b"again", b"onetwo")
    assert (place / "a").names() == ["b.txt"]
    assert (place / "a").open("b.txt").read() == b"again"
    assert pickle.loads(pickle.dumps(place)).names() == place.names()
    assert place.exists("a")
    assert not place.exists("b")
    place.remove("a")
    place.remove("a")
    assert place.names() == ["c.bin"]
    place.remove()
    assert not place.exists()
    assert place.names() == []


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/passwd", "..", "a/.."])
def test_a_name_that_leaves_is_refused(place, name):
    for act in (place.at, place.read, place.open, place.__truediv__, lambda n: place.write(n, b"")):
        with pytest.raises(PlaceError, match="use a relative name without"):
            act(name)
    with pytest.raises(PlaceError), place.writing(name):
        pass
    with pytest.raises(PlaceError):
        place.create(name, b"")
    with pytest.raises(PlaceError):
        place.remove(name)


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=12))
def test_no_name_reaches_outside(name):
    root = "/tmp/kintsugi-root"
    try:
        path = Place(root).at(name)
    except PlaceError:
        return
    assert os.path.normpath(path).startswith(root)


def test_create_happens_once(place):
    assert place.create("m.json", b"first")
    assert not place.create("m.json", b"second")
    assert place.read("m.json") == b"first"
    assert place.names() == ["m.json"]


def test_of_many_creators_one_wins(place):
    gate, won = threading.Barrier(8), []

    def attempt(i: int) -> None:
        gate.wait()
        if place.create("m", b"%d" % i):
            won.append(i)

    threads = [threading.Thread(target=attempt, args=(i,)) for i in range(8)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    if place.is_local:
        assert len(won) == 1
        assert place.read("m") == b"%d" % won[0]


def test_writers_of_one_name_never_mix_and_readers_never_see_a_part(tmp_path):
    place, size, stop = Place(str(tmp_path)), 1 << 18, threading.Event()
    place.write("f", b"a" * size)

    def write(letter: bytes) -> None:
        while not stop.is_set():
            place.write("f", letter * size)

    threads = [threading.Thread(target=write, args=(letter,), daemon=True) for letter in (b"a", b"b", b"c")]
    [t.start() for t in threads]
    for _ in range(100):
        data = place.read("f")
        assert len(data) == size
        assert len(set(data)) == 1
    stop.set()
    [t.join() for t in threads]
    assert os.listdir(tmp_path) == ["f"]


def test_writing_in_pieces_publishes_nothing_if_it_fails(place):
    place.write("old", b"old")
    for name in ("old", "new"):
        if name == "old" and not place.is_local:
            continue  # an object store without rename replaces on close
        with pytest.raises(RuntimeError), place.writing(name) as file:  # noqa: PT012
            file.write(b"half")
            raise RuntimeError
    assert place.names() == ["old"]
    assert place.read("old") == b"old"


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EIO])
def test_a_failing_disk_keeps_the_old_file_and_leaves_no_litter(tmp_path, monkeypatch, call, code):
    place = Place(str(tmp_path))
    place.write("f", b"old")

    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match=os.strerror(code)):
        place.write("f", b"new")
    assert place.read("f") == b"old"
    assert os.listdir(tmp_path) == ["f"]


def test_what_a_crash_left_half_written_is_not_listed(tmp_path, background):
    code = "import os, sys; from pipeline.place import Place\nwith Place(sys.argv[1]).writing('f') as file:\n"
    code += "    file.write(b'half'); file.flush(); os.kill(os.getpid(), 9)"
    child = background(code, str(tmp_path))
    assert child.wait(60) == -9
    assert len(os.listdir(tmp_path)) == 1
    assert Place(str(tmp_path)).names() == []


def test_folders_are_local_only(tmp_path):
    assert Place(str(tmp_path)).folder("a/b").is_dir()
    with pytest.raises(PlaceError, match="not on this machine"):
        Place("memory://x").folder("a")
