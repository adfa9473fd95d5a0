"""Commands that take a model: sample, evaluate."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import Positional

from pipeline import config, graph
from pipeline.graph import Given, Scale, Step
from pipeline.store import Store
from stages import networks
from stages import recipe as recipes
from stages.arguments import JsonOption, StoreOption, parse
from stages.verbs import make, model_of

MOST_EMBEDDED = 1 << 20  # bytes of embeddings to show; they are kept in the artifact's description


@dataclass(frozen=True)
class Draw:
    """Draw images from a model and write them as one PNG."""

    model: Annotated[Positional[str], tyro.conf.arg(help="a model's name, address or fingerprint")]
    count: int = 64
    out: Annotated[Path, tyro.conf.arg(help="the picture to write")] = Path("samples.png")
    seed: int = 0
    steps: Annotated[int | None, tyro.conf.arg(help="steps of the sampler, 18 unless it says otherwise")] = None
    sampler: Annotated[
        str | None,
        tyro.conf.arg(
            metavar="YAML", help="such as '{is: pipeline.diffusion.multistep.DPMSolver2M}'; Heun if not given"
        ),
    ] = None
    label: Annotated[str | None, tyro.conf.arg(help="what to show, such as 3, 0,1,2 in turn, or all classes")] = None
    caption: Annotated[
        tuple[str, ...], tyro.conf.arg(help="what to show, of a model of captions; several are shown in turn")
    ] = ()
    embedding: Annotated[
        Path | None, tyro.conf.arg(help="a .npy file (N, E) of what to show, in turn, of a model of embeddings")
    ] = None
    like: Annotated[
        str | None,
        tyro.conf.arg(help="a set of rows in the store, whose labels, captions or embeddings to show in turn"),
    ] = None
    guide: Annotated[
        str | None,
        tyro.conf.arg(help="a worse model of the same images, to lean away from; self: the model told nothing"),
    ] = None
    weight: Annotated[float, tyro.conf.arg(help="how far to lean away from the guide; 1 is not at all")] = 2.0
    interval: Annotated[
        tuple[float, float] | None, tyro.conf.arg(help="the noise levels between which the guide is heard")
    ] = None
    decoder: Annotated[
        str | None, tyro.conf.arg(help="the autoencoder in the store that makes images of a latent model's rows")
    ] = None
    workers: Annotated[int, tyro.conf.arg(help="processes that draw side by side, from 2,048 images on")] = 1
    gpus: Annotated[float, tyro.conf.arg(help="devices of each")] = 0
    store: StoreOption = "runs"
    json: JsonOption = False


def sample(words: list[str]) -> int:
    """`kintsugi sample MODEL`."""
    from pipeline.diffusion.sample import Heun, Sampler
    from stages.sample import Sample

    asked = parse(Draw, words, "kintsugi sample", Draw.__doc__ or "")
    sampler = Heun()
    if asked.sampler is not None:
        sampler = config.from_json(Sampler, recipes.read_yaml(asked.sampler, "--sampler"), "sampler")
    if asked.steps is not None:
        sampler = config.replace(sampler, "steps", asked.steps)
    store = Store(asked.store)
    model, free = model_of(store, asked.model), asked.guide == "self"
    guide = None if asked.guide is None or free else model_of(store, asked.guide)
    heard = {"guide": guide, "weight": asked.weight, "interval": asked.interval, "classifier_free": free}
    heard["labels"] = () if asked.label is None else _labels(asked.label, store, model)
    heard["captions"] = asked.caption
    heard["embeddings"] = () if asked.embedding is None else _embeddings(asked.embedding)
    heard["like"] = None if asked.like is None else _rows(store, asked.like)
    heard["decoder"] = None if asked.decoder is None else model_of(store, asked.decoder)
    scale = Scale(asked.workers, gpus=asked.gpus)
    made = make(store, graph.step(Sample(model, asked.count, sampler, asked.seed, **heard), "sample", scale))
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_bytes(made.read("samples.png"))
    said = {"samples": made.address, "picture": str(asked.out)}
    print(json.dumps(said) if asked.json else f"wrote {asked.out} ({made.address})")
    return 0


@dataclass(frozen=True)
class Measure:
    """Measure a model on a set of rows that it has not seen: denoising error, and how its samples compare with them."""

    model: Annotated[Positional[str], tyro.conf.arg(help="a model's name, address or fingerprint")]
    test: Annotated[str, tyro.conf.arg(help="a set of rows in the store, such as partial_views/data/test")]
    samples: Annotated[int, tyro.conf.arg(help="images to draw and judge; 0: leave it out")] = 256
    features: Annotated[
        str | None,
        tyro.conf.arg(
            metavar="YAML", help="such as '{is: pipeline.metrics.files.File, path: net.pt}'; pixels if not given"
        ),
    ] = None
    seed: int = 0
    store: StoreOption = "runs"
    json: JsonOption = False


def evaluate(words: list[str]) -> int:
    """`kintsugi evaluate MODEL --test SET`."""
    from pipeline.data.manifest import Manifest
    from stages.conditioned import condition_of
    from stages.evaluate import Evaluate
    from stages.extractors import extractor
    from stages.judge import Drawn, Judge
    from stages.judgement_page import between
    from stages.sample import Sample

    asked = parse(Measure, words, "kintsugi evaluate", Measure.__doc__ or "")
    store = Store(asked.store)
    model, test = model_of(store, asked.model), _rows(store, asked.test)
    measured = graph.step(Evaluate(model, test), "evaluate")
    target = measured
    if asked.samples:
        shape = tuple(Manifest.open(store.artifact(test.address).file).shape)
        how, eye = extractor(_judging(asked.features), shape, _no_rows, test, Scale())
        labels = _all(store, model)
        like = test if not labels and condition_of(networks.described(store.artifact(model.address))) else None
        drawn = graph.step(Sample(model, asked.samples, seed=asked.seed, labels=labels, like=like), "samples")
        # The measurement comes first, and both in one go: a cluster takes seconds to start.
        judge = Judge((Drawn("samples", drawn),), test, None, how, eye)
        target = graph.step(judge, "judge", after=(measured,))
    made = make(store, target)
    found = store.artifact(measured.address).json("metrics.json")
    ends, cards = {"denoising_error": (found["denoising_error"], *found["ends"]["denoising_error"])}, found["cards"]
    if asked.samples:
        judged = made.json("judgement.json")
        told = judged["numbers"]["samples"]
        ends |= {name: (one["value"], one["low"], one["high"]) for name, one in told.items()}
        cards = cards | judged["cards"]["samples"]
    if asked.json:
        numbers = {name: value for name, (value, _, _) in ends.items()}
        print(json.dumps({"model": model.address, "test": test.address, "metrics": numbers, "cards": cards}))
        return 0
    for name, one in ends.items():
        print(f"{name:<20} {between(*one)}")
    return 0


def _judging(features: str | None) -> Any:
    from pipeline.metrics.features import Features
    from pipeline.metrics.judging import Judging

    if features is None:
        return Judging()
    return Judging(config.from_json(Features, recipes.read_yaml(features, "--features"), "features"))


def _no_rows() -> Step:
    raise config.ConfigError("a classifier learns from a recipe's rows: judge with it there, by --set judging.features")


def _all(store: Store, model: Given) -> tuple[int, ...]:
    """Every label that a model is told of."""
    from stages.conditioned import classes_of

    return tuple(range(classes_of(networks.described(store.artifact(model.address)))))


def _rows(store: Store, name: str) -> Given:
    """Raises: ConfigError: this is no set of rows."""
    found = Given.find(store, name)
    if "dataset.json" not in store.artifact(found.address).names():
        raise config.ConfigError(f"{name} is {found.address}, no set of images: name one, such as a recipe's data/test")
    return found


def _embeddings(path: Path) -> tuple[tuple[float, ...], ...]:
    """Raises: ConfigError: there is no array (N, E) or (E,) of a few numbers."""
    import numpy as np

    try:
        if path.stat().st_size > MOST_EMBEDDED:
            raise ValueError(f"it has more than {MOST_EMBEDDED >> 20} MiB")
        found = np.load(path, allow_pickle=False)
        if (
            not isinstance(found, np.ndarray)
            or found.dtype.kind not in "fiu"
            or found.ndim not in (1, 2)
            or not found.size
        ):
            raise ValueError("it is no array (N, E) of numbers")
    except (OSError, ValueError, EOFError) as error:
        raise config.ConfigError(f"--embedding {path} cannot be read: {error}") from error
    return tuple(tuple(map(float, row)) for row in np.atleast_2d(found.astype(np.float32)))


def _labels(text: str, store: Store, model: Given) -> tuple[int, ...]:
    """Raises: ConfigError: these are no numbers of classes, or the model has none."""
    if text == "all":
        if not (every := _all(store, model)):
            raise config.ConfigError(f"{model.label} is told no labels: leave out --label")
        return every
    words = text.split(",")
    if not all(word.strip().isdecimal() for word in words):
        raise config.ConfigError(f"--label {text} names no classes: give their numbers from 0, such as 3 or 0,1,2")
    return tuple(map(int, words))
