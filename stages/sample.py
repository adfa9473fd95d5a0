"""Sample: images from a denoiser; the same image for the same seed and number, whatever the batch or device."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import ClassVar

import torch

from pipeline.data.manifest import Manifest, name
from pipeline.data.records import Examples
from pipeline.data.shards import write_shard
from pipeline.diffusion.denoiser import Denoiser
from pipeline.diffusion.guide import Autoguided, ClassifierFree
from pipeline.diffusion.sample import Heun, Sampler, samples
from pipeline.engine import cluster
from pipeline.engine.pictures import grid, lines
from pipeline.graph import Context, Stage, Step
from pipeline.learning.weights import unpack
from pipeline.store import Artifact
from stages.labels import classes_of


@dataclass(frozen=True)
class Sample(Stage):
    """`count` images as rows, and `samples.png` with the first of them.

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
        classifier_free: whether the guide is the model itself, told no label: classifier-free guidance.
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

    def __post_init__(self) -> None:
        if self.count < 1 or self.batch < 1:
            raise ValueError(f"count is {self.count} and batch {self.batch}: give at least 1")
        if self.labels and min(self.labels) < 0:
            raise ValueError(f"labels is {self.labels}: give numbers of classes, from 0")
        if self.classifier_free and (self.guide is not None or not self.labels):
            raise ValueError("a model guides itself by doing without the label: give labels, and no other guide")
        if self.guide is None and not self.classifier_free and (self.weight, self.interval) != (2.0, None):
            raise ValueError("weight and interval say how a guide is heard: name a guide, too")
        if self.interval is not None and not 0 <= self.interval[0] < self.interval[1]:
            raise ValueError(f"interval is {self.interval}: give two noise levels from 0, the lower one first")

    def run(self, at: Context) -> None:
        guide = None if self.guide is None else at.open(self.guide)
        model = at.open(self.model)
        if (self.classifier_free or not self.labels) and _always_told(model):
            raise ValueError(
                f"{model.address} was told a label with every image: give labels and no guide of its own, or train it "
                "with fit.unconditional above 0"
            )
        made = cluster.call(at.scale, _sample, self, model, guide)
        picture = lines(made.images, made.label) if self.labels else grid(made.images[:64])
        at.out.write("samples.png", picture)
        at.tracker.picture("samples.png", picture)
        with at.out.writing(name(0)) as file:
            write_shard(file, made)
        Manifest.of([len(made)], made.shape, "uint8").write(at.out)
        card = {"sampler": str(self.sampler), "seed": self.seed, "count": self.count}
        if self.labels:
            card |= {"labels": self.labels, "classifier_free": self.weight if self.classifier_free else None}
        at.out.write("card.json", json.dumps(card))


def _always_told(model: Artifact) -> bool:
    """Whether a stage like `Train` made the model and it was never without a label."""
    backbone, fit = (model.manifest["config"].get(part) for part in ("backbone", "fit"))
    told = isinstance(backbone, dict) and isinstance(fit, dict) and isinstance(backbone.get("condition"), dict)
    return told and "classes" in backbone["condition"] and fit.get("unconditional") == 0


def _sample(stage: Sample, model: Artifact, guide: Artifact | None) -> Examples:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = unpack(model.read, device)
    D: Denoiser = network
    shape, classes = tuple(network.config.shape), classes_of(network.config)
    cond = None
    if stage.labels:
        if max(stage.labels) >= classes:
            knows = f"the labels 0 to {classes - 1}" if classes else "no labels"
            raise ValueError(f"the model is told {knows}, and label {max(stage.labels)} was asked for: leave it out")
        cond = torch.tensor([stage.labels[i % len(stage.labels)] for i in range(stage.count)])
    if stage.classifier_free:
        D = ClassifierFree(network, stage.weight, None, *(stage.interval or ()))
    if guide is not None:
        worse = unpack(guide.read, device)
        if tuple(worse.config.shape) != shape:
            raise ValueError(f"the model makes images {shape}, the guide {tuple(worse.config.shape)}: name another")
        if stage.labels and classes_of(worse.config) != classes:
            raise ValueError(f"the guide is told of {classes_of(worse.config)} classes, not {classes}: name another")
        D = Autoguided(network, worse, stage.weight, *(stage.interval or ()))
    x = samples(D, stage.sampler, shape, range(stage.count), stage.seed, stage.batch, cond, device)
    ids = [f"sample-{stage.seed}-{i:06d}" for i in range(stage.count)]
    return Examples.from_x(ids, x.clamp(-1, 1), None if cond is None else cond.numpy(), uint8=True)
