"""Who is writing an attempt: taken over from the dead, never from the living.

A lease is a small file that its holder touches every few seconds. On its own machine a holder is alive while its
process is; elsewhere while the last beat is younger than `STALE` seconds.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .place import Place

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

    def _inherit(self) -> bool:
        """Whether the attempt's last holder is dead and no other claimant came first."""
        if self._name in _held:
            return False
        try:
            other = json.loads(self.home.read(f"{self.attempt}/{LEASE}"))
        except (FileNotFoundError, ValueError):
            return False
        if other["host"] == socket.gethostname():
            alive = other["pid"] != os.getpid() and _runs(other["pid"])
        else:
            alive = time.time() - other["beat"] < STALE
        return not alive and self.home.create(f"{self.attempt}/{WORK}/inherited-{other['nonce']}", b"")

    def _beat(self) -> None:
        holder = {"host": socket.gethostname(), "pid": os.getpid(), "nonce": self._nonce, "beat": time.time()}
        self.home.write(f"{self.attempt}/{LEASE}", json.dumps(holder))

    def _keep(self) -> None:
        while not self._closing.wait(BEAT):
            if not self.home.exists(f"{self.attempt}/{LEASE}"):
                return
            self._beat()


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
