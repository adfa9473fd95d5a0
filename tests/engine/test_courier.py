"""What was said before a run ended is on disk by then, and is delivered, whoever writes meanwhile."""

from __future__ import annotations

import pytest

from pipeline.engine.courier import Courier
from pipeline.engine.spool import Letter, Spool, waiting
from pipeline.place import Place


class Told:
    """A server that keeps letters, and does something while it takes the first."""

    def __init__(self, meanwhile=lambda: None):
        self.letters, self.begins, self.meanwhile = [], {}, meanwhile

    def write(self, letters):
        self.letters += letters
        meanwhile, self.meanwhile = self.meanwhile, lambda: None
        meanwhile()

    def forget(self):
        pass


@pytest.fixture
def home(tmp_path):
    return Place(str(tmp_path / "tracking"))


def letter(run: str, kind: str, content) -> Letter:
    return Letter("experiment", run, kind, content)


def test_what_is_kept_survives_a_process_that_never_delivers(home):
    dead = Courier(Told, Spool(home), lambda error: None)  # its thread never starts
    dead.post(letter("one", "begin", {"name": "one", "start": 1}))
    dead.post(letter("one", "metrics", [["loss", 0.5, 2, 10]]))
    assert waiting(home) == {}
    dead.keep()
    assert waiting(home) == {"experiment/one": 2}


def test_what_is_kept_while_letters_are_delivered_is_delivered_too(home):
    told = Told()
    courier = Courier(lambda: told, Spool(home), lambda error: None)
    courier.post(letter("one", "begin", {"name": "one", "start": 1}))
    courier.post(letter("one", "warn", "first"))
    courier.keep()

    def meanwhile():
        courier.post(letter("one", "warn", "second"))
        courier.keep()

    told.meanwhile = meanwhile
    assert courier.turn()
    assert courier.turn()
    said = [one.content for one in told.letters if one.kind == "warn"]
    assert sorted(set(said)) == ["first", "second"]
    assert waiting(home) == {}
    assert courier.close() == 0
