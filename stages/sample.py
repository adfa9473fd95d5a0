"""Sample: images from a denoiser; the same for the same seed and number, whatever the batch, workers or device."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from pipeline import config
from pipeline.backbones.condition import Condition, Embedded, Labels
from pipeline.data.manifest import Manifest, name
from pipeline.data.reader import CAPTION, column
from pipeline.data.records import Examples
from pipeline.data.shards import read_shard, write_shard
from pipeline.diffusion.denoiser import Denoiser
from pipeline.diffusion.discrete import Discrete
from pipeline.diffusion.guide import Autoguided, ClassifierFree
from pipeline.diffusion.latents import Autoencoder, in_pieces
from pipeline.diffusion.sample import Heun, Sampler, samples
from pipeline.engine import cluster
from pipeline.engine.pictures import grid, lines
from pipeline.engine.shards import Report, map_shards
from pipeline.graph import Context, Stage, Step
from pipeline.learning.weights import unpack
from pipeline.store import Artifact
from stages.conditioned import condition_of
from stages.corrupt import load
from stages.ending import ending, least_of, trained
from stages.latents import coder_of
from stages.layers import known

DECODED = 32  # latents that become images at a time: those take many times the memory
PIECE = 2048  # images that are drawn, and written, by one worker in one go


@dataclass(frozen=True)
class Sample(Stage):
    """`count` images as rows, and `samples.png` with the first of them.

    They are drawn no further down than the model was trained, where its training says so.

    Args:
        model: the denoiser.
        count: how many images.
        sampler: how they are drawn.
        seed: of their noise, which is keyed by their number.
        batch: how many are drawn at a time.
        guide: a worse denoiser of the same images, to lean away from: autoguidance.
        weight: how far, where 1 is not at all.
        interval: the two noise levels between which the guide is heard (None: at all).
        labels: what the images are to show, in turn: image i has label i modulo their number; none: nothing is told.
        classifier_free: whether the guide is the model itself, told nothing: classifier-free guidance.
        captions: the same of a model of captions.
        embeddings: the same of a model of embeddings.
        like: rows whose labels, captions or embeddings the images are to have, in turn.
        decoder: the autoencoder that makes images of what the model makes, where that is latents.
    """

    version: ClassVar[int] = 2  # 2: shards.npy

    model: Step
    count: int = 64
    sampler: Sampler = Heun()
    seed: int = 0
    batch: int = 256
    guide: Step | None = None
    weight: float = 2.0
    interval: tuple[float, float] | None = None
    labels: tuple[int, ...] = ()
    classifier_free: bool = False
    captions: tuple[str, ...] = ()
    embeddings: tuple[tuple[float, ...], ...] = ()
    like: Step | None = None
    decoder: Step | None = None

    def __post_init__(self) -> None:
        if self.count < 1 or self.batch < 1:
            raise ValueError(f"count is {self.count} and batch {self.batch}: give at least 1")
        if self.labels and min(self.labels) < 0:
            raise ValueError(f"labels is {self.labels}: give numbers of classes, from 0")
        if sum(map(bool, (self.labels, self.captions, self.embeddings, self.like))) > 1:
            raise ValueError("labels, captions, embeddings and like each say what the images show: give one of them")
        if not all(math.isfinite(number) for row in self.embeddings for number in row):
            raise ValueError("embeddings have numbers that are not finite: give others")
        if len({len(row) for row in self.embeddings}) > 1:
            raise ValueError("embeddings have several lengths: give rows of one length")
        if self.classifier_free and (self.guide is not None or not self.tells):
            raise ValueError(
                "a model guides itself by doing without what it is told: give labels, captions or embeddings, and no "
                "other guide"
            )
        if self.guide is None and not self.classifier_free and (self.weight, self.interval) != (2.0, None):
            raise ValueError("weight and interval say how a guide is heard: name a guide, too")
        if self.interval is not None and not 0 <= self.interval[0] < self.interval[1]:
            raise ValueError(f"interval is {self.interval}: give two noise levels from 0, the lower one first")

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one image that a network trained here draws, where nothing decodes it."""
        return tuple(self.model.stage.network.shape)  # pyright: ignore[reportAttributeAccessIssue]

    @property
    def tells(self) -> bool:
        """Whether the model is told anything."""
        return bool(self.labels or self.captions or self.embeddings or self.like)

    def run(self, at: Context) -> None:
        needs = (self.guide, self.like, self.decoder)
        guide, like, decoder = (None if need is None else at.open(need) for need in needs)
        model = at.open(self.model)
        asked = [model] if self.classifier_free or not self.tells else []
        asked += [guide] if guide is not None and not self.tells else []
        for one in asked:
            if what := always_told(trained(one, at.store)):
                raise ValueError(
                    f"{one.address} was told {what} with every image: say what to show and give no guide of its own, "
                    "or train it with fit.unconditional above 0"
                )
        down = ending(self.sampler, least_of(model, at.store))
        bare = replace(self, model=known(self.model), sampler=down)
        first = bare._draw(partial(ready, bare, model, guide, like, decoder), at)
        picture = lines(first.images, first.label) if self.labels else grid(first.images[:64])
        at.out.write("samples.png", picture)
        at.tracker.picture("samples.png", picture)
        card = {"sampler": str(down), "seed": self.seed, "count": self.count}
        if self.labels:
            card |= {"labels": self.labels}
        card |= {"captions": self.captions} if self.captions else {}
        card |= {"classifier_free": self.weight if self.classifier_free else None} if self.tells else {}
        at.out.write("card.json", json.dumps(card))

    def _draw(self, opened: Callable[[], Asked], at: Context) -> Examples:
        """Write the images; the first of them, at least. Many are drawn by all workers, piece by piece."""
        pieces = [range(first, min(first + PIECE, self.count)) for first in range(0, self.count, PIECE)]
        if len(pieces) == 1:  # a pool of actors takes seconds to start
            made = cluster.call(at.scale, drawn, self, opened)
            with at.out.writing(name(0)) as file:
                write_shard(file, made)
            counts = np.array([len(made)])
        else:
            counts = map_shards(partial(_draw, self), pieces, at, load=opened)
            with at.out.open(name(0)) as file:
                made = read_shard(file, name(0))
        Manifest.of(counts, made.shape, "uint8").write(at.out)
        return made


def always_told(model: Artifact) -> str:
    """What a stage like `Train`, if one made the model, told it with every image; "": there were images without."""
    backbone, fit = (model.manifest["config"].get(part) for part in ("backbone", "fit"))
    told = isinstance(backbone, dict) and isinstance(fit, dict) and isinstance(backbone.get("condition"), dict)
    if not told or fit.get("unconditional") != 0:
        return ""
    if "metrics.json" in model.names() and model.json("metrics.json").get("untold"):
        return ""
    condition = config.from_json(Condition, backbone["condition"], "condition")
    return f"its {condition.column.removeprefix('operator.')}"


@dataclass(frozen=True)
class Asked:
    """The denoiser that is asked, what it is told (count, ...), and what comes of that."""

    D: Denoiser
    cond: Tensor | None
    shape: tuple[int, ...]
    condition: Condition | None
    device: str
    decoder: Autoencoder | None = None


def ready(
    stage: Sample, model: Artifact, guide: Artifact | None, like: Artifact | None, decoder: Artifact | None
) -> Asked:
    """Where images are drawn. Raises ValueError: the guide is of other images, or they are told other things."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = unpack(model.read, device)
    D: Denoiser = network
    shape, condition = tuple(network.config.shape), condition_of(network.config)
    cond = _told(stage, condition, None if like is None else load(like))
    if cond is not None:
        cond = cond[torch.arange(stage.count) % len(cond)]
    if stage.classifier_free:
        D = ClassifierFree(network, stage.weight, None, *(stage.interval or ()))
    if guide is not None:
        worse = unpack(guide.read, device)
        if tuple(worse.config.shape) != shape:
            raise ValueError(f"the model makes images {shape}, the guide {tuple(worse.config.shape)}: name another")
        if cond is not None and condition_of(worse.config) != condition:
            raise ValueError(f"the guide is told of {condition_of(worse.config)}, not {condition}: name another")
        D = Autoguided(network, worse, stage.weight, *(stage.interval or ()))
    coder = None if decoder is None else coder_of(decoder)
    if coder is None and isinstance(getattr(network.config, "precond", None), Discrete) and shape[0] not in (1, 3):
        raise ValueError(f"{model.address} makes latents of {shape[0]} channels, no images: give its decoder, too")
    if coder is not None and tuple(coder.config.latent) != shape:
        raise ValueError(f"the model makes rows {shape}, the decoder takes {tuple(coder.config.latent)}: name another")
    return Asked(D, cond, shape, condition, device, coder)


def _draw(stage: Sample, numbers: range, opened: Callable[[], Asked]) -> tuple[Examples, Report]:
    """The images of these numbers."""
    asked = opened()
    cond = None if asked.cond is None else asked.cond[numbers.start : numbers.stop]
    x = samples(asked.D, stage.sampler, asked.shape, numbers, stage.seed, stage.batch, cond, asked.device)
    if asked.decoder is not None:
        x = in_pieces(asked.decoder.decode, x.to(asked.device), min(stage.batch, DECODED))
    ids = [f"sample-{stage.seed}-{i:06d}" for i in numbers]
    labels = cond.numpy() if isinstance(asked.condition, Labels) and cond is not None else None
    captions = [stage.captions[i % len(stage.captions)] for i in numbers] if stage.captions else ()
    return Examples.from_x(ids, x.clamp(-1, 1), labels, uint8=True, caption=captions), {}


def drawn(stage: Sample, opened: Callable[[], Asked]) -> Examples:
    """All the images, by this process."""
    return _draw(stage, range(stage.count), opened)[0]


def _told(stage: Sample, condition: Condition | None, like: Examples | None) -> Tensor | None:
    """What the images are to show, a row for each that was named; None: nothing. Raises ValueError: another thing."""
    knows = f"the labels 0 to {condition.classes - 1}" if isinstance(condition, Labels) else "no labels"
    if like is not None:
        if condition is None:
            raise ValueError("the model is told nothing: leave out whose conditions its images are to have")
        cond = condition.told(column(like, condition.column))
        if bool(condition.untold(cond).all()):
            raise ValueError("the rows that images are to be like tell nothing: name others")
        return cond
    if stage.labels:
        if not isinstance(condition, Labels) or max(stage.labels) >= condition.classes:
            raise ValueError(f"the model is told {knows}, and label {max(stage.labels)} was asked for: leave it out")
        return torch.tensor(stage.labels)
    if stage.captions:
        if condition is None or condition.column != CAPTION:
            raise ValueError(f"the model is told {condition or 'nothing'} and no captions: leave them out")
        cond = condition.told(np.array(stage.captions, object))
        if bool((silent := condition.untold(cond)).any()):
            text = stage.captions[int(silent.nonzero()[0])]
            raise ValueError(f"the caption '{text}' has no word: say what to show, or leave it out")
        return cond
    if stage.embeddings:
        if not isinstance(condition, Embedded):
            raise ValueError(f"the model is told {condition or 'nothing'} and no embeddings: leave them out")
        cond = Embedded.told(condition, np.array(stage.embeddings, np.float32))
        if bool(condition.untold(cond).any()):
            raise ValueError("an embedding of zeros says nothing: say what to show, or leave it out")
        return cond
    return None
