"""Several sweeps on one cluster, from many drivers: each is counted, and takes its part of the room."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from pipeline.engine import cluster

FRESH = 2.0  # seconds for which a count is good
ANSWER = 1.0  # seconds in which a board must say how many it has


@contextlib.contextmanager
def sweeping() -> Iterator[Callable[[], int]]:
    """Count as a sweep while this lasts; gives what says how many there are now, this one among them.

    A process that dies takes its board with it, and its sweeps are counted no more.
    """
    import ray

    known, until = 1, 0.0

    def count() -> int:
        nonlocal known, until
        if time.monotonic() >= until:
            known, until = max(1, _counted()), time.monotonic() + FRESH
        return known

    ray.get(cluster.board().sweeps.remote(1))
    try:
        yield count
    finally:
        cluster.board().sweeps.remote(-1)


def _counted() -> int:
    import ray
    from ray.exceptions import RayError
    from ray.util import list_named_actors

    asked = []
    boards: Any = list_named_actors(all_namespaces=True)  # dictionaries, which their annotation denies
    for actor in boards:
        if actor["namespace"] == cluster.BOARDS:
            with contextlib.suppress(ValueError, RayError):  # it is gone since
                asked.append(ray.get_actor(actor["name"], cluster.BOARDS).sweeps.remote())
    if not asked:
        return 0
    found = 0
    for answer in ray.wait(asked, num_returns=len(asked), timeout=ANSWER)[0]:
        with contextlib.suppress(RayError):
            found += ray.get(answer)
    return found
