"""`kintsugi register MODEL --name NAME`: a model in MLflow's registry, where it draws images and can be served."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import tyro
from tyro.conf import Positional

from pipeline import config
from pipeline.engine.track import without_password
from pipeline.store import Artifact, Store
from stages.arguments import JsonOption, StoreOption, parse
from stages.verbs import model_of

if TYPE_CHECKING:
    from pipeline.engine.registry import Drawing


@dataclass(frozen=True)
class Register:
    """Put a model into MLflow's registry as the next version of a name; the same model again is the same version."""

    model: Annotated[Positional[str], tyro.conf.arg(help="a model's name, address or fingerprint")]
    name: Annotated[str, tyro.conf.arg(help="what the registry calls it")]
    alias: Annotated[str | None, tyro.conf.arg(help="what people call this version, such as best")] = None
    move: Annotated[bool, tyro.conf.arg(help="take the alias from the version that has it")] = False
    store: StoreOption = "runs"
    json: JsonOption = False


def register(words: list[str]) -> int:
    """`kintsugi register MODEL --name NAME --alias best`."""
    from pipeline.engine import registry
    from pipeline.engine.preflight import check_tracking

    asked = parse(Register, words, "kintsugi register", Register.__doc__ or "")
    registry.check_names(asked.name, asked.alias)
    store = Store(asked.store)
    found = store.artifact(model_of(store, asked.model).address)
    uri = check_tracking(store)
    made = registry.register(store, drawing(store, found), asked.name, asked.alias, asked.move)
    where = f"models:/{made.name}/{made.number}"
    if asked.json:
        said = {"model": found.address, "uri": where, "version": int(made.number), "alias": asked.alias}
        print(json.dumps(said | {"new": made.fresh}))
        return 0
    print(f"{found.address} is {where}{f' and models:/{made.name}@{asked.alias}' if asked.alias else ''}")
    print(f"MLFLOW_TRACKING_URI={without_password(uri)} mlflow models serve -m '{where}' --env-manager local")
    return 0


def drawing(store: Store, found: Artifact) -> Drawing:
    """A model as what draws images. Raises: ConfigError: it draws none."""
    import torch

    from pipeline.diffusion.discrete import Discrete
    from pipeline.diffusion.sample import Euler, samples
    from pipeline.engine.registry import Drawing
    from pipeline.learning.weights import DESCRIPTION, WEIGHTS, unpack
    from stages.conditioned import condition_of
    from stages.ending import least_of, trained
    from stages.sample import always_told

    files = {name: found.read(name) for name in (DESCRIPTION, WEIGHTS)}
    network = unpack(files.__getitem__)
    shape, condition = tuple(network.config.shape), condition_of(network.config)
    if isinstance(getattr(network.config, "precond", None), Discrete) and shape[0] not in (1, 3):
        raise config.ConfigError(f"{found.address} makes latents of {shape[0]} channels, no images: register another")
    told = "" if condition is None else condition.column
    always = bool(always_told(trained(found, store)))
    if told not in ("label", "caption"):
        if always:
            raise config.ConfigError(f"{found.address} was told {told} with every image, which no request can hold")
        told = ""
    try:
        with torch.no_grad():
            samples(network, Euler(steps=2), shape, range(1), 0)
    except (TypeError, ValueError, RuntimeError, NotImplementedError) as error:
        raise config.ConfigError(f"{found.address} draws no images by itself ({error}): name another model") from error
    packages = ("diffusers",) if b"diffusers_model" in files[DESCRIPTION] else ()
    return Drawing(found.address, files, shape, told, always, packages, least_of(found, store))
