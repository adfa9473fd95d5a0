"""`kintsugi average MODEL`: other averages of a trained model's weights, chosen after training."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated

import tyro
from tyro.conf import Positional

from pipeline import config, graph
from pipeline.store import Store, slug
from stages.arguments import JsonOption, StoreOption, parse
from stages.verbs import make, model_of


@dataclass(frozen=True)
class Averaged:
    """Make other averages of a model that was trained with fit.posthoc; each is a model of its own."""

    model: Annotated[Positional[str], tyro.conf.arg(help="a model's name, address or fingerprint")]
    width: Annotated[
        tuple[float, ...],
        tyro.conf.arg(help="standard deviation of the average over the run, as a share of it; several make several"),
    ] = (0.1,)
    name: Annotated[
        str | None, tyro.conf.arg(help="what to call them, before their width; the model's if not given")
    ] = None
    store: StoreOption = "runs"
    json: JsonOption = False


def average(words: list[str]) -> int:
    """`kintsugi average MODEL --width 0.05 0.1 0.15`."""
    from stages.average import Average

    asked = parse(Averaged, words, "kintsugi average", Averaged.__doc__ or "")
    if not asked.width:
        raise config.ConfigError("--width is empty: give at least one, such as 0.1")
    store = Store(asked.store)
    model = model_of(store, asked.model)
    steps = {width: graph.step(Average(model, width), f"average/{width:g}") for width in asked.width}
    called, found = asked.name or asked.model.replace("/", "-"), {}
    for width, step in steps.items():
        recipe, _, label = slug(f"averaged/{called}-{width:g}").partition("/")
        made = make(store, step)
        store.point(recipe, {label: made.address})
        found[f"{recipe}/{label}"] = made.address
    print(json.dumps(found) if asked.json else "\n".join(f"{name} is {address}" for name, address in found.items()))
    return 0
