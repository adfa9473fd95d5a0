"""A corruption is a distribution over linear maps plus measurement noise: y = A x0 + noise · ε.

`draw` puts the randomness of one example's A into a few small arrays that fit in a table row; `at` rebuilds the maps of
a batch of rows. `corrupt` keys both A and ε ~ N(0, I) by (seed, example id), so an example gets the same bytes alone,
in any batch, on any worker and after a restart.

Noise that is not white (`sensors.Measured`), filters without a matrix (`blackbox.BlackBox`) and mixtures override
`simulate` or `measure`, and state the `variance` of what they measure.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from pipeline.keys import Key
from pipeline.physics.linear import Identity, LinearMap, Shape, shows

Row = dict[str, np.ndarray | np.generic]
PROBES = 64  # draws that tell whether anything is hidden


@dataclass(frozen=True)
class Corruption(ABC):
    """What happened to each image of a data set; `noise` is the std of ε's coefficient, in units of [-1, 1] images."""

    noise: float = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.noise) and self.noise >= 0):
            raise ValueError(f"{type(self).__name__}.noise must be a finite number of at least 0, got {self.noise}.")

    @abstractmethod
    def draw(self, shape: Shape, key: Key) -> Row:
        """The randomness of one example's operator on images of `shape`, as small arrays ({} if there is none)."""

    @abstractmethod
    def at(self, rows: Mapping[str, np.ndarray], shape: Shape) -> LinearMap:
        """The operator of a batch of rows, each array stacked on axis 0; ValueError where they do not fit `shape`."""

    def out_shape(self, shape: Shape) -> Shape:
        """The shape of A x0, the same for every draw."""
        return shape

    def in_shape(self, out: Shape) -> Shape:
        """The shape of the x0 of which A x0 has the shape `out`, for a corruption that draws nothing."""
        return out

    def linear(self, v: Tensor) -> Tensor:
        """The measurement in pictures v (B, *out), as a viewer sees it in [-1, 1], likewise."""
        return v

    @property
    def noiseless(self) -> bool:
        """Whether what is measured is A x0 itself."""
        return self.noise == 0

    def hides(self, shape: Shape) -> bool:
        """Whether some of the numbers measured of images of `shape` say nothing of x0, as those behind a mask do.

        Told from the operators of a few draws; a black box has none, and is said to hide nothing.
        """
        for k in range(PROBES):
            row = self.draw(shape, Key(0).fold("hides", k))
            try:
                A = self.at({name: np.asarray(value)[None] for name, value in row.items()}, shape)
            except ValueError:  # a black box
                continue
            if not shows(A).all():
                return True
            if not row:
                break
        return False

    def simulate(self, x0: Tensor, rows: Mapping[str, np.ndarray], key: Key) -> Tensor:
        """What is measured of one image x0 (1, *) through the operator of its row: (1, *out)."""
        return self.measure(self.at(rows, tuple(x0.shape[1:]))(x0), key)

    def measure(self, y: Tensor, key: Key) -> Tensor:
        """What is measured of y = A x0 (1, *out): y + noise · ε."""
        if self.noise == 0:
            return y
        eps = key.numpy().standard_normal(tuple(y.shape), dtype=np.float32)
        return y + self.noise * torch.from_numpy(eps).to(y)

    def variance(self, y: Tensor, rows: Mapping[str, np.ndarray]) -> Tensor:
        """Var[measured | A x0 = y] of each number of y (B, *out), in units of [-1, 1] images squared."""
        return torch.full_like(y, self.noise**2)


@dataclass(frozen=True)
class Noisy(Corruption):
    """Noise and nothing else: y = x0 + noise · ε."""

    def draw(self, shape: Shape, key: Key) -> Row:
        return {}

    def at(self, rows: Mapping[str, np.ndarray], shape: Shape) -> LinearMap:
        return Identity(shape)


@dataclass(frozen=True)
class Clean(Noisy):
    """No corruption: y = x0."""

    def __post_init__(self) -> None:
        if self.noise != 0:
            raise ValueError(f"Clean adds no noise, got noise = {self.noise}: use Noisy for noise alone.")


@dataclass(frozen=True)
class Through(Corruption):
    """One fixed operator for every example, such as a view: y = map(x0) + noise · ε."""

    map: LinearMap

    def draw(self, shape: Shape, key: Key) -> Row:
        return {}

    def at(self, rows: Mapping[str, np.ndarray], shape: Shape) -> LinearMap:
        self.out_shape(shape)
        return self.map

    def out_shape(self, shape: Shape) -> Shape:
        if shape != self.map.in_shape:
            name = type(self.map).__name__
            raise ValueError(f"Through({name}) was made for images of shape {self.map.in_shape}, got {shape}.")
        return self.map.out_shape

    def in_shape(self, out: Shape) -> Shape:
        return self.map.in_shape

    def linear(self, v: Tensor) -> Tensor:
        """v, or where A makes white larger than a picture can hold, as `Pool` does, v times that."""
        white = self.map(torch.ones(1, *self.map.in_shape, dtype=torch.float64))
        most = float(white.max())
        if most <= 1.001 and white.min() >= -1.001:
            return v
        if not torch.allclose(white, torch.full_like(white, most)):
            raise ValueError(
                f"{type(self.map).__name__} shows white as {float(white.min()):.3g} to {most:.3g}, so that pictures of "
                "it cannot be told from its measurements: scale the map to at most 1."
            )
        return v * most


def column(rows: Mapping[str, np.ndarray], name: str, width: int) -> np.ndarray:
    """The array (B, width) that rows hold under `name`. Raises ValueError when it is missing or of another shape."""
    if name not in rows:
        raise ValueError(
            f"The rows need a column {name!r} but hold {sorted(rows)}: pass the rows that this corruption drew."
        )
    array = np.asarray(rows[name])
    if array.ndim != 2 or len(array) == 0 or array.shape[1] != width:
        raise ValueError(f"The rows' {name!r} should have shape (B, {width}) for this image shape, got {array.shape}.")
    return array


def corrupt(corruption: Corruption, x0: Tensor, ids: Sequence[str], seed: int) -> tuple[Tensor, dict[str, np.ndarray]]:
    """Corrupt a batch: y = A x0 + noise · ε and the rows that `corruption.at` turns back into A.

    x0 is (B, *) floating point in [-1, 1], ids are B strings; y is (B, *out) in x0's dtype. A is drawn with the key
    (seed, "corrupt", id), ε with (seed, "noise", id), so examples that share an id share both.

    Raises ValueError when ids and x0 differ in number, are none, or x0 is not floating point; TypeError for other ids.
    """
    if len(ids) != len(x0) or len(ids) == 0:
        raise ValueError(f"corrupt needs one id per example and at least one, got {len(ids)} ids, {len(x0)} examples.")
    if any(not isinstance(name, str) for name in ids):
        raise TypeError(f"corrupt needs ids that are strings (1 and '1' are other keys), got {ids[0]!r}.")
    if not x0.is_floating_point():
        raise ValueError(f"corrupt needs floating-point images in [-1, 1] (u / 127.5 - 1), got {x0.dtype}.")
    shape = tuple(x0.shape[1:])
    out, rows = [], []
    # One by one and copied: matrix products and FFTs may change their last bit with batch size or memory alignment.
    for name, x in zip(ids, x0.split(1), strict=True):
        row = corruption.draw(shape, Key(seed).fold("corrupt", name))
        drawn = {k: np.asarray(v)[None] for k, v in row.items()}
        alone = x.clone(memory_format=torch.contiguous_format)
        out.append(corruption.simulate(alone, drawn, Key(seed).fold("noise", name)))
        rows.append(row)
    return torch.cat(out), {k: np.stack([np.asarray(row[k]) for row in rows]) for k in rows[0]}
