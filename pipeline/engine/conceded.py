"""What a group of workers has given up to go on: rows at a time for want of memory, compiling where it fails.

One process alone gives it up and takes the step again. Among several, the others wait in an exchange that this one has
left: it writes down what it gives up, and the group begins again from its last checkpoint without it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace

from pipeline.graph import Scale
from pipeline.learning.step import Unable
from pipeline.place import Place

log = logging.getLogger("kintsugi")
FILE = "_work/conceded.json"


@dataclass(frozen=True)
class Conceded:
    """`micro` rows at a time at most (None: as many as asked for), and whether what is asked to is still compiled."""

    micro: int | None = None
    compiled: bool = True

    @staticmethod
    def read(out: Place) -> Conceded:
        """What the step at `out` has given up so far."""
        try:
            found = json.loads(out.read(FILE))
        except FileNotFoundError:
            return Conceded()
        return Conceded(**found)

    def without(self, unable: Unable) -> Conceded:
        """This, and what a worker could not do."""
        if unable.rows is None:
            return replace(self, compiled=False)
        fewer = -(-unable.rows // 2)
        return replace(self, micro=fewer if self.micro is None else min(fewer, self.micro))

    def of(self, scale: Scale) -> Scale:
        """The scale that is left."""
        micro = min((n for n in (scale.micro, self.micro) if n is not None), default=None)
        return replace(scale, micro=micro, compile=scale.compile and self.compiled)


@contextmanager
def conceding(out: Place) -> Iterator[None]:
    """Write down, for the group that begins again, what this worker turns out to be unable to do; still raises it."""
    try:
        yield
    except Unable as error:
        less = Conceded.read(out).without(error)
        out.write(FILE, json.dumps(asdict(less)))
        log.warning("%s. All workers begin again, with less", error)
        raise
