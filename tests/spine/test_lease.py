"""An attempt is taken over from the dead, once, and never from the living."""

from __future__ import annotations

import json
import random
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
        ({"host": "elsewhere", "age": -STALE * 2}, True),
        ({"host": "elsewhere", "age": 0, "released": True}, True),
        ({"pid": 2**80}, True),
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


JUNK = '{"host": "x", "nonce": "n", "pid": 1, "beat": "now"}'


@pytest.mark.parametrize(
    "junk", ["", "[]", "null", "{", '{"host": "x"}', JUNK, "\udcff".encode("utf-8", "surrogatepass")]
)
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


# One writer at a time.


def test_who_claims_second_is_shown_who_was_first(home):
    first = Lease.claim(home)
    with first:
        assert first.ours
        second = Lease.claim(home)
        assert (second.ours, second.attempt, second.alive()) == (False, first.attempt, True)
        assert second.since() == first.since()
        assert abs(time.time() - time.mktime(time.strptime(second.since(), "%Y-%m-%d %H:%M:%S"))) < 60
    assert not second.alive()
    third = Lease.claim(home)
    assert (third.ours, third.attempt) == (True, first.attempt)
    third.release()


@pytest.mark.parametrize("began", [None, "now", 1e300, float("nan")])
def test_a_lease_need_not_say_since_when(home, began):
    left(home, "old", host="elsewhere", since=began)
    assert Lease.claim(home).since() == "an unknown time"


def test_of_two_who_came_at_once_whoever_sees_the_other_steps_back(home, monkeypatch):
    take = Lease.take

    def beside_another(home: Place) -> Lease:
        lease = take(home)
        left(home, "other", host="elsewhere")
        return lease

    monkeypatch.setattr(Lease, "take", beside_another)
    other = Lease.claim(home)
    assert (other.ours, other.attempt) == (False, "other")
    home.remove("other")
    monkeypatch.setattr(Lease, "take", take)
    again = Lease.claim(home)  # what it stepped back from is nobody's
    assert again.ours
    assert [name for name in home.names() if name.endswith(LEASE)] == [f"{again.attempt}/{LEASE}"]
    again.release()


def test_a_writer_that_failed_but_lives_on_is_in_nobodys_way(home, fresh):
    if not home.is_local:
        pytest.skip("memory is of one process")
    code = """if True:
        import sys
        from pipeline.lease import Lease
        from pipeline.place import Place
        print(Lease.claim(Place(sys.argv[1])).ours)
    """
    with pytest.raises(InterruptedError), Lease.take(home):  # noqa: PT012
        assert fresh(code, home.root) == "False\n"
        raise InterruptedError
    assert fresh(code, home.root) == "True\n"


def alone(url: str, times: str) -> None:
    """Claim again and again; print how often another was found in the same room."""
    home, room, met, done = Place(url), Place(f"{url}-room"), 0, 0
    print("here", flush=True)
    while not room.exists("all"):
        time.sleep(0.001)
    while done < int(times):
        lease = Lease.claim(home)
        if lease.ours:
            met += not room.create("one", b"")
            time.sleep(0.002)
            room.remove("one")
            lease.release()
            done += 1
        time.sleep(random.random() * 0.01)
    print(met)


@pytest.mark.slow
def test_many_processes_are_never_two_at_once(tmp_path, background):
    children = [
        background("import sys, test_lease as t; t.alone(*sys.argv[1:])", str(tmp_path / "x"), "6") for _ in "abc"
    ]
    assert [child.stdout.readline() for child in children] == ["here\n"] * 3
    Place(str(tmp_path / "x-room")).write("all", b"")
    outs = [child.communicate(timeout=60) for child in children]
    assert [out for out, _ in outs] == ["0\n"] * 3, outs
