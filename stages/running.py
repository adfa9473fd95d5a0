"""`kintsugi run RECIPE` and `kintsugi plan RECIPE`."""

from __future__ import annotations

import json
import logging
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
import yaml

from pipeline import config, graph
from pipeline.config import ConfigError
from pipeline.engine.spool import FOLDER
from pipeline.engine.track import without_password
from pipeline.place import Place
from pipeline.shown import table
from pipeline.store import Artifact, Store
from stages import recipe as recipes
from stages.arguments import JsonOption, StoreOption
from stages.ingest import notes
from stages.progress import Progress, watch

log = logging.getLogger("kintsugi")


@dataclass(frozen=True)
class Common:
    """Options of every recipe command."""

    store: StoreOption = "runs"
    config: Annotated[str | None, tyro.conf.arg(help="a YAML file of options, as `kintsugi show` prints them")] = None
    set: Annotated[
        tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(help="path=value: any option by its path")
    ] = ()
    json: JsonOption = False


@dataclass(frozen=True)
class Asked:
    """A recipe with its options resolved, and the step they lead to."""

    name: str
    options: Any
    common: Any
    target: graph.Step
    store: Store

    @property
    def results(self) -> Place:
        """Where its options, its report and its numbers are left for people."""
        return self.store.place / f"results/{self.name}/{self.target.fingerprint}"

    def _repr_html_(self) -> str:
        """In a notebook: what `kintsugi plan` prints."""
        lines = graph.plan(self.target, self.store, self.name)
        rows = [[line.step.label, "cached" if line.cached else without_password(line.why)] for line in lines]
        left = sum(not line.cached for line in lines)
        return table(["step", ""], rows, f"{self.name}: {left} of {len(lines)} steps will run")


def run(words: list[str]) -> int:
    """Make what is missing, then say what came of it."""
    start = time.monotonic()
    asked = ask("run", words)
    if asked is None:
        return 0
    counts = carry_out(asked, watch())
    return _report(asked, counts, time.monotonic() - start)


def carry_out(asked: Asked, progress: Progress) -> dict[str, int]:
    """Make what is missing, and leave what was asked for below `results/`; gives {"run": n, "cached": m}."""
    from pipeline.engine import cluster
    from pipeline.engine.track import Tracking
    from stages.report_index import STORY, Result, index, tell

    store, target = asked.store, asked.target
    listen = listener(store, asked.name, progress)
    try:
        store.check_writable()
        asked.results.write("config.yaml", written(asked.options))
        if all(line.cached for line in graph.plan(target, store)):
            counts = graph.run(target, store, _untracked, listen=listen)
            if (store.place / FOLDER).names():
                log.warning("MLflow was not told everything of earlier runs: `kintsugi track replay` tells it")
        else:
            with Tracking(store, asked.name, progress.metrics) as tracking, cluster.connect() as capacity:
                counts = graph.run(target, store, tracking.run, capacity, listen)
    finally:
        progress.close()
    made = store.artifact(target.address)
    asked.results.write("metrics.json", json.dumps(metrics_of(made), indent=1))
    if "report.html" in made.names():
        asked.results.write("report.html", made.read("report.html"))
    if counts["run"] or not asked.results.exists(STORY):
        tell(store, made, Result(asked.name, target.fingerprint, tuple(asked.results.names())))
        index(store)
    return counts


def metrics_of(made: Artifact) -> dict[str, Any]:
    """What it measured, {} if nothing."""
    return made.json("metrics.json") if "metrics.json" in made.names() else {}


def listener(store: Store, recipe: str, progress: Progress, below: str = "") -> Callable[[graph.Event], None]:
    """What names steps once they are made, under `below`, shows them, and says what a person should know of them."""

    def listen(event: graph.Event) -> None:
        made = event.what in ("done", "cached")
        if made:  # not before: a name must not leave a good result for one that fails
            store.point(recipe, {below + event.step.label: event.step.address})
        progress.event(event)
        if made and event.step.address.startswith("census/"):
            for text in store.artifact(event.step.address).json("census.json")["warnings"]:
                progress.warn(event.step, text)
        if made and event.step.address.startswith("ingest/"):
            for text in notes(store.artifact(event.step.address).json("dataset.json")):
                progress.warn(event.step, text)

    return listen


def plan(words: list[str]) -> int:
    """Print each step: cached, or why it will run."""
    asked = ask("plan", words)
    if asked is None:
        return 0
    lines = graph.plan(asked.target, asked.store, asked.name)
    missing = sum(not line.cached for line in lines)
    if asked.common.json:
        steps = [{"step": p.step.label, "address": p.step.address, "cached": p.cached, "why": p.why} for p in lines]
        said = {"recipe": asked.name, "target": asked.target.fingerprint, "missing": missing, "steps": steps}
        print(without_password(json.dumps(said)))
        return 0
    for line in lines:
        print(f"{'cached  ' if line.cached else 'will run'}  {line.step.label:<22} {line.step.address:<34} ", end="")
        print("" if line.cached else without_password(line.why))
    print(f"{missing} of {len(lines)} steps will run")
    return 0


def ask(verb: str, words: list[str], common: type[Common] = Common) -> Asked | None:
    """The recipe and the options on a command line; None where only help was asked for."""
    known = ", ".join(recipes.names())
    if not words or words[0].startswith("-"):
        if words and words[0] in ("-h", "--help"):
            listed = textwrap.fill(f"recipes: {known}", 80, subsequent_indent=" " * len("recipes: "))
            print(f"usage: kintsugi {verb} RECIPE [OPTIONS]\n\n{listed}\noptions: kintsugi {verb} RECIPE --help")
            return None
        raise ConfigError(f"say which recipe to {verb}: {known}")
    name = words[0]
    recipe = recipes.find(name)
    options, given = recipes.resolve(recipe, words[1:], common, f"kintsugi {verb} {name}")
    return Asked(name, options, given, recipes.build(recipe, options), Store(given.store))


def _report(asked: Asked, counts: dict[str, int], seconds: float) -> int:
    from stages.report_index import INDEX, PAGE, STORY

    results = asked.results
    made = asked.store.artifact(asked.target.address)
    metrics = metrics_of(made)
    sets = made.json("made.json") if "made.json" in made.names() else {}
    sets = {name: without_password(asked.store.artifact(address).place.url) for name, address in sets.items()}
    where = str(Path(results.root)) if results.is_local else without_password(results.url)
    page = f"{where}/{PAGE}" if PAGE in made.names() else None
    for name, value in metrics.items():
        print(f"{name:<32} {value:.4f}")
    print(f"{counts['run']} steps run, {counts['cached']} cached, {seconds:.0f} s")
    for name, place in sets.items():
        print(f"{name}: {place}")
    if page:
        print(f"report: {page}")
    print(f"story: {where}/{STORY}")
    print(f"all runs: {without_password(asked.store.place.at(INDEX))}")
    sys.stdout.flush()
    if asked.common.json:
        said = {
            "recipe": asked.name,
            "target": asked.target.fingerprint,
            "steps": counts,
            "metrics": metrics,
            **sets,
            "report": page,
            "story": f"{where}/{STORY}",
            "seconds": round(seconds, 2),
        }
        print(json.dumps(said))
    return 0


def _untracked(step: graph.Step) -> Any:
    raise RuntimeError(f"{step.label} was found and is gone: run again")


def written(options: Any) -> str:
    """A recipe's options as a file that `--config` takes."""
    return yaml.safe_dump(config.to_json(options, type(options)), sort_keys=False, allow_unicode=True)
