"""Several sweeps on one cluster, from many drivers: each is counted, and takes its part of the room."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pipeline.engine import cluster

FRESH = 2.0  # seconds for which a count is good
ANSWER = 1.0  # seconds in which a board is to say how many it has
SILENT = 15  # askings in a row without an answer after which a board counts no more: half a minute at least


class Boards:
    """How many sweeps all boards of a cluster have; one that does not answer counts for what it said last.

    A busy machine answers late, and a sweep that were forgotten for that would have its room given away. One that has
    never answered counts as one sweep, for too few trials cost time and too many cost memory. Dead boards are listed
    no more, most of them at once; none is waited for beyond `SILENT` askings.
    """

    def __init__(self) -> None:
        self.last: dict[str, tuple[int, int]] = {}  # by name: what it said last, and askings since then

    def count(self) -> int:
        """Ask all that are listed."""
        return self.heard(_asked())

    def heard(self, answers: Mapping[str, int | None]) -> int:
        """The same of what those that are listed answered, None where one was silent."""
        before, self.last = self.last, {}
        for name, answer in answers.items():
            said, silent = before.get(name, (1, 0))
            self.last[name] = (said, silent + 1) if answer is None else (answer, 0)
        return sum(said for said, silent in self.last.values() if silent <= SILENT)


@contextlib.contextmanager
def sweeping() -> Iterator[Callable[[], int]]:
    """Count as a sweep while this lasts; gives what says how many there are now, this one among them.

    A process that dies takes its board with it, and its sweeps are counted no more.
    """
    import ray

    boards, known, until = Boards(), 1, 0.0

    def count() -> int:
        nonlocal known, until
        if time.monotonic() >= until:
            known, until = max(1, boards.count()), time.monotonic() + FRESH
        return known

    ray.get(cluster.board().sweeps.remote(1))
    try:
        yield count
    finally:
        cluster.board().sweeps.remote(-1)


def _asked() -> dict[str, int | None]:
    """What each board that is listed answers in time, by its name."""
    import ray
    from ray.exceptions import RayError
    from ray.util import list_named_actors

    asked: dict[Any, str] = {}
    boards: Any = list_named_actors(all_namespaces=True)  # dictionaries, which their annotation denies
    for actor in boards:
        if actor["namespace"] == cluster.BOARDS:
            with contextlib.suppress(ValueError, RayError):  # it is gone since
                asked[ray.get_actor(actor["name"], cluster.BOARDS).sweeps.remote()] = actor["name"]
    if not asked:
        return {}
    answered, silent = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER)
    found: dict[str, int | None] = {asked[one]: None for one in silent}
    for one in answered:
        with contextlib.suppress(RayError):
            found[asked[one]] = ray.get(one)
    return found
