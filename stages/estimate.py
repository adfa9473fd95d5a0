"""`kintsugi estimate RECIPE`: what the trainings that are still to come take in time, memory and money."""

from __future__ import annotations

import json
import math
import statistics
import sys
import time
from dataclasses import dataclass
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from pipeline import graph
from pipeline.config import ConfigError
from pipeline.graph import Event, Schedule, Step, StepFailed
from stages.progress import watch
from stages.running import Asked, Common, ask

FEWEST = 4  # steps of which one is warm-up
LEFT_OUT = (
    "whatever does not train, such as reading, corrupting, restoring, sampling and evaluating",
    "starting processes and compiling, checkpoints, and what workers wait for each other's gradients",
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
    steps: Annotated[int, tyro.conf.arg(help="how many steps of each training to take")] = 20


def estimate(words: list[str]) -> int:
    """Take a few steps of everything that would be trained, and say what all of it would take."""
    found = ask("estimate", words, Options)
    if found is None:
        return 0
    options: Options = found.common
    if options.price is not None and not 0 <= options.price < math.inf:
        raise ConfigError(f"--price is {options.price}: give what an hour costs, from 0")
    if options.steps < FEWEST:
        raise ConfigError(f"--steps is {options.steps}: take at least {FEWEST}, the first of which is warm-up")
    missing = [line.step for line in graph.plan(found.target, found.store, found.name) if not line.cached]
    rows, path, capacity = _measured(missing, found, options)
    costs = None if options.price is None else sum(row["cost"] for row in rows)
    total = {"hours": path, "hours_sum": sum(row["hours"] for row in rows), "cost": costs}
    if options.json:
        said = {"recipe": found.name, "target": found.target.fingerprint, "price": options.price} | total
        said |= {"capacity": {"cpus": capacity[0], "gpus": capacity[1]}} if rows else {}
        print(json.dumps(said | {"probe": options.steps, "steps": rows, "left_out": LEFT_OUT}))
        return 0
    if not rows:
        print("no training is left to be done")
        return 0
    _print(rows, total, capacity)
    return 0


def _measured(missing: list[Step], found: Asked, options: Options) -> tuple[list[dict[str, Any]], float, Any]:
    """A row for each training among the steps, the hours until all are done, and the cluster's (cores, devices)."""
    from pipeline.engine import cluster
    from stages.probe import probe
    from stages.train import Trains

    trainings = [(node, node.stage) for node in missing if isinstance(node.stage, Trains)]
    if not trainings:
        return [], 0.0, None
    rows, progress = [], watch()
    try:
        with cluster.connect() as capacity:
            schedule = Schedule(missing, found.store, capacity)
            for node, stage in trainings:
                start = time.monotonic()
                progress.event(Event(node, "start"))
                try:
                    taken = cluster.call(node.scale, probe, node, stage, found.store, options.steps, fresh=True)
                except Exception as error:
                    raise StepFailed(node, error) from error
                rows.append(_row(node, taken, options.price))
                progress.event(Event(node, "probed", time.monotonic() - start))
    finally:
        progress.close()
    return rows, schedule.span({row["address"]: row["hours"] for row in rows}), capacity


def _row(node: Step, taken: Any, price: float | None) -> dict[str, Any]:
    """What one training takes, in JSON values."""
    step = statistics.median(taken.seconds)
    hours = math.ceil(taken.images / taken.batch) * step / 3600
    return {
        "step": node.label,
        "address": node.address,
        "workers": taken.workers,
        "device": taken.device,
        "parameters": taken.parameters,
        "images": taken.images,
        "batch": taken.batch,
        "micro": taken.micro,
        "images_per_second": taken.batch / step,
        "images_per_second_range": [taken.batch / max(taken.seconds), taken.batch / min(taken.seconds)],
        "hours": hours,
        "memory": taken.memory,
        "cost": None if price is None else hours * taken.workers * (node.scale.gpus or node.scale.cpus) * price,
    }


def _print(rows: list[dict[str, Any]], total: dict[str, Any], capacity: tuple[float, float]) -> None:
    table = Table("step", box=None)
    for column in ("parameters", "images", "images/s", "(range)", "hours", "peak memory", "cost"):
        table.add_column(column, justify="right")
    for row in rows:
        low, high = row["images_per_second_range"]
        table.add_row(
            row["step"],
            f"{row['parameters']:,}",
            f"{row['images']:,}",
            f"{row['images_per_second']:,.0f}",
            f"({low:,.0f} to {high:,.0f})",
            f"{row['hours']:.3g}",
            f"{row['memory'] / 2**20:,.0f} MiB",
            _money(row["cost"]),
        )
    Console(width=None if sys.stdout.isatty() else 250).print(table)
    print(f"{total['hours']:.3g} hours with {capacity[0]:g} CPUs and {capacity[1]:g} GPUs, ", end="")
    print(f"{total['hours_sum']:.3g} hours one after the other, cost {_money(total['cost'])}")
    on_gpu = any(row["device"] != "CPU" for row in rows)
    print(f"measured on {', '.join(sorted({row['device'] for row in rows}))}; memory of each worker: ", end="")
    print("what the device has allocated at most" if on_gpu else "by how much its process grows at most, without a GPU")
    print(f"not included: {'; '.join(LEFT_OUT)}")


def _money(cost: float | None) -> str:
    return "(no --price)" if cost is None else f"{cost:,.2f}"
