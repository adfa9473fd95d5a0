"""Commands about what there is, show, diff, ls and gc, and what other commands make steps with."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import dataclass
from typing import Annotated, Any

import tyro
import yaml
from tyro.conf import Positional

from pipeline import config, flat, graph
from pipeline.engine.track import without_password
from pipeline.graph import Given, Step
from pipeline.store import Store, StoreError
from stages import recipe as recipes
from stages.arguments import JsonOption, StoreOption, parse
from stages.progress import watch

MOST_NUMBERS = 1 << 30  # of a row of data that presets are counted for


@dataclass(frozen=True)
class Show:
    """Print a recipe's options with what they mean, what an artifact was made from, or the sizes of preset networks."""

    name: Annotated[
        Positional[str],
        tyro.conf.arg(help="a recipe, an artifact's name, address or fingerprint, a preset such as DIT_1M, or presets"),
    ]
    shape: Annotated[tuple[int, ...], tyro.conf.arg(help="of the data that presets are counted for")] = (3, 32, 32)
    store: StoreOption = "runs"
    json: JsonOption = False


def show(words: list[str]) -> int:
    """`kintsugi show RECIPE|NAME`."""
    asked = parse(Show, words, "kintsugi show", Show.__doc__ or "")
    if asked.name in recipes.names():
        recipe = recipes.find(asked.name)
        declared = recipes.options_of(recipe)
        tree = config.to_json(declared(), declared)
        if asked.json:
            print(json.dumps(tree))
            return 0
        told = recipes.helps(recipe)
        for name, value in tree.items():
            print(f"# {' '.join(told.get(name, '').split())}")
            print(yaml.safe_dump({name: value}, sort_keys=False), end="")
        try:
            target = recipes.build(recipe, declared())
        except (ValueError, OSError) as error:  # the options are right, but the data they name is not here
            print(f"# networks are counted where the data are: {error}")
            return 0
        from stages import networks

        for line in networks.lines(networks.of_recipe(target)):
            print(line)
        return 0
    if asked.name == "presets":
        return _presets(None, asked)
    store = Store(asked.store)
    try:
        address = store.find(asked.name)
    except StoreError as error:
        if asked.name.isupper():  # as presets are: whatever else is written so, they are near it
            return _presets(asked.name, asked)
        raise config.ConfigError(f"{error}; recipes are {', '.join(recipes.names())}") from error
    from stages import networks  # only now, because it needs torch

    made = store.artifact(address)
    manifest, found = made.manifest, list(networks.of_artifact(made))
    if asked.json:
        counts = {"networks": {name: count._asdict() for name, count in found}} if found else {}
        print(without_password(json.dumps(manifest | counts)))
        return 0
    print(without_password(yaml.safe_dump(manifest, sort_keys=False, allow_unicode=True)), end="")
    for line in networks.lines(found):
        print(line)
    return 0


def _presets(name: str | None, asked: Show) -> int:
    """One preset or (None) all, with their sizes."""
    from pipeline.backbones.backbone import Backbone
    from stages import networks

    known = Backbone.__named__()
    if name is not None and name not in known:
        raise config.ConfigError(f"there is no artifact and no preset '{name}'{config.nearest(name, known)}")
    if len(asked.shape) < 2 or min(asked.shape) < 1 or math.prod(asked.shape) > MOST_NUMBERS:
        raise config.ConfigError(
            f"--shape {asked.shape} is none of data: give channels and sides, such as 3 32 32, of {MOST_NUMBERS:,} "
            "numbers at most"
        )
    found = dict(networks.of_presets(list(known) if name is None else [name], asked.shape))
    if asked.json:
        print(json.dumps({name: count._asdict() for name, count in found.items()}))
        return 0
    if name is not None:
        print(yaml.safe_dump(config.to_json(known[name]), sort_keys=False), end="")
    for line in networks.lines(found.items()):
        print(line)
    return 0


@dataclass(frozen=True)
class Diff:
    """Say in which options two artifacts differ, through everything they were made from."""

    old: Annotated[Positional[str], tyro.conf.arg(help="an artifact's name, address or fingerprint")]
    new: Annotated[Positional[str], tyro.conf.arg(help="another's")]
    store: StoreOption = "runs"
    json: JsonOption = False


def diff(words: list[str]) -> int:
    """`kintsugi diff OLD NEW`."""
    asked = parse(Diff, words, "kintsugi diff", Diff.__doc__ or "")
    store = Store(asked.store)
    moved = _moved(store, store.find(asked.old), store.find(asked.new), "")
    if asked.json:
        found = json.dumps([{"path": path, "old": old, "new": new} for path, old, new in moved])
        print(without_password(found))
        return 0
    for path, old, new in moved:
        print(without_password(f"{path}: {old} → {new}"))
    if not moved:
        print("no difference")
    return 0


def _moved(store: Store, old: str, new: str, prefix: str) -> list[tuple[str, Any, Any]]:
    """Differing leaves; where two needs differ, what differs in those."""
    if old == new:
        return []
    before, after = store.manifest(old), store.manifest(new)
    if before is None or after is None:
        return [(prefix or "step", old, new)]
    found = []
    for path, a, b in flat.differences(before["config"], after["config"]):
        need = path.removesuffix(".step")
        if path != need and a and b and a.split("/")[0] == b.split("/")[0]:
            found += _moved(store, a, b, f"{prefix}{need}.")
        else:
            found.append((prefix + path, a, b))
    return found


@dataclass(frozen=True)
class Collect:
    """List what no name leads to and unfinished attempts of dead writers; with --yes, delete them."""

    store: StoreOption = "runs"
    yes: Annotated[bool, tyro.conf.arg(help="delete, rather than list")] = False
    damaged: Annotated[bool, tyro.conf.arg(help="also what no longer matches its SHA-256, or its manifest")] = False
    json: JsonOption = False


def gc(words: list[str]) -> int:
    """`kintsugi gc`."""
    asked = parse(Collect, words, "kintsugi gc", Collect.__doc__ or "")
    store = Store(asked.store)
    garbage = store.garbage(damaged=asked.damaged)
    if not garbage and not store.addresses():
        say_empty(store)
    if asked.yes:
        for name in garbage:
            store.place.remove(name)
    if asked.json:
        print(json.dumps({"deleted" if asked.yes else "found": garbage}))
        return 0
    for name in garbage:
        print(f"{'deleted' if asked.yes else 'not needed:'} {name}")
    print(f"{len(garbage)} {'deleted' if asked.yes else 'found; --yes deletes them'}")
    return 0


def say_empty(store: Store) -> None:
    """Another folder than the one that was meant looks like a store without artifacts."""
    print(f"kintsugi: there are no artifacts in {store.url}: is another store meant by --store?", file=sys.stderr)


def model_of(store: Store, name: str) -> Given:
    """The model of that name, address or fingerprint. Raises: ConfigError: it is no model."""
    found = Given.find(store, name)
    if "denoiser.json" not in store.artifact(found.address).names():
        raise config.ConfigError(f"{name} is {found.address}, no model: name one, such as a recipe's composed")
    return found


def make(store: Store, target: Step) -> Any:
    """The artifact of a step, made now if it is not there."""
    from pipeline.engine import cluster
    from pipeline.engine.track import Tracking

    if not store.has(target):
        progress = watch()
        try:
            with Tracking(store, "by hand", progress.metrics) as tracking, cluster.connect() as capacity:
                graph.run(target, store, tracking.run, capacity, progress.event)
        finally:
            progress.close()
    return store.artifact(target.address)
