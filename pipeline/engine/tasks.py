"""Many small things done on the cluster: a function over items on Ray Data, results in the order in which they come.

What the data or the disk refuse in a worker is raised here as it was said there, once, and not tried again.
"""

from __future__ import annotations

import errno
import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pipeline.graph import Context

LASTING = {  # what trying again does not change
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG),
}
BLOCKS = 1024  # tasks, at most; a task does its items one after the other


def each(function: Callable[[Any], Any], items: Sequence[Any], at: Context) -> Iterator[Any]:
    """`function(item)` of every item, on the cluster; up to `scale.workers` at a time for each of its cores.

    Items and results are pickled. A million small items take 500 MB here while they are handed to Ray, once more there.

    Raises: the ValueError or OSError that the function raised.
    """
    import ray.data

    if not items:
        return
    rows = [{"item": pickle.dumps(item)} for item in items]
    dataset = ray.data.from_items(rows, override_num_blocks=min(len(rows), BLOCKS)).map(
        _Tried(function),
        compute=ray.data.TaskPoolStrategy(size=max(1, int(at.scale.total[0]))),
    )
    del rows
    for row in dataset.iter_rows():
        yield _result(row)


def sweep(function: Callable[[Any], Any], items: Sequence[Any], at: Context) -> Iterator[Any]:
    """`each`, but a single item is done here: it takes less time than asking the cluster."""
    if len(items) == 1:
        return iter([function(items[0])])
    return each(function, items, at)


class _Tried:
    """The function, with what it may refuse caught: raised, it would be tried again, and arrive wrapped."""

    def __init__(self, function: Callable[[Any], Any]):
        self.function = function

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            said = {"result": self.function(pickle.loads(row["item"]))}
        except ValueError as error:
            said = {"refused": str(error)}
        except OSError as error:
            if error.errno not in LASTING:
                raise  # the network, most likely: worth another try, which Ray makes
            said = {"errno": error.errno, "file": error.filename}
        return {"said": pickle.dumps(said)}


def _result(row: dict[str, Any]) -> Any:
    said = pickle.loads(row["said"])
    if "refused" in said:
        raise ValueError(said["refused"])
    if "errno" in said:
        raise OSError(said["errno"], os.strerror(said["errno"]), said["file"])
    return said["result"]
