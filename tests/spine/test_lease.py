"""An attempt is taken over from the dead, once, and never from the living."""

from __future__ import annotations

import json
import threading
import time

import pytest

from pipeline import lease as lease_module
from pipeline.lease import LEASE, STALE, WORK, Lease
from pipeline.place import Place

DEAD_PID = 2**22 + 1  # above the largest that Linux gives


@pytest.fixture(params=["local", "memory"])
def home(request, tmp_path):
    return Place(str(tmp_path) if request.param == "local" else f"memory://{tmp_path.name}-{time.time_ns()}")


def left(home: Place, attempt: str, **holder: object) -> None:
    """A lease as another writer left it."""
    import socket

    known = {"host": socket.gethostname(), "pid": DEAD_PID, "nonce": attempt, "beat": time.time()}
    home.write(f"{attempt}/{LEASE}", json.dumps(known | holder))


def test_two_leases_at_once_are_two_attempts_and_a_closed_one_is_inherited(home):
    with Lease.take(home) as one, Lease.take(home) as two:
        assert one.attempt != two.attempt
        assert one.holds()
        assert two.holds()
    with Lease.take(home) as three, Lease.take(home) as four, Lease.take(home) as five:
        assert {three.attempt, four.attempt} == {one.attempt, two.attempt}
        assert five.attempt not in {one.attempt, two.attempt}
        assert not one.holds()
        assert not two.holds()


def test_a_dead_process_of_this_machine_is_inherited_at_once(home):
    left(home, "old")
    with Lease.take(home) as lease:
        assert lease.attempt == "old"


@pytest.mark.parametrize(
    ("holder", "inherited"),
    [
        ({"host": "elsewhere", "age": 0}, False),
        ({"host": "elsewhere", "age": STALE / 2}, False),
        ({"host": "elsewhere", "age": STALE * 2}, True),
        ({"pid": 1}, False),
        ({"pid": 1, "beat": 0.0}, False),
    ],
)
def test_only_the_dead_are_robbed(home, holder, inherited):
    holder = dict(holder)
    if "age" in holder:  # counted from now, not from when the tests were collected
        holder["beat"] = time.time() - holder.pop("age")
    left(home, "old", **holder)
    with Lease.take(home) as lease:
        assert (lease.attempt == "old") == inherited


@pytest.mark.parametrize("junk", ["", "[]", "null", "{", '{"host": "x"}', "\udcff".encode("utf-8", "surrogatepass")])
def test_a_lease_that_is_none_is_left_alone(home, junk):
    home.write(f"old/{LEASE}", junk)
    with Lease.take(home) as lease:
        assert lease.attempt != "old"


def test_of_many_heirs_one_inherits(home):
    left(home, "old")
    gate, done, got = threading.Barrier(6), threading.Event(), []

    def inherit() -> None:
        gate.wait()
        with Lease.take(home) as lease:
            got.append(lease.attempt)
            done.wait(10)

    threads = [threading.Thread(target=inherit) for _ in range(6)]
    [t.start() for t in threads]
    while len(got) < 6:
        time.sleep(0.005)
    done.set()
    [t.join() for t in threads]
    assert got.count("old") == 1
    assert len(set(got)) == 6


def test_a_holder_beats_while_it_lives_and_not_after(home, monkeypatch):
    monkeypatch.setattr(lease_module, "BEAT", 0.01)

    def beat(lease: Lease) -> float:
        return json.loads(home.read(f"{lease.attempt}/{LEASE}"))["beat"]

    with Lease.take(home) as lease:
        first, end = beat(lease), time.monotonic() + 10
        while beat(lease) == first and time.monotonic() < end:
            time.sleep(0.01)
        assert beat(lease) > first
    time.sleep(0.05)
    last = beat(lease)
    time.sleep(0.05)
    assert beat(lease) == last


def test_a_beat_survives_a_full_disk_but_never_takes_an_attempt_back(home, monkeypatch):
    monkeypatch.setattr(lease_module, "BEAT", 0.01)
    real, full = Place.write, threading.Event()
    full.set()

    def write(self, name, data):
        if full.is_set():
            raise OSError(28, "No space left on device")
        real(self, name, data)

    lease = Lease.take(home)
    monkeypatch.setattr(Place, "write", write)
    with lease:
        before = home.read(f"{lease.attempt}/{LEASE}")
        time.sleep(0.05)
        full.clear()
        end = time.monotonic() + 10
        while home.read(f"{lease.attempt}/{LEASE}") == before and time.monotonic() < end:
            time.sleep(0.01)
        assert home.read(f"{lease.attempt}/{LEASE}") != before
        while True:  # another writer takes over between two beats
            left(home, lease.attempt, nonce="robber")
            time.sleep(0.05)
            if not lease.holds():
                break
        time.sleep(0.05)
        assert json.loads(home.read(f"{lease.attempt}/{LEASE}"))["nonce"] == "robber"


def test_inheritance_is_claimed_under_the_work_folder(home):
    left(home, "old", nonce="n1")
    with Lease.take(home):
        assert f"old/{WORK}/inherited-n1" in home.names()
