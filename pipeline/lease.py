"""Who is writing an attempt: taken over from the dead, never from the living.

A lease is a small file that its holder touches every few seconds. On its own machine a holder is alive while its
process is; elsewhere while the last beat is younger than `STALE` seconds.
"""

from __future__ import annotations

import contextlib
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
        self._nonce = secrets.token_hex(8)
        self._closing = threading.Event()

    @classmethod
    def take(cls, home: Place) -> Lease:
        """The newest attempt under `home` whose writer died, else a new one."""
        with _guard:
            leases = sorted(n for n in home.names() if n.count("/") == 1 and n.endswith(f"/{LEASE}"))
            for name in leases:
                lease = cls(home, name.split("/")[0])
                if lease._inherit():
                    break
            else:
                lease = cls(home, secrets.token_hex(4))
            lease._beat()
            _held.add(lease._name)
            return lease

    def __enter__(self) -> Lease:
        threading.Thread(target=self._keep, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
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
        if not holder:
            return False
        if holder["host"] == socket.gethostname():
            return holder["pid"] != os.getpid() and _runs(holder["pid"], holder.get("born"))
        return time.time() - holder["beat"] < STALE

    def holds(self) -> bool:
        """Whether nobody has taken the attempt over."""
        return self._holder().get("nonce") == self._nonce

    def _holder(self) -> dict[str, Any]:
        """Who beat last; empty if the lease is gone or is not one."""
        try:
            holder = json.loads(self.home.read(f"{self.attempt}/{LEASE}"))
        except (FileNotFoundError, ValueError):
            return {}
        return holder if isinstance(holder, dict) and holder.keys() >= {"host", "pid", "nonce", "beat"} else {}

    def _inherit(self) -> bool:
        """Whether the attempt's last holder is dead, has not published it, and no other claimant came first."""
        holder = self._holder()
        if not holder or self.alive() or self.home.exists(MANIFEST):
            return False
        return self.home.create(f"{self.attempt}/{WORK}/inherited-{holder['nonce']}", b"")

    def _beat(self) -> None:
        pid = os.getpid()
        holder = {
            "host": socket.gethostname(),
            "pid": pid,
            "born": _born(pid),
            "nonce": self._nonce,
            "beat": time.time(),
        }
        self.home.write(f"{self.attempt}/{LEASE}", json.dumps(holder))

    def _keep(self) -> None:
        while not self._closing.wait(BEAT):
            with contextlib.suppress(Exception):  # a disk or a network away for a minute must not look like a death
                if not self.holds():
                    return
                self._beat()


def _runs(pid: int, born: str | None) -> bool:
    """Whether there is such a process and, where it can be told, it is the one that was born then."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return born is None or _born(pid) in (None, born)


def _born(pid: int) -> str | None:
    """When a process began, in ticks since this boot, and which boot: pids are used again. None where unknown."""
    try:
        ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()}:{ticks}"
    except (OSError, IndexError):
        return None
