"""One piece in, one shard out: a map over pieces that Ray Data runs and a crash cannot make repeat itself.

Shard i is written to `shards/<i>.parquet` and then described by `_work/shards/<i>.json`. A restarted map takes the
descriptions that are there for the pieces they describe, so that no example is missing and none is there twice. A piece
is a bounded unit of work and its description is handed on and forgotten: what is held of the whole are the pieces
themselves (small tuples; a million take about 350 MB) and eight bytes for each of them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from pipeline.data.manifest import name
from pipeline.data.records import Examples
from pipeline.data.shards import write_shard
from pipeline.engine.tasks import each
from pipeline.graph import Context
from pipeline.place import Place

Report = dict[str, Any]
Make = Callable[..., tuple[Examples | None, Report]]


def map_shards(
    make: Make,
    pieces: Sequence[Any],
    at: Context,
    heed: Callable[[Report], None] | None = None,
    load: Callable[[], Any] | None = None,
) -> np.ndarray:
    """Apply `make(piece) -> (examples or None, report)` to every piece, on the cluster.

    Args:
        make: picklable; the same piece must give the same examples. Its report is JSON-able.
        pieces: picklable descriptions of bounded units of work.
        at: the running stage; up to `scale.workers` pieces are in flight for each of its cores.
        heed: is handed each piece's report, with "piece" (its number) and "rows", in the order in which they are done.
        load: what makes something that all pieces need, such as a model: then it is `make(piece, loaded)`, done by a
            pool of actors, where `loaded()` is what an actor made of it once.

    Returns:
        int64 (pieces,): how many rows the shard of each piece has; it has no file where there are none.
    """
    counts, start, fresh = np.zeros(len(pieces), np.int64), time.monotonic(), 0
    made = each(partial(_made, make, at.out), list(enumerate(pieces)), at, load)
    for done, (report, is_new) in enumerate(made, 1):
        counts[report["piece"]] = report["rows"]
        fresh += is_new * report["rows"]
        if heed is not None:
            heed(report)
        rate = fresh / (time.monotonic() - start)
        at.tracker.metrics({"rows_per_second": rate, "done": done / len(pieces)}, at=done)
    return counts


def report_of(out: Place, piece: int) -> Report:
    """What `make` reported of a piece, while the step is running."""
    return json.loads(out.read(_description(piece)))


def _made(make: Make, out: Place, item: tuple[int, Any], *loaded: Callable[[], Any]) -> tuple[Report, bool]:
    """The report of a piece, and whether it was made only now."""
    i, piece = item
    try:
        return report_of(out, i), False
    except FileNotFoundError:
        examples, report = make(piece, *loaded)
    count = 0 if examples is None else len(examples)
    if examples is not None and count:
        with out.writing(name(i)) as file:
            write_shard(file, examples)
    report = {**report, "piece": i, "rows": count}
    out.write(_description(i), json.dumps(report))
    return report, True


def _description(piece: int) -> str:
    return f"_work/shards/{piece:06d}.json"
