"""`kintsugi search RECIPE`: try options, keep the best."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from pipeline.engine.track import without_password
from stages.running import Common, ask


@dataclass(frozen=True)
class Options(Common):
    """Those of every recipe command, and what is searched."""

    over: Annotated[
        tuple[str, ...],
        tyro.conf.UseAppendAction,
        tyro.conf.arg(help="path=space: an option and its values, such as residual.output_l2=loguniform(1e-4,10)"),
    ] = ()
    trials: Annotated[int | None, tyro.conf.arg(help="how many (20; of a grid: all)")] = None
    metric: Annotated[str, tyro.conf.arg(help="what decides, among what the recipe reports")] = "selection"
    mode: Annotated[str, tyro.conf.arg(help="min or max of it")] = "min"
    searcher: Annotated[str, tyro.conf.arg(help="random, grid or optuna")] = "random"
    scheduler: Annotated[str, tyro.conf.arg(help="none, or asha: stop trials that lag behind")] = "none"
    watch: Annotated[str | None, tyro.conf.arg(help="the training by which trials lag behind")] = None
    search_seed: Annotated[int, tyro.conf.arg(help="of what is drawn")] = 0
    at_once: Annotated[int | None, tyro.conf.arg(help="trials side by side; as many as fit")] = None
    name: Annotated[str, tyro.conf.arg(help="what the winner is called")] = "best"
    hours: Annotated[float | None, tyro.conf.arg(help="after which no trial begins; again: goes on")] = None
    register: Annotated[str | None, tyro.conf.arg(help="put the winner into MLflow's registry under this name")] = None
    alias: Annotated[str, tyro.conf.arg(help="of the winner there, which it takes over")] = "best"


def search(words: list[str]) -> int:
    """Try options of a recipe, each trial by its own steps, and name the best."""
    from stages import search as searching
    from stages.promotion import Unregistered

    start = time.monotonic()
    asked = ask("search", words, Options)
    if asked is None:
        return 0
    given: Options = asked.common
    refusal = ""
    try:
        found = searching.search(
            asked.name,
            given.over,
            given.trials,
            options=asked.options,
            store=asked.store,
            metric=given.metric,
            mode=given.mode,
            searcher=given.searcher,
            scheduler=given.scheduler,
            seed=given.search_seed,
            at_once=given.at_once,
            watched=given.watch,
            name=given.name,
            hours=given.hours,
            register=given.register,
            alias=given.alias,
        )
    except Unregistered as error:
        found, refusal = error.found, str(error)
    counts = Counter(trial.status for trial in found.trials)
    where = str(Path(found.place.root)) if found.place.is_local else without_password(found.place.url)
    for path, value in found.best.options.items():
        print(f"{path:<32} {value:.6g}" if isinstance(value, float) else f"{path:<32} {value}")
    print(f"{given.metric:<32} {found.best.value:.4f}")
    shown = ", ".join(f"{counts[status]} {text}" for status, text in STATUSES.items() if counts[status])
    print(f"trial {found.best.number} of {len(found.trials)} ({shown}), {found.made} steps run, ", end="")
    print(f"{time.monotonic() - start:.0f} s")
    if found.left:
        print(f"{found.left} trials are left: the time was over, and the same command goes on with them")
    print(f"model: {found.name}{f', {found.registered}' if found.registered else ''}")
    print(f"options: {where}/best.yaml")
    print(f"report: {where}/report.html", flush=True)
    if given.json:
        trials = [
            {"trial": t.number, "status": t.status, given.metric: t.value, "options": t.options, "address": t.address}
            for t in found.trials
        ]
        said = {
            "recipe": asked.name,
            "sweep": found.sweep,
            "metric": given.metric,
            "best": {"trial": found.best.number, "value": found.best.value, "options": found.best.options},
            "name": found.name,
            "address": found.address,
            "trials": trials,
            "steps": {"run": found.made},
            "left": found.left,
            "registered": found.registered or None,
            "options": f"{where}/best.yaml",
            "report": f"{where}/report.html",
            "seconds": round(time.monotonic() - start, 2),
        }
        print(without_password(json.dumps(said)))
    if refusal:
        print(f"kintsugi: {without_password(' '.join(refusal.split()))}", file=sys.stderr)
        return 1
    return 0


STATUSES = {"finished": "finished", "stopped": "stopped early", "failed": "failed", "running": "interrupted"}
