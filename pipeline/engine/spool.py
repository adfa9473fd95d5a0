"""What MLflow is still to be told, on disk: letters in order, until they are delivered, whoever wrote them.

    tracking/<attempt>/lease.json                  whose they are; taken over once that process is dead
    tracking/<attempt>/<milliseconds>-<n>.jsonl    letters, one a line, oldest file first

Nothing is written while a server answers. A file appears whole or not at all, wherever a store can be.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.lease import Lease
from pipeline.place import Place

log = logging.getLogger("kintsugi")
CHUNK = 1 << 18  # bytes of letters in a file, unless one letter has more
FOLDER = "tracking"


@dataclass(frozen=True)
class Letter:
    """One thing that MLflow is to be told of one run; told twice it changes nothing.

    Args:
        experiment: the run's.
        run: the key by which it is found.
        kind: `begin`, `metrics`, `warn`, `tag`, `file` or `end`.
        content: JSON values.
    """

    experiment: str
    run: str
    kind: str
    content: Any

    @property
    def about(self) -> tuple[str, str]:
        """Experiment and run."""
        return self.experiment, self.run

    def line(self) -> str:
        """As a line of a file."""
        return json.dumps([self.experiment, self.run, self.kind, self.content])

    @classmethod
    def of(cls, line: str) -> Letter:
        """Raises: ValueError, TypeError: it is none."""
        return cls(*json.loads(line))


class Spool:
    """The letters of this process, and of those that died before they could deliver theirs.

    Args:
        home: the folder of the store that has them all.
    """

    def __init__(self, home: Place):
        self.home = home
        self._held = contextlib.ExitStack()
        self._own: Lease | None = None
        self._folders: list[str] = []
        self._begun: set[tuple[str, str]] = set()
        self._lines: list[str] = []
        self._file, self._count = "", 0

    def inherit(self) -> None:
        """Take over what dead processes left."""
        left = {name.split("/")[0] for name in self.home.names()} - set(self._folders)
        while left:
            lease = Lease.take(self.home)
            if lease.attempt not in left:
                self._discard(lease)
                return
            self._hold(lease)
            left.discard(lease.attempt)

    def keep(self, letters: Sequence[Letter], begins: dict[tuple[str, str], Letter]) -> None:
        """Add letters, each run's after what began it."""
        if not letters:
            return
        if self._own is None:
            self._own = Lease.take(self.home)
            self._hold(self._own)
        folder = self._own.attempt
        for letter in letters:
            if letter.about not in self._begun and letter.kind != "begin" and letter.about in begins:
                self._add(begins[letter.about], folder)
            self._begun.add(letter.about)
            self._add(letter, folder)
        self._write()

    def turn_over(self) -> None:
        """Later letters go into a file of their own: those there are now may be delivered and removed."""
        self._file, self._lines = "", []

    def files(self) -> list[str]:
        """The files of letters that are ours by now, oldest first."""
        found = [name for name in self.home.names() if _is_letters(name) and name.split("/")[0] in self._folders]
        return sorted(found, key=lambda name: name.split("/")[1])

    def read(self, name: str) -> list[Letter]:
        """The letters in a file; none, and a warning, where it is damaged."""
        try:
            return [Letter.of(line) for line in self.home.read(name).decode().splitlines()]
        except (ValueError, TypeError) as error:
            log.warning("%s is damaged and was left out: %s", self.home.at(name), error)
            return []

    def done(self, name: str) -> None:
        """A file's letters were delivered."""
        self.home.remove(name)
        if name == self._file:
            self._file, self._lines = "", []
        self._begun.clear()

    def close(self) -> None:
        """Let the next process have what is left, and leave nothing behind where nothing is."""
        names = self.home.names() if self._folders else []
        self._held.close()
        for folder in self._folders:
            if not any(_is_letters(name) for name in names if name.startswith(f"{folder}/")):
                self.home.remove(folder)
        self._folders, self._own = [], None

    def _hold(self, lease: Lease) -> None:
        self._held.enter_context(lease)
        self._folders.append(lease.attempt)

    def _discard(self, lease: Lease) -> None:
        lease.release()
        self.home.remove(lease.attempt)

    def _add(self, letter: Letter, folder: str) -> None:
        if self._file and sum(map(len, self._lines)) > CHUNK:
            self._write()
            self._file, self._lines = "", []
        if not self._file:
            self._file = f"{folder}/{int(time.time() * 1000):014d}-{self._count:06d}.jsonl"
            self._count += 1
        self._lines.append(letter.line())

    def _write(self) -> None:
        self.home.write(self._file, "\n".join(self._lines) + "\n")


def waiting(home: Place) -> dict[str, int]:
    """How many letters wait, by run's name or key, whoever's they are."""
    found: dict[str, int] = {}
    names: dict[str, str] = {}
    for name in filter(_is_letters, home.names()):
        with contextlib.suppress(FileNotFoundError, ValueError, TypeError):  # delivered by another process meanwhile
            for letter in (Letter.of(line) for line in home.read(name).decode().splitlines()):
                if letter.kind == "begin":
                    names[letter.run] = f"{letter.experiment}/{letter.content['name']}"
                found[letter.run] = found.get(letter.run, 0) + 1
    return {names.get(run, run): count for run, count in found.items()}


def _is_letters(name: str) -> bool:
    return name.endswith(".jsonl") and name.count("/") == 1
