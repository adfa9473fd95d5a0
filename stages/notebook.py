"""For notebooks and scripts: `run` a recipe, `load` a model, `look` at what a corruption does; all show themselves."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline import config, graph
from pipeline.data.digits import Digits
from pipeline.data.records import Examples
from pipeline.diffusion.denoiser import Network
from pipeline.engine.pictures import grid
from pipeline.graph import Given
from pipeline.learning.weights import unpack
from pipeline.physics.corruption import Corruption, corrupt
from pipeline.shown import picture, table
from pipeline.store import Artifact, Store
from stages import corrupt as corrupted
from stages import recipe as recipes
from stages.ending import ending, least_of
from stages.gallery import measured
from stages.networks import of_artifact
from stages.progress import watch
from stages.running import Asked, carry_out, metrics_of
from stages.sample import Sample, drawn, ready
from stages.verbs import model_of

NAMED = ("guide", "like", "decoder")  # fields of `Sample` that are other artifacts

SAYABLE = {field.name for field in dataclasses.fields(Sample)} - {"model", "count", "seed"}


@dataclass(frozen=True)
class Images:
    """Images of a model: `x` (N, C, *) in [-1, 1]."""

    x: Tensor = dataclasses.field(repr=False)

    @property
    def png(self) -> bytes:
        """Side by side, as a PNG."""
        return grid(((self.x.clamp(-1, 1) + 1) * 127.5).round().byte().numpy(), columns=8)

    def _repr_png_(self) -> bytes:
        return self.png


@dataclass(frozen=True)
class Pictures:
    """PNGs with their captions, and numbers."""

    shown: Sequence[tuple[str, bytes]] = dataclasses.field(repr=False)
    numbers: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def _repr_html_(self) -> str:
        numbers = table(["", ""], list(self.numbers.items())) if self.numbers else ""
        return "".join(picture(png, caption) for caption, png in self.shown) + numbers


@dataclass(frozen=True)
class Page:
    """A report."""

    html: str = dataclasses.field(repr=False)

    def _repr_html_(self) -> str:
        return f'<iframe sandbox style="width: 100%; height: 40rem; border: 0" srcdoc="{escape(self.html)}"></iframe>'


@dataclass(frozen=True)
class Model:
    """A finished denoiser: D(x, σ, cond) = E[x₀ | x₀ + σz = x] when called; `sample` draws images.

    Args:
        made: the artifact.
        D: its network, in evaluation mode.
        store: where it is.
    """

    made: Artifact
    D: Network
    store: Store

    def __repr__(self) -> str:
        return f"Model({self.made.address} makes images {self.shape})"

    def __call__(self, x: Tensor, sigma: Tensor | float, cond: Tensor | None = None) -> Tensor:
        """E[x₀ | x] (B, *) of x (B, *) at σ, one for all or (B,). Raises: ValueError: a σ is not above 0."""
        level = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).expand(len(x))
        if not bool((level > 0).all()):
            raise ValueError(f"sigma is {sigma}: give noise levels above 0")
        with torch.no_grad():
            return self.D(x, level, cond)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one image (C, *)."""
        return tuple(self.D.config.shape)

    def sample(self, count: int = 16, seed: int = 0, **how: Any) -> Images:
        """Draw images: the same for the same seed and number, and those that `kintsugi sample` draws.

        Args:
            count: how many.
            seed: of their noise.
            how: fields of `stages.sample.Sample`: sampler=Heun(steps=30), labels=(0, 1), captions=("a red cat",),
                classifier_free=True, weight=2.0; guide, like and decoder are names in the store.

        Raises: ValueError: there is no such option, the model cannot be told that, or another guide is needed.
        """
        for name in how.keys() - SAYABLE:
            known = ", ".join(sorted(SAYABLE))
            raise ValueError(f"samples have no option '{name}'{config.nearest(name, SAYABLE)}: give one of {known}")
        named: dict[str, Any] = {name: Given.find(self.store, how[name]) for name in NAMED if how.get(name)}
        asked = Sample(Given(known=self.made.address), count, seed=seed, **how | named)
        asked = replace(asked, sampler=ending(asked.sampler, least_of(self.made, self.store)))
        opened = (self.store.artifact(named[name].address) if name in named else None for name in NAMED)
        return Images(drawn(asked, functools.partial(ready, asked, self.made, *opened)).x())

    def _repr_html_(self) -> str:
        counts = [[name, str(counted)] for name, counted in of_artifact(self.made)]
        return table(["network", "size"], counts, f"{self.made.address} makes images {self.shape}")


def load(name: str, store: str | Store = "runs") -> Model:
    """The model of a name such as "partial_views/composed", of an address or of the beginning of a fingerprint.

    Raises: ValueError: there is none of that name in the store, or it is no model.
    """
    store = store if isinstance(store, Store) else Store(store)
    made = store.artifact(model_of(store, name).address)
    return Model(made, unpack(made.read, "cuda" if torch.cuda.is_available() else "cpu"), store)


@dataclass(frozen=True)
class Run:
    """A recipe that was run. `run["seed 0/sfbd"]` is the artifact of a step by its label."""

    asked: Asked = dataclasses.field(repr=False)
    counts: Mapping[str, int]

    @property
    def store(self) -> Store:
        """Where everything is."""
        return self.asked.store

    @property
    def metrics(self) -> dict[str, Any]:
        """What the last step measured."""
        return metrics_of(self.store.artifact(self.asked.target.address))

    @property
    def report(self) -> Page:
        """The last step's report. Raises: ValueError: it wrote none."""
        return Page(self.store.artifact(self.asked.target.address).read("report.html").decode())

    def __getitem__(self, label: str) -> Artifact:
        known = {step.label: step.address for step in graph.walk(self.asked.target)}
        if label not in known:
            raise KeyError(f"no step is called '{label}'{config.nearest(label, known)}")
        return self.store.artifact(known[label])

    def load(self, label: str) -> Model:
        """The model that a step made."""
        return load(self[label].address, self.store)

    def images(self, label: str, count: int = 16) -> Images:
        """The first rows of a set that a step made."""
        return Images(corrupted.load(self[label]).x()[:count])

    def _repr_html_(self) -> str:
        said = f"{self.asked.name}: {self.counts['run']} steps run, {self.counts['cached']} were done before"
        return table(["", ""], list(self.metrics.items()), said)


def run(recipe: str, options: Mapping[str, Any] | None = None, store: str | Store = "runs") -> Run:
    """Make everything that a recipe needs and is not made yet: `kintsugi run` from Python.

    Args:
        recipe: its name.
        options: {path: value} as `kintsugi show RECIPE` lists them, {"fit.images": 20_000}.
        store: where results are kept.

    Raises:
        ValueError: an option that there is not, or whose value does not fit; data that cannot be used.
        StepFailed: a step failed.
    """
    asked = plan(recipe, options, store)
    return Run(asked, carry_out(asked, watch()))


def plan(recipe: str, options: Mapping[str, Any] | None = None, store: str | Store = "runs") -> Asked:
    """What `run` would make; `.target` shows its steps."""
    function = recipes.find(recipe)
    chosen = recipes.options_of(function)()
    for path, value in (options or {}).items():
        chosen = config.replace(chosen, path, value)
    target = recipes.build(function, chosen)
    return Asked(recipe, chosen, None, target, store if isinstance(store, Store) else Store(store))


def digits(count: int = 16, first: int = 0) -> Examples:
    """Some of scikit-learn's handwritten digits (1, 8, 8), with their labels."""
    source = Digits()
    rows = [raw for piece in source.cut() for raw in source.read(piece)][first : first + count]
    images = np.stack([np.asarray(raw.image) for raw in rows])[:, None]
    return Examples(tuple(raw.id for raw in rows), images, np.array([raw.label for raw in rows]))


def look(corruption: Corruption, images: Examples | None = None, seed: int = 0) -> Pictures:
    """What a corruption does to images, to digits unless others are given: before, told, hidden, and in numbers."""
    before = digits() if images is None else images
    y, rows = corrupt(corruption, before.x(), before.ids, seed)
    numbers, shown = measured(corruption, before, Examples.from_x(before.ids, y, before.label, before.operator | rows))
    return Pictures(shown, numbers)
