"""Labels: what networks that have classes are told of rows, in training and afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from pipeline.backbones.condition import Embedded, Labels
from pipeline.data.ids import groups, ids_of
from pipeline.data.labels import unfit
from pipeline.data.manifest import Manifest, name
from pipeline.engine.tasks import sweep
from pipeline.graph import Context
from pipeline.keys import Key
from pipeline.store import Artifact


def classes_of(config: object) -> int:
    """How many classes a network is told of, a stage's, a model's or a backbone by itself; 0: it takes no labels."""
    condition = getattr(getattr(config, "backbone", config), "condition", None)
    return condition.classes if isinstance(condition, Labels) else 0


def only_labels(stage: object) -> None:
    """Raises ValueError: the stage's network wants what no row has."""
    if isinstance(getattr(getattr(stage, "backbone", None), "condition", None), Embedded):
        raise ValueError("backbone.condition is Embedded but rows come with labels only: give Labels, or leave it out")


def taught(sets: Sequence[Artifact], classes: int, at: Context) -> None:
    """Raises ValueError: a row of the sets has no label, or none of 0 .. classes − 1; it is named."""
    for data in sets if classes else ():
        shards = Manifest.open(data.file).filled()
        found = sorted(sweep(partial(unfit, data.place.open, classes), groups(shards), at))
        shard, row, label = next((one for one in found if one[0] >= 0), (-1, -1, -1))
        if shard < 0:
            continue
        (ids,) = ids_of(data.place.open, [shard])
        has = "no label" if label < 0 else f"label {label}"
        raise ValueError(
            f"image {ids[row]!r} in {name(shard)} of {data.address} has {has} and the network is told of {classes} "
            f"classes: give every image a label from 0 to {classes - 1}, or the backbone another condition"
        )


def told(labels: np.ndarray | Tensor, unconditional: float, key: Key, offset: int, total: int) -> Tensor:
    """Labels (B,) int64 with −1 in place of the share `unconditional` of them, drawn independently.

    The B rows are rows `offset` to `offset + B` of a global batch of `total`, for which is drawn.
    """
    labels = torch.as_tensor(labels)
    if not unconditional:
        return labels
    dropped = torch.from_numpy(key.numpy().random(total) < unconditional)[offset : offset + len(labels)]
    return labels.masked_fill(dropped, -1)
