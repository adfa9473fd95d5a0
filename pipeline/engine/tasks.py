"""Many small things done on the cluster: a function over items on Ray Data, results in the order in which they come.

What the data or the disk refuse in a worker is raised here as it was said there, and not tried again; what the network
may have refused is tried three times.
"""

from __future__ import annotations

import errno
import functools
import pickle
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from pipeline.engine import cluster
from pipeline.engine.relay import aloud, relayed
from pipeline.graph import Context

LASTING = {  # what trying again does not change
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG),
}
PAUSES = (0.5, 5.0)  # seconds before an item is tried for the second and the third time
BLOCKS = 1024  # tasks, at most; a task does its items one after the other


def each(
    function: Callable[..., Any], items: Sequence[Any], at: Context, load: Callable[[], Any] | None = None
) -> Iterator[Any]:
    """`function(item)` of every item, on the cluster; up to `scale.workers` at a time for each of its cores.

    With `load`, which a model takes time for, `function(item, loaded)` is done by a pool of `scale.workers` actors, of
    `scale.cpus` and `scale.gpus` each; `loaded()` gives what `load()` returned when the actor first asked for it.
    Items and results are pickled. A million small items take 500 MB here while they are handed to Ray, once more there.
    What the function warns of is said here, each sentence once whatever the items.

    Raises: the ValueError or OSError that the function raised.
    """
    import ray.data

    from pipeline.engine import machines

    if not items:
        return
    where: Any = machines.strategy(at.scale)
    rows = [{"item": pickle.dumps(item)} for item in items]
    board, topic = cluster.board(), uuid.uuid4().hex
    dataset = ray.data.from_items(rows, override_num_blocks=min(len(rows), BLOCKS))
    if load is None:
        tasks = ray.data.TaskPoolStrategy(size=max(1, int(at.scale.total[0])))
        tried = _Tried(partial(_aloud, function, board, topic))
        dataset = dataset.map(tried, compute=tasks, **where)
    else:
        dataset = dataset.map(
            _Loaded,  # pyright: ignore[reportArgumentType]
            fn_constructor_args=(function, load, board, topic),
            compute=ray.data.ActorPoolStrategy(size=min(at.scale.workers, len(rows))),
            num_cpus=at.scale.cpus,
            num_gpus=at.scale.gpus,
            **where,
        )
    del rows
    with relayed(board, topic, at.tracker):
        for row in dataset.iter_rows():
            yield _result(row)


def sweep(function: Callable[[Any], Any], items: Sequence[Any], at: Context) -> Iterator[Any]:
    """`each`, but a single item is done here: it takes less time than asking the cluster."""
    if len(items) == 1:
        return iter([function(items[0])])
    return each(function, items, at)


def _aloud(function: Callable[[Any], Any], board: Any, topic: str, item: Any) -> Any:
    """What the function returns; every item speaks for itself, so that what all of them say is said once."""
    with aloud(board, topic, uuid.uuid4().hex):
        return function(item)


class _Tried:
    """The function, tried again where the network may have failed; what it refuses is caught, for Ray would wrap it."""

    def __init__(self, function: Callable[[Any], Any]):
        self.function = function

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            said = {"result": self._again(pickle.loads(row["item"]))}
        except ValueError as error:
            said = {"refused": str(error)}
        except OSError as error:
            known = error.errno is not None
            said = {"failed": (error.errno, error.strerror, error.filename) if known else (str(error),)}
        return {"said": pickle.dumps(said)}

    def _again(self, item: Any) -> Any:
        for pause in PAUSES:
            try:
                return self.function(item)
            except OSError as error:
                if error.errno in LASTING:
                    raise
                time.sleep(pause)  # the network, most likely
        return self.function(item)


class _Loaded(_Tried):
    """One actor of a pool: what it loads it keeps, and loads only if there is something to do."""

    def __init__(self, function: Callable[..., Any], load: Callable[[], Any], board: Any, topic: str):
        super().__init__(partial(_aloud, partial(_given, function, functools.cache(load)), board, topic))


def _given(function: Callable[..., Any], loaded: Callable[[], Any], item: Any) -> Any:
    return function(item, loaded)


def _result(row: dict[str, Any]) -> Any:
    said = pickle.loads(row["said"])
    if "refused" in said:
        raise ValueError(said["refused"])
    if "failed" in said:
        raise OSError(*said["failed"])
    return said["result"]
