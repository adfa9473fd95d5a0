"""Runs and trials of a store side by side: ranked by a number that they report, with the options that differ."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline import flat
from pipeline.config import ConfigError, nearest
from pipeline.engine.ledger import FINISHED, Ledger
from pipeline.place import Place
from pipeline.store import Store, StoreError
from stages.recipe import read_yaml

METRICS = "metrics.json"


@dataclass(frozen=True)
class Entry:
    """A run, or a trial of a search.

    Args:
        recipe: its recipe.
        what: `run <fingerprint>` or `trial <number> of <search>`, as people may name it.
        address: of what reports the numbers.
        numbers: these, by name.
        options: the recipe's, by path.
        differing: those of them that are not the same in all that is compared, without `scale`.
    """

    recipe: str
    what: str
    address: str
    numbers: Mapping[str, float]
    options: Mapping[str, Any]
    differing: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Ranking:
    """`entries` by `metric`, the first first, and sentences about what could not be read."""

    metric: str
    entries: list[Entry]
    others: int
    damaged: list[str]


def ranking(
    store: Store, metric: str, reverse: bool = False, recipe: str | None = None, top: int | None = None
) -> Ranking:
    """The runs and trials that report a number, the smallest first; numbers that are not finite come last.

    Args:
        store: where they are.
        metric: a name in their `metrics.json`.
        reverse: the largest first.
        recipe: of which alone.
        top: how many at most.

    Raises:
        ConfigError: nothing in the store reports that, or is of that recipe.
    """
    if top is not None and top < 1:
        raise ConfigError(f"--top is {top}: give at least 1")
    damaged: list[str] = []
    found = [*_runs(store, damaged), *_trials(store, damaged)]
    recipes = {entry.recipe for entry in found}
    if recipe is not None and recipe not in recipes:
        raise ConfigError(f"no run or trial in {store.url} is of '{recipe}'{nearest(recipe, recipes)}")
    asked = [entry for entry in found if recipe in (None, entry.recipe)]
    fits = [entry for entry in asked if metric in entry.numbers]
    if not fits:
        known = sorted({name for entry in asked for name in entry.numbers})
        more = f"; {damaged[0]}" if damaged and not known else ""
        raise ConfigError(f"nothing in {store.url} reports '{metric}'{nearest(metric, known)}{more}")
    sign = -1 if reverse else 1
    values = [(math.isfinite(entry.numbers[metric]), entry) for entry in fits]
    ranked = sorted((entry for finite, entry in values if finite), key=lambda entry: sign * entry.numbers[metric])
    ranked += [entry for finite, entry in values if not finite]
    return Ranking(metric, _compared(ranked[:top]), len(asked) - len(fits), damaged)


def _runs(store: Store, damaged: list[str]) -> Iterable[Entry]:
    place = store.place / "results"
    addresses = {address.split("/")[1]: address for address in store.addresses()}
    for name in sorted(place.names()):
        if match := re.fullmatch(rf"(\w+)/([0-9a-f]{{20}})/{METRICS}", name):
            recipe, fingerprint = match[1], match[2]
            home, address = place / f"{recipe}/{fingerprint}", addresses.get(fingerprint, "")
            try:
                numbers = _numbers(store, address) if address else _numeric(json.loads(home.read(METRICS)))
                options = _options(home, "config.yaml")
            except (StoreError, OSError, ValueError) as error:
                damaged.append(f"run {fingerprint} of {recipe} is left out: {_first(error)}")
                continue
            yield Entry(recipe, f"run {fingerprint}", address, numbers, options)


def _trials(store: Store, damaged: list[str]) -> Iterable[Entry]:
    place = store.place / "results"
    for name in sorted(place.names()):
        if match := re.fullmatch(r"(\w+)/search/([0-9a-f]{20})/options\.yaml", name):
            recipe, search = match[1], match[2]
            home = place / f"{recipe}/search/{search}"
            try:
                base, trials = _options(home, "options.yaml"), Ledger(home).of(FINISHED)
                said = json.loads(home.read("sweep.json")) if home.exists("sweep.json") else {}
            except (StoreError, OSError, ValueError) as error:
                damaged.append(f"search {search} of {recipe} is left out: {_first(error)}")
                continue
            for trial in trials:
                numbers = {} if trial.value is None or "metric" not in said else {said["metric"]: trial.value}
                try:  # that of a loser may have been deleted since
                    numbers = (_numbers(store, trial.address) if store.manifest(trial.address) else {}) | numbers
                except (StoreError, OSError, ValueError) as error:
                    damaged.append(f"trial {trial.number} of {search} is left out: {_first(error)}")
                    continue
                options = base | {
                    leaf: found for path, value in trial.options.items() for leaf, found in _leaves(value, path)
                }
                yield Entry(recipe, f"trial {trial.number} of {search}", trial.address, numbers, options)


def _leaves(value: Any, path: str) -> Iterable[tuple[str, Any]]:
    return flat.leaves(value, path).items()


def _options(home: Place, name: str) -> dict[str, Any]:
    tree = read_yaml(home.read(name).decode(), home.at(name))
    if not isinstance(tree, dict):
        raise ValueError(f"{home.at(name)} holds no options: run the command again, or delete it")
    return flat.leaves(tree)


def _numbers(store: Store, address: str) -> dict[str, float]:
    made = store.artifact(address)
    return _numeric(made.json(METRICS)) if METRICS in made.names() else {}


def _numeric(said: Any) -> dict[str, float]:
    if not isinstance(said, dict):
        raise ValueError(f"its {METRICS} has no names in it")
    found = {name: value for name, value in said.items() if isinstance(value, int | float)}
    return {name: float(value) for name, value in found.items() if not isinstance(value, bool)}


def _compared(entries: list[Entry]) -> list[Entry]:
    """With the options of which those of the same recipe have different values; how wide it ran is none of them."""
    seen: dict[tuple[str, str], set[str]] = {}
    for entry in entries:
        for path, value in entry.options.items():
            said = "" if path.startswith("scale.") else json.dumps(value, default=str)  # it bears no identity
            seen.setdefault((entry.recipe, path), set()).add(said)
    return [
        replace(entry, differing={path: v for path, v in entry.options.items() if len(seen[entry.recipe, path]) > 1})
        for entry in entries
    ]


def _first(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
