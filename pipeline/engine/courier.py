"""A thread that takes letters to MLflow, so that nobody who writes one ever waits for a server.

While the server is away letters go to the spool, and are tried again from there, oldest first. Closing waits for a
bounded time, and leaves the rest to the next process or to `kintsugi track replay`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

from pipeline.engine.scribe import About, Scribe, refused
from pipeline.engine.spool import Letter, Spool

log = logging.getLogger("kintsugi")
FLUSH_SECONDS = 2.0
AWAY_SECONDS = 30.0  # between attempts to reach a server that did not answer
CLOSE_SECONDS = 10.0  # at the end


class Courier:
    """Letters on their way.

    Args:
        scribe: makes the connection and writes, in the thread.
        spool: what keeps letters while nobody answers.
        away: says, once, that nobody does, and why.
    """

    def __init__(self, scribe: Callable[[], Scribe], spool: Spool, away: Callable[[Exception], None]):
        self._connect, self.spool, self._away = scribe, spool, away
        self._scribe: Scribe | None = None
        self._lock, self._closing = threading.Lock(), threading.Event()
        self._disk = threading.RLock()
        self._pending: list[Letter] = []
        self._begins: dict[About, Letter] = {}
        self._again, self._silent, self._abandoned = 0.0, False, False
        self._inherited = False
        self._orphans: dict[About, int] = {}
        self._thread = threading.Thread(target=self._work, daemon=True, name="mlflow")

    def start(self) -> None:
        """Begin to deliver."""
        self._thread.start()

    def post(self, letter: Letter) -> None:
        """Take a letter; at once, whatever the server does."""
        with self._lock:
            self._pending.append(letter)
            if letter.kind == "begin":
                self._begins[letter.about] = letter

    def keep(self) -> None:
        """Have on disk what is not delivered yet: whatever happens to this process, it will be."""
        self._spill()

    def close(self, patience: float | None = CLOSE_SECONDS) -> int:
        """Deliver what is left, in so many seconds at most; gives how many letters wait in the spool."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(patience)
        with self._disk:
            self._spill()
            self._abandoned = True
            left = sum(len(self.spool.read(name)) for name in self.spool.files())
            self.spool.close()
        return left

    def turn(self) -> bool:
        """Try to deliver everything; whether nothing is left."""
        try:
            self._scribe = self._scribe or self._connect()
            self._replay(self._scribe)
            while letters := self._waiting():
                for sent in self._sent(self._scribe, letters):
                    self._delivered(sent)
        except Exception as error:  # losing a point on a chart must not cost a training run
            if self._scribe is not None:
                self._scribe.forget()
            if not self._silent:
                self._away(error)
            self._silent = True
            self._spill()
            return False
        self._silent = False
        return True

    def _work(self) -> None:
        while True:
            closing = self._closing.wait(FLUSH_SECONDS)
            if closing or time.monotonic() >= self._again:
                came = self.turn()
                self._again = 0.0 if came else time.monotonic() + AWAY_SECONDS
            else:
                self._spill()
            if closing:
                return

    def _waiting(self) -> list[Letter]:
        with self._lock:
            return list(self._pending)

    def _delivered(self, letters: Sequence[Letter]) -> None:
        gone = set(map(id, letters))
        with self._lock:
            self._pending = [letter for letter in self._pending if id(letter) not in gone]

    def _replay(self, scribe: Scribe) -> None:
        """Deliver what is on disk, and end the runs of processes that died in them."""
        with self._disk:
            if not self._inherited:
                self.spool.inherit()
                self._inherited = True
            self.spool.turn_over()  # while they are delivered others may write more
            names = [] if self._abandoned else self.spool.files()
        for name in names:
            letters = self.spool.read(name)
            for sent in self._sent(scribe, letters):
                for letter in sent:
                    self._orphans[letter.about] = _when(letter, self._orphans.get(letter.about, 0))
                    if letter.kind == "end":
                        del self._orphans[letter.about]
            with self._disk:
                if self._abandoned:
                    return
                self.spool.done(name)
        for about, when in list(self._orphans.items()):
            if about not in self._begins:
                end = {"status": "KILLED", "when": when or int(time.time() * 1000)}
                scribe.write([Letter(*about, "end", end)])
            del self._orphans[about]

    def _sent(self, scribe: Scribe, letters: Sequence[Letter]) -> Iterator[Sequence[Letter]]:
        """Write letters, those of one run together and in order; gives what was written, or refused for good."""
        for about in dict.fromkeys(letter.about for letter in letters):
            mine = [letter for letter in letters if letter.about == about]
            if about in self._begins:
                scribe.begins.setdefault(about, self._begins[about])
            for _, alike in groupby(mine, key=lambda letter: letter.kind):
                some = list(alike)
                try:
                    self._write(scribe, some)
                except Exception as error:
                    if not refused(error):
                        raise
                    said = " ".join(str(error).split())[:200]
                    log.warning("MLflow will not have what run %s was to be told, which is lost: %s", about[1], said)
                yield some

    def _write(self, scribe: Scribe, letters: list[Letter]) -> None:
        try:
            scribe.write(letters)
        except Exception as error:
            if not refused(error):
                raise
            scribe.forget()  # it may have been deleted there, or the server be a new one
            scribe.write(letters)

    def _spill(self) -> None:
        with self._disk:
            if letters := [] if self._abandoned else self._waiting():
                self.spool.keep(letters, self._begins)
                self._delivered(letters)


def _when(letter: Letter, last: int) -> int:
    """When a letter was written, in milliseconds, or the one before where it does not say."""
    if letter.kind == "metrics":
        return max(int(point[2]) for point in letter.content)
    if letter.kind == "begin":
        return letter.content["start"] or last
    return last
