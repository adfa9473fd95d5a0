"""One piece in, one shard out: a map over pieces that Ray Data runs and a crash cannot make repeat itself.

Shard i is written to `shards/<i>.parquet` and then described by `_work/shards/<i>.json`. A restarted map skips every
described piece, so that no example is missing and none is there twice. A piece is a bounded unit of work, so the
memory in use is that of the pieces in flight, whatever the size of the whole.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import PurePosixPath
from typing import Any

from pipeline.data.records import Examples
from pipeline.data.shards import write_shard
from pipeline.graph import Context
from pipeline.place import Place

Make = Callable[[Any], tuple[Examples | None, dict[str, Any]]]


def name(i: int) -> str:
    """The file of shard i."""
    return f"shards/{i:06d}.parquet"


def map_shards(make: Make, pieces: Sequence[Any], at: Context) -> list[dict[str, Any]]:
    """Apply `make(piece) -> (examples or None, report)` to every piece, on the cluster.

    Args:
        make: picklable; the same piece must give the same examples. Its report is JSON-able.
        pieces: picklable descriptions of bounded units of work.
        at: the running stage; up to `scale.workers` pieces are in flight for each of its cores.

    Returns:
        one report a piece, in order, with "shard" (None where there were no examples) and "rows".
    """
    import ray.data

    done = _described(at.out)
    todo = [{"i": i, "piece": piece} for i, piece in enumerate(pieces) if i not in done]
    start, rows = time.monotonic(), 0
    if todo:
        workers = max(1, int(at.scale.total[0]))
        dataset = ray.data.from_items(todo, override_num_blocks=min(len(todo), 1024)).map(
            partial(_write, make=make, out=at.out),
            compute=ray.data.TaskPoolStrategy(size=workers),
        )
        for row in dataset.iter_rows():
            report = json.loads(row["report"])
            if "refused" in report:
                raise ValueError(report["refused"])
            if "errno" in report:
                raise OSError(report["errno"], os.strerror(report["errno"]), report["file"])
            done[report["piece"]] = report
            rows += report["rows"]
            rate = rows / (time.monotonic() - start)
            at.tracker.metrics({"rows_per_second": rate, "done": len(done) / len(pieces)}, at=len(done))
    return [done[i] for i in range(len(pieces))]


def _write(row: dict[str, Any], make: Make, out: Place) -> dict[str, Any]:
    try:
        report = _made(int(row["i"]), row["piece"], make, out)
    except ValueError as error:  # raised, it would be tried again, and arrive wrapped
        report = {"refused": str(error)}
    except OSError as error:
        if error.errno is None:
            raise
        report = {"errno": error.errno, "file": error.filename}
    return {"report": json.dumps(report)}


def _made(i: int, piece: Any, make: Make, out: Place) -> dict[str, Any]:
    examples, report = make(piece)
    count = 0 if examples is None else len(examples)
    if examples is not None and count:
        with out.writing(name(i)) as file:
            write_shard(file, examples)
    report = {**report, "piece": i, "rows": count, "shard": name(i) if count else None}
    out.write(f"_work/shards/{i:06d}.json", json.dumps(report))
    return report


def _described(out: Place) -> dict[int, dict[str, Any]]:
    names = [n for n in out.names() if n.startswith("_work/shards/") and n.endswith(".json")]
    return {int(PurePosixPath(n).stem): json.loads(out.read(n)) for n in names}
