"""The networks of a recipe and of a finished model, counted: parameters and operations, without building them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from pipeline import config, graph
from pipeline.backbones.backbone import Backbone
from pipeline.backbones.count import Count, count, networks
from pipeline.diffusion.denoiser import Trained
from pipeline.graph import Step
from pipeline.learning.weights import DESCRIPTION
from pipeline.store import Artifact

Named = Iterator[tuple[str, Count]]


def of_recipe(target: Step) -> Named:
    """(label, count) of every network that the steps before a recipe's target train."""
    for step in graph.walk(target):
        network = getattr(step.stage, "network", None)
        for path, found in networks(network):
            yield f"{step.label} {path}".strip(), found


def of_presets(names: Iterable[str], shape: tuple[int, ...]) -> Named:
    """(name, count) of sizes that have proved themselves, for data of `shape` (C, *)."""
    known = Backbone.__named__()
    for name in names:
        yield name, count(known[name], shape, shape[0], shape[0])


def of_artifact(made: Artifact) -> Named:
    """(path in denoiser.json, count) of every network of a model; none if the artifact is no model."""
    if DESCRIPTION in made.names():
        for path, found in networks(described(made)):
            yield path or "network", found


def described(made: Artifact) -> Trained:
    """What a model is built from. Raises: ConfigError: its description cannot be read."""
    try:
        told = json.loads(made.read(DESCRIPTION))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise config.ConfigError(f"{DESCRIPTION} of {made.address} cannot be read ({error}): make it again") from error
    return config.from_json(Trained, told, DESCRIPTION)


def lines(found: Iterable[tuple[str, Count]]) -> Iterator[str]:
    """Comments for a YAML text."""
    rows = [(name, str(counted)) for name, counted in found]
    wide = max((len(name) for name, _ in rows), default=0)
    for name, counted in rows:
        yield f"# {name:<{wide}}  {counted}"
