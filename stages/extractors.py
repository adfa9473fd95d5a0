"""Extractors: feature networks as artifacts, a user's file or a classifier trained here, for `stages/judge.py`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.data.conditioned import read_column
from pipeline.data.ids import groups
from pipeline.data.manifest import Manifest, name
from pipeline.data.reader import LABEL
from pipeline.engine import cluster
from pipeline.engine.tasks import sweep
from pipeline.graph import Context, Scale, Stage, Step, step
from pipeline.metrics import classifier
from pipeline.metrics.classifier import Classifier
from pipeline.metrics.features import DESCRIPTION, Features, described
from pipeline.metrics.files import WEIGHTS, File
from pipeline.metrics.judging import Judging
from pipeline.metrics.programs import MOST
from pipeline.store import Artifact
from stages.adopt import Weights
from stages.train import opened

AT_ONCE = 256
MEMORY = 4.0  # GiB of images held while a classifier is trained; larger sets are streamed


@dataclass(frozen=True)
class AdoptFeatures(Stage):
    """`features.json` and the file itself, after it gave features of two images of `shape`.

    Args:
        weights: the file.
        file: what it expects.
        shape: of the images that it is to judge.
    """

    weights: Weights
    file: File
    shape: tuple[int, ...]

    def run(self, at: Context) -> None:
        path = Path(self.weights.path)
        if Weights.of(path) != self.weights:
            raise ValueError(f"{path} has changed since it was looked at: run again")
        data = path.read_bytes()
        features = replace(self.file, sha256=self.weights.sha256)
        try:
            n = features.open({WEIGHTS: data}.__getitem__)(torch.zeros(2, *self.shape)).shape[1]
        except ValueError as error:
            raise ValueError(f"{path.name}: {error}") from error
        at.out.write(WEIGHTS, data)
        at.out.write(DESCRIPTION, described(features))
        at.out.write("card.json", json.dumps({**features.card, "file": path.name, "dimension": n}))


@dataclass(frozen=True)
class Classify(Stage):
    """`features.json` and the weights of a classifier of `data`; `card.json` has its accuracy on `test`.

    Args:
        data: labelled images, none of which is in `test`.
        test: images that it does not learn from.
        classifier: the network and how it is trained.
    """

    data: Step
    test: Step
    classifier: Classifier = Classifier()

    def run(self, at: Context) -> None:
        data, test = at.open(self.data), at.open(self.test)
        classes = _classes(data, at)
        made, accuracy = cluster.call(at.scale, _classify, self.classifier, classes, data, test)
        features = replace(
            self.classifier,
            shape=tuple(Manifest.open(data.file).shape),
            classes=classes,
            sha256=hashlib.sha256(made).hexdigest(),
        )
        at.out.write(classifier.WEIGHTS, made)
        at.out.write(DESCRIPTION, described(features))
        at.tracker.metrics({"accuracy": accuracy}, at=self.classifier.images)
        at.out.write("card.json", json.dumps({**features.card, "test_accuracy": accuracy, "test": test.address}))


def extractor(judging: Judging, shape: tuple[int, ...], rows: Callable[[], Step], test: Step, scale: Scale) -> Any:
    """(judging without what makes its features, the step that makes them or None).

    `rows` gives labelled images of `shape` that a classifier may learn from.

    Raises ValueError: a file is named that is not there or too large.
    """
    features = judging.features
    if isinstance(features, File):
        path = Path(features.path)
        if not path.is_file():
            raise ValueError(
                f"judging.features.path is {features.path or 'not given'!r}, no file: name a feature network"
            )
        if path.stat().st_size > MOST:
            raise ValueError(f"{path} has {path.stat().st_size} bytes, over {MOST}: give a smaller network")
        stage: Stage = AdoptFeatures(Weights.of(path), replace(features, path="", sha256=""), tuple(shape))
    elif isinstance(features, Classifier):
        stage = Classify(rows(), test, features)
    else:
        return judging, None
    return replace(judging, features=Judging.features), step(stage, "features", scale)


def _classes(data: Artifact, at: Context) -> int:
    """How many classes the labels of a set tell apart. Raises ValueError: an image has none, or all have one."""
    found = list(sweep(partial(_range, data), groups(Manifest.open(data.file).filled()), at))
    low, high = min(least for least, _ in found), max(most for _, most in found)
    if low < 0 or low == high:
        has = "images without a label" if low < 0 else f"no label but {low}"
        raise ValueError(f"{data.address} has {has}: a classifier learns from labels, so choose other judging.features")
    return high + 1


def _range(data: Artifact, shards: tuple[int, ...]) -> tuple[int, int]:
    labels = [read_column(data.file(name(i)), name(i)) for i in shards]
    return min(int(one.min()) for one in labels), max(int(one.max()) for one in labels)


def _classify(spec: Classifier, classes: int, data: Artifact, test: Artifact) -> tuple[bytes, float]:
    """The weights as safetensors, and the share of test images whose class is told rightly."""
    import safetensors.torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows = opened(data, MEMORY, (LABEL,))
    ready = replace(spec, shape=tuple(rows.shape), classes=classes)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for part in rows.batches(spec.batch, spec.seed):
            yield part.x(), torch.from_numpy(part.columns[LABEL])

    network = ready.train(batches(), device)
    held = opened(test, MEMORY, (LABEL,))
    right, count = 0, len(held)
    with torch.no_grad():
        for part in held.spans(0, ((i, min(AT_ONCE, count - i)) for i in range(0, count, AT_ONCE))):
            found = network(part.x().to(device))[1].argmax(1).cpu()
            right += int((found == torch.from_numpy(part.columns[LABEL])).sum())
    tensors = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    return safetensors.torch.save(tensors), right / count


def told(made: Artifact | None, features: Features) -> dict[str, Any]:
    """What must be said of features beside every number."""
    return features.card if made is None else made.json("card.json")
