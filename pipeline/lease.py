"""Who is writing an attempt: taken over from the dead, never from the living.

A lease is a small file that its holder touches every `BEAT` seconds. On its own machine a holder is alive while its
process is; elsewhere while the last beat is younger than `STALE` seconds.

What `Lease.claim` promises: whoever comes while another writer is alive finds it and writes nothing. Two who come in
the same instant each write a lease and then look again, so that at least one sees the other, and whoever does steps
back: one of them goes on, or, for a moment, none. This holds wherever a file that was written is listed at once (a
local disk, S3, GCS). Where it is not, as on a shared folder whose listings are cached, or where a living writer is
taken for dead (no beat for `STALE` seconds, a clock that is as wrong), two may work at once; even then the first
manifest wins and there is one artifact.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import secrets
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .place import Place

MANIFEST = "manifest.json"
LEASE = "lease.json"
WORK = "_work"
BEAT = 15.0
STALE = 300.0
_held: set[str] = set()
_guard = threading.Lock()


class Lease:
    """The right to write one attempt, kept alive by a thread while the context is open."""

    def __init__(self, home: Place, attempt: str):
        self.home, self.attempt = home, attempt
        self._nonce, self._since, self.ours = secrets.token_hex(8), time.time(), False
        self._closing, self._beating = threading.Event(), threading.Lock()

    @classmethod
    def take(cls, home: Place) -> Lease:
        """The newest attempt under `home` whose writer died, else a new one."""
        with _guard:
            for lease in cls._all(home):
                if lease._inherit():
                    break
            else:
                lease = cls(home, secrets.token_hex(4))
            lease._beat()
            lease.ours = True
            _held.add(lease._name)
            return lease

    @classmethod
    def claim(cls, home: Place) -> Lease:
        """The right to be the only writer under `home`; or, not `ours`, the lease of who is writing there."""
        if other := next((lease for lease in cls._all(home) if lease.alive()), None):
            return other
        mine = cls.take(home)
        if other := next((lease for lease in cls._all(home) if lease.attempt != mine.attempt and lease.alive()), None):
            mine.release()
            return other
        return mine

    @classmethod
    def _all(cls, home: Place) -> list[Lease]:
        names = sorted(n for n in home.names() if n.count("/") == 1 and n.endswith(f"/{LEASE}"))
        return [cls(home, name.split("/")[0]) for name in names]

    def __enter__(self) -> Lease:
        threading.Thread(target=self._keep, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Let the next writer have the attempt at once, if it is still ours and was not published."""
        self._closing.set()
        with self._beating, contextlib.suppress(Exception):  # what cannot be written is given up when the process ends
            if self.holds():
                self._beat(released=True)
        with _guard:
            _held.discard(self._name)

    @property
    def _name(self) -> str:
        return f"{self.home.url}/{self.attempt}"

    def alive(self) -> bool:
        """Whether somebody is still writing."""
        if self._name in _held:
            return True
        holder = self._holder()
        if not holder or holder.get("released"):
            return False
        if holder["host"] == socket.gethostname():
            return holder["pid"] != os.getpid() and _runs(holder["pid"], holder.get("born"))
        return abs(time.time() - holder["beat"]) < STALE

    def holds(self) -> bool:
        """Whether nobody has taken the attempt over."""
        return self._holder().get("nonce") == self._nonce

    def since(self) -> str:
        """When its holder took it, for people, in local time."""
        try:
            return datetime.datetime.fromtimestamp(self._holder()["since"]).isoformat(" ", "seconds")
        except (KeyError, TypeError, ValueError, OverflowError, OSError):
            return "an unknown time"

    def _holder(self) -> dict[str, Any]:
        """Who beat last; empty if the lease is gone or is not one."""
        try:
            holder = json.loads(self.home.read(f"{self.attempt}/{LEASE}"))
        except (FileNotFoundError, ValueError):
            return {}
        if not isinstance(holder, dict) or not holder.keys() >= {"host", "pid", "nonce", "beat"}:
            return {}
        return holder if type(holder["pid"]) is int and isinstance(holder["beat"], int | float) else {}

    def _inherit(self) -> bool:
        """Whether the attempt's last holder is dead, has not published it, and no other claimant came first."""
        holder = self._holder()
        if not holder or self.alive() or self.home.exists(MANIFEST):
            return False
        return self.home.create(f"{self.attempt}/{WORK}/inherited-{holder['nonce']}", b"")

    def _beat(self, released: bool = False) -> None:
        pid = os.getpid()
        holder = {
            "host": socket.gethostname(),
            "pid": pid,
            "born": _born(pid),
            "nonce": self._nonce,
            "since": self._since,
            "beat": time.time(),
            "released": released,
        }
        self.home.write(f"{self.attempt}/{LEASE}", json.dumps(holder))

    def _keep(self) -> None:
        while not self._closing.wait(BEAT):
            # A disk or a network away for a minute must not look like a death.
            with self._beating, contextlib.suppress(Exception):
                if self._closing.is_set() or not self.holds():
                    return
                self._beat()


def _runs(pid: int, born: str | None) -> bool:
    """Whether there is such a process and, where it can be told, it is the one that was born then."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return born is None or _born(pid) in (None, born)


def _born(pid: int) -> str | None:
    """When a process began, in ticks since this boot, and which boot: pids are used again. None where unknown."""
    try:
        said = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        if said[0] in "ZX":  # killed, and its parent has not asked after it yet
            return "dead"
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()}:{said[19]}"
    except (OSError, IndexError):
        return None
