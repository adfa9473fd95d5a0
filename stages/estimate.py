"""`kintsugi estimate RECIPE`: what steps that are still to come take in time, memory and money."""

from __future__ import annotations

import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from pipeline import graph
from pipeline.config import ConfigError
from pipeline.graph import Event, Schedule, Step, StepFailed
from stages.progress import watch
from stages.running import Asked, Common, ask

if TYPE_CHECKING:
    from stages.probe import Probed

COLUMNS = (
    *("workers", "device", "parameters", "images", "batch", "micro", "passes"),
    *("images_per_second", "images_per_second_range", "hours", "memory", "cost"),
)
FEWEST = 4  # steps of which one is warm-up
NOT = "not estimated"
LEFT_OUT = (
    f"steps that are {NOT}, such as reading, corrupting and evaluating",
    "starting processes and compiling, checkpoints, and what workers wait for each other's gradients",
    "the sampler's own arithmetic, decoding, and writing what was restored or drawn",
    "workers beyond the shards of a set that is not made yet",
    "that rounds may end early",
    "that steps side by side share memory and disks",
    "reading of sets that are not made yet or are too large for memory",
    "that a run which was interrupted goes on from its checkpoint",
    "workers beyond the fewest, and machines that stand idle",
)


@dataclass(frozen=True)
class Options(Common):
    """Those of every recipe command, and how to measure and to count."""

    price: Annotated[
        float | None, tyro.conf.arg(help="of a GPU for an hour, or of a CPU core where a step takes no GPU")
    ] = None
    steps: Annotated[
        int,
        tyro.conf.arg(help="to take of each training, or passes of each network that restores or draws"),
    ] = 20


def estimate(words: list[str]) -> int:
    """Take a few steps of everything that would be trained or asked, and say what all of it would take."""
    found = ask("estimate", words, Options)
    if found is None:
        return 0
    options: Options = found.common
    if options.price is not None and not 0 <= options.price < math.inf:
        raise ConfigError(f"--price is {options.price}: give what an hour costs, from 0")
    if options.steps < FEWEST:
        raise ConfigError(f"--steps is {options.steps}: take at least {FEWEST}, the first of which is warm-up")
    missing = [line.step for line in graph.plan(found.target, found.store, found.name) if not line.cached]
    taken, path, capacity = _measured(missing, found, options)
    rows = [_row(node, taken.get(node.address), options.price) for node in missing]
    known = [row for row in rows if row["hours"] is not None]
    costs = None if options.price is None else sum(row["cost"] for row in known)
    total = {"hours": path, "hours_sum": sum(row["hours"] for row in known), "cost": costs}
    total["not_estimated"] = len(rows) - len(known)
    if options.json:
        said = {"recipe": found.name, "target": found.target.fingerprint, "price": options.price} | total
        said |= {"capacity": {"cpus": capacity[0], "gpus": capacity[1]}} if capacity else {}
        print(json.dumps(said | {"probe": options.steps, "steps": rows, "left_out": LEFT_OUT}))
    elif rows:
        _print(rows, total, capacity)
    else:
        print("nothing is left to be done")
    return 0


def _measured(
    missing: list[Step], found: Asked, options: Options
) -> tuple[dict[str, Probed], float, tuple[float, float] | None]:
    """What was found by address, the hours until all that is done, and the cluster's (cores, devices), if asked."""
    from pipeline.engine import cluster
    from stages import passes
    from stages.probe import probe
    from stages.train import Trains

    ways: list[tuple[Step, Callable[..., Probed | None]]] = []
    for node in missing:
        if isinstance(node.stage, Trains):
            ways.append((node, probe))
        elif isinstance(node.stage, passes.Asks) and passes.known(node.stage, found.store):
            ways.append((node, passes.passes))
    if not ways:
        return {}, 0.0, None
    taken: dict[str, Probed] = {}
    progress = watch()
    try:
        with cluster.connect() as capacity:
            schedule = Schedule(missing, found.store, capacity)
            for node, way in ways:
                start = time.monotonic()
                progress.event(Event(node, "start"))
                try:
                    one = cluster.call(node.scale, way, node, node.stage, found.store, options.steps, fresh=True)
                except Exception as error:
                    raise StepFailed(node, error) from error
                if one is not None:
                    taken[node.address] = one
                progress.event(Event(node, "probed", time.monotonic() - start))
    finally:
        progress.close()
    return taken, schedule.span({address: hours(one) for address, one in taken.items()}), capacity


def hours(taken: Probed) -> float:
    """Of all the steps or passes."""
    return math.ceil(taken.images / taken.batch) * (taken.passes or 1) * statistics.median(taken.seconds) / 3600


def _row(node: Step, taken: Probed | None, price: float | None) -> dict[str, Any]:
    """What one step takes, in JSON values; None is what is not known."""
    said = dict.fromkeys(("step", "address", *COLUMNS)) | {"step": node.label, "address": node.address}
    if taken is None:
        return said
    passes, middle = taken.passes or 1, statistics.median(taken.seconds)
    low, typical, high = (taken.batch / (s * passes) for s in (max(taken.seconds), middle, min(taken.seconds)))
    total, wide = hours(taken), taken.workers * (node.scale.gpus or node.scale.cpus)
    said |= {name: getattr(taken, name) for name in COLUMNS if hasattr(taken, name)}
    said |= {"images_per_second": typical, "images_per_second_range": [low, high], "hours": total}
    return said | {"cost": None if price is None else total * wide * price}


def _print(rows: list[dict[str, Any]], total: dict[str, Any], capacity: tuple[float, float] | None) -> None:
    table = Table("step", box=None)
    for column in ("parameters", "images", "passes", "images/s", "(range)", "hours", "peak memory", "cost"):
        table.add_column(column, justify="right")
    for row in rows:
        if row["hours"] is None:
            table.add_row(row["step"], *[""] * 5, NOT)
            continue
        low, high = row["images_per_second_range"]
        table.add_row(
            row["step"],
            "" if row["parameters"] is None else f"{row['parameters']:,}",
            f"{row['images']:,}",
            "" if row["passes"] is None else f"{row['passes']:,}",
            f"{row['images_per_second']:,.0f}",
            f"({low:,.0f} to {high:,.0f})",
            f"{row['hours']:.3g}",
            f"{row['memory'] / 2**20:,.0f} MiB",
            _money(row["cost"]),
        )
    Console(width=None if sys.stdout.isatty() else 250).print(table)
    if capacity is None:
        print("nothing is left that could be estimated")
        return
    print(f"{total['hours']:.3g} hours with {capacity[0]:g} CPUs and {capacity[1]:g} GPUs, ", end="")
    print(f"{total['hours_sum']:.3g} hours one after the other, cost {_money(total['cost'])}", end="")
    print(f", without {total['not_estimated']} steps that are {NOT}" if total["not_estimated"] else "")
    devices = {row["device"] for row in rows if row["device"] is not None}
    print(f"measured on {', '.join(sorted(devices))}; memory of each worker: ", end="")
    grown = "by how much its process grows at most, without a GPU"
    print("what the device has allocated at most" if devices - {"CPU"} else grown)
    print(f"not included: {'; '.join(LEFT_OUT)}")


def _money(cost: float | None) -> str:
    return "(no --price)" if cost is None else f"{cost:,.2f}"
