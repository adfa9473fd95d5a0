"""What networks are told of rows, in training and afterwards: their labels, captions or embeddings."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from pipeline.backbones.condition import Condition, Embedded, Labels
from pipeline.data.conditioned import look
from pipeline.data.ids import groups, ids_of
from pipeline.data.manifest import Manifest, name
from pipeline.data.reader import column
from pipeline.data.records import Examples
from pipeline.engine.tasks import sweep
from pipeline.graph import Context
from pipeline.keys import Key
from pipeline.store import Artifact

log = logging.getLogger("kintsugi")
FAR = 3.0  # from 1 is a root mean square that a network does not hear well


def condition_of(config: object) -> Condition | None:
    """What a network is told, a stage's, a model's or a backbone by itself; None: nothing."""
    condition = getattr(getattr(config, "backbone", config), "condition", None)
    return condition if isinstance(condition, Condition) else None


def classes_of(config: object) -> int:
    """How many classes a network is told of; 0: it takes no labels."""
    condition = condition_of(config)
    return condition.classes if isinstance(condition, Labels) else 0


def columns_of(config: object) -> tuple[str, ...]:
    """The rows' columns that a network is told of."""
    condition = condition_of(config)
    return () if condition is None else (condition.column,)


def taught(sets: Sequence[Artifact], config: object, at: Context) -> dict[str, int]:
    """{"untold": how many rows of the sets tell a network nothing}, {} if all do; from those it learns to do without.

    Raises ValueError: none of them tells it anything, or one has a label beyond its classes, which is named.
    """
    condition, rows, silent, squares = condition_of(config), 0, 0, 0.0
    if condition is None:
        return {}
    for data in sets:
        shards = Manifest.open(data.file).filled()
        for found in sweep(partial(look, data.place.open, condition), groups(shards), at):
            if found.wrong is not None:
                _refuse(data, found.wrong, classes_of(config))
            rows, silent, squares = rows + found.rows, silent + found.silent, squares + found.squares
    what = condition.column.removeprefix("operator.")
    if silent == rows:
        raise ValueError(f"no row has a {what}, of which the network is told: give some, or leave out its condition")
    if silent:
        log.warning(
            "%d of %d images have no %s: from them the network learns to do without, as from those of "
            "fit.unconditional",
            *(silent, rows, what),
        )
    if isinstance(condition, Embedded):
        size = condition.scale * math.sqrt(squares / ((rows - silent) * condition.size))
        if not 1 / FAR < size < FAR:
            log.warning(
                "the embeddings' root mean square is %.3g, and a network hears little or too much of them: "
                "condition.scale %.3g would make it 1",
                *(size, condition.scale / size),
            )
    return {"untold": silent} if silent else {}


def _refuse(data: Artifact, wrong: tuple[int, int, int], classes: int) -> None:
    shard, row, label = wrong
    (ids,) = ids_of(data.place.open, [shard])
    raise ValueError(
        f"image {ids[row]!r} in {name(shard)} of {data.address} has label {label} and the network is told of {classes} "
        f"classes: give images labels from 0 to {classes - 1}, or none, or the backbone another condition"
    )


def told(condition: Condition, values: np.ndarray, unconditional: float, key: Key, offset: int, total: int) -> Tensor:
    """What a network is told of rows whose column has `values` (B, *), but nothing of the share `unconditional`.

    The B rows are rows `offset` to `offset + B` of a global batch of `total`, for which is drawn who is told nothing.
    """
    cond = condition.told(values)
    if not unconditional:
        return cond
    dropped = torch.from_numpy(key.numpy().random(total) < unconditional)[offset : offset + len(cond)]
    return condition.without(cond, dropped)


def cond_of(config: object, rows: Examples) -> Tensor | None:
    """What a model is told of rows (B, ...); None: it takes no condition.

    Raises ValueError: they have no such column, labels beyond its classes, or embeddings of another size.
    """
    condition = condition_of(config)
    if condition is None:
        return None
    values = column(rows, condition.column)
    if isinstance(condition, Labels) and (values >= condition.classes).any():
        raise ValueError(
            f"the model is told of {condition.classes} classes: give images with labels from 0 to "
            f"{condition.classes - 1}, or none"
        )
    return condition.told(values)
