"""Measured: what the rows of a set went through, row by row, and whether together they show all there is to learn."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from pipeline import config
from pipeline.data.coverage import shown
from pipeline.data.damaged import NOISY
from pipeline.data.declared import declared
from pipeline.data.leaks import Damage
from pipeline.data.manifest import Manifest, name
from pipeline.data.records import Examples
from pipeline.data.shards import read_shard
from pipeline.engine.tasks import sweep
from pipeline.graph import Context, Step
from pipeline.physics.corruption import Clean, Corruption
from pipeline.physics.linear import LinearMap
from pipeline.physics.masks import PixelMask
from pipeline.store import Artifact
from stages.corrupt import Corrupt, shape_of
from stages.networks import described
from stages.train import Trains

NAMED = 8  # pixels that a message names


@dataclass(frozen=True)
class Rows:
    """Rows y = A x₀ + σ_y n as they are measured: y (B, *out), the operators A of these rows, σ_y (B,)."""

    y: Tensor
    A: LinearMap
    noise: Tensor


def whole_of(data: Step) -> tuple[int, ...]:
    """The shape of the images x₀ behind the rows of what a step of this project will make."""
    stage = data.stage
    return shape_of(stage.data) if isinstance(stage, Corrupt) else shape_of(data)


def through(data: Artifact, whole: tuple[int, ...], noise: float | None = None) -> Damage:
    """What the rows of a set went through, as images of shape `whole`, from what the set says of itself.

    Args:
        data: the set.
        whole: the shape of the images.
        noise: σ_y, for rows that arrived damaged and do not say.

    Raises ValueError: they do not say and it is not given; or it is given and they say.
    """
    told = Manifest.open(data.file)
    arrived, known = told.more.get("damage", []), declared(told.more, told.shape)
    if noise is not None and (NOISY in told.more or "sigma" in arrived or not arrived):
        raise ValueError(f"the rows of {data.address} say what noise they have: leave out noise = {noise}")
    if known is not None:
        return Damage(known.corruption, known.whole, noise)
    if arrived:
        if "sigma" not in arrived and noise is None:
            raise ValueError(
                f"the rows of {data.address} arrived damaged and nobody says how noisy they are: give noise, the std "
                "in images from -1 to 1, or 0 where there is none"
            )
        return Damage(PixelMask(0.0) if "mask" in arrived else Clean(), whole, noise)
    tree = data.manifest["config"].get("corruption")
    return Damage(Clean() if tree is None else config.from_json(Corruption, tree, "corruption"), whole)


def rows_at(damage: Damage, rows: Examples, at: np.ndarray, device: str | torch.device = "cpu") -> Rows:
    """The rows at these places. Raises ValueError: their corruption has no operator."""
    some = rows.take(at)
    try:
        A = damage.corruption.at(some.operator, damage.shape)
    except ValueError as error:
        name = type(damage.corruption).__name__
        raise ValueError(f"rows that went through {name} cannot be restored by their operator: {error}") from error
    return Rows(some.x().to(device), A, torch.from_numpy(damage.sigmas(some)).to(device))


def require_coverage(data: Artifact, damage: Damage, at: Context) -> None:
    """Raises ValueError: some pixels are seen by no row, so that nothing can be learnt of them; it names them."""
    told = Manifest.open(data.file)
    seen = np.zeros(damage.shape, bool)
    for part in sweep(partial(_shown, data, damage), told.filled().tolist(), at):
        seen |= part
    if seen.all():
        return
    alike = bool((seen == seen[:1]).all())
    places = np.argwhere(~(seen[0] if alike else seen))
    first = ", ".join(str(tuple(place)) for place in islice(places.tolist(), NAMED))
    more = ", ..." if len(places) > NAMED else ""
    what = f"{seen[0].size} pixels" if alike else f"{seen.size} values"
    raise ValueError(
        f"{len(places)} of {what} are seen by none of the {told.rows} rows of {data.address}, at {first}{more}: "
        "nothing can be learnt there, so give rows that show them"
    )


def _shown(data: Artifact, damage: Damage, shard: int) -> np.ndarray:
    rows = read_shard(data.file(name(shard)), name(shard))
    return np.broadcast_to(shown(rows_at(damage, rows, np.arange(len(rows))).A, damage), damage.shape)


def require_shape(model: Artifact, shape: tuple[int, ...]) -> None:
    """Raises ValueError: the model makes images of another shape."""
    makes = tuple(described(model).shape)
    if makes != tuple(shape):
        raise ValueError(f"{model.address} makes images {makes}, and these rows are of {tuple(shape)}: name another")


class FromMeasured(Trains):
    """A stage that learns from one set of rows `data`, each seen through an operator of its own."""

    data: Step

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one image (C, *), whole."""
        return whole_of(self.data)

    @property
    def sets(self) -> list[Step]:
        """What it learns from."""
        return [self.data]
