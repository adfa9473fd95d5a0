"""Mixtures: "70 % noisy at 0.59, 20 % masked, 10 % clean", drawn for each example and recorded in its row.

p(y | x0) = Σ_k w_k p_k(y | x0), with k known: a row holds k as "component", the std of its white noise as "sigma", and
under "partk_name" what component k drew (zeros where another one was drawn, so that every row has the same columns).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.keys import Key
from pipeline.physics.corruption import Corruption, Row, column
from pipeline.physics.linear import LinearMap, Shape


@dataclass(frozen=True, eq=False)
class Routed(LinearMap):
    """Two examples or more of which maps[k] takes those at the places groups[k], in that order."""

    maps: tuple[LinearMap, ...]
    groups: tuple[Tensor, ...]

    def __post_init__(self) -> None:
        shapes = {(A.in_shape, A.out_shape) for A in self.maps}
        together = torch.cat(self.groups) if self.groups else torch.zeros(0)
        if len(shapes) != 1 or len(self.maps) != len(self.groups):
            raise ValueError(f"Routed needs a group for each map and maps of one shape, got the shapes {shapes}.")
        if len(together) < 2 or not together.sort().values.equal(torch.arange(len(together))):
            raise ValueError("Routed needs groups that hold every place of a batch of two or more once.")

    @property
    def in_shape(self) -> Shape:
        return self.maps[0].in_shape

    @property
    def out_shape(self) -> Shape:
        return self.maps[0].out_shape

    @property
    def rows(self) -> int:
        return sum(map(len, self.groups))

    @property
    def orthonormal(self) -> bool:
        return all(A.orthonormal for A in self.maps)

    def _gather(self, parts: list[Tensor]) -> Tensor:
        back = torch.cat(self.groups).argsort()
        return torch.cat(parts)[back.to(parts[0].device)]

    def __call__(self, x: Tensor) -> Tensor:
        self.check(x, self.in_shape)
        return self._gather([A(x[g.to(x.device)]) for A, g in zip(self.maps, self.groups, strict=True)])

    def adjoint(self, y: Tensor) -> Tensor:
        self.check(y, self.out_shape)
        return self._gather([A.adjoint(y[g.to(y.device)]) for A, g in zip(self.maps, self.groups, strict=True)])

    def pinv(self, y: Tensor) -> Tensor:
        """A⁺ of each example by the map that is its own."""
        self.check(y, self.out_shape)
        return self._gather([A.pinv(y[g.to(y.device)]) for A, g in zip(self.maps, self.groups, strict=True)])


@dataclass(frozen=True)
class Mixture(Corruption):
    """`parts` are (weight, corruption), weights above 0 that sum to 1; every part must give one and the same shape."""

    parts: tuple[tuple[float, Corruption], ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        weights = [weight for weight, _ in self.parts]
        if not all(math.isfinite(w) and w > 0 for w in weights) or abs(sum(weights) - 1) > 1e-6:
            raise ValueError(f"Mixture needs weights above 0 that sum to 1, got {weights} with sum {sum(weights):.6g}.")
        if self.noise != 0:
            raise ValueError(f"Mixture.noise must stay 0, got {self.noise}: give each of its parts its own noise.")

    @property
    def noiseless(self) -> bool:
        return all(part.noiseless for _, part in self.parts)

    def hides(self, shape: Shape) -> bool:
        return any(part.hides(shape) for _, part in self.parts)

    def out_shape(self, shape: Shape) -> Shape:
        shapes = [part.out_shape(shape) for _, part in self.parts]
        if len(set(shapes)) != 1:
            raise ValueError(f"Mixture needs parts that all give one shape, but of images {shape} they give {shapes}.")
        return shapes[0]

    def draw(self, shape: Shape, key: Key) -> Row:
        self.out_shape(shape)
        ends = np.cumsum([weight for weight, _ in self.parts])
        k = int(np.searchsorted(ends[:-1], key.fold("component").numpy().random(), side="right"))
        drawn = [part.draw(shape, key.fold("part", i)) for i, (_, part) in enumerate(self.parts)]
        sigma = drawn[k].get("sigma", self.parts[k][1].noise)
        row: Row = {"component": np.array([k], np.int32), "sigma": np.float32(sigma)}
        for i, part in enumerate(drawn):
            row |= {f"part{i}_{name}": value if i == k else np.zeros_like(value)[()] for name, value in part.items()}
        return row

    def at(self, rows: Mapping[str, np.ndarray], shape: Shape) -> LinearMap:
        self.out_shape(shape)
        groups = self.groups(rows)
        maps = tuple(self.parts[k][1].at(self.rows_of(k, rows, g), shape) for k, g in groups.items())
        return maps[0] if len(maps) == 1 else Routed(maps, tuple(torch.from_numpy(g) for g in groups.values()))

    def groups(self, rows: Mapping[str, np.ndarray]) -> dict[int, np.ndarray]:
        """The places of the rows that each component was drawn for. Raises ValueError for a component not known."""
        which = column(rows, "component", width=1)[:, 0]
        if which.min() < 0 or which.max() >= len(self.parts):
            raise ValueError(f"The rows' 'component' should be from 0 to {len(self.parts) - 1}, got {which.max()}.")
        return {int(k): np.flatnonzero(which == k) for k in np.unique(which)}

    def rows_of(self, k: int, rows: Mapping[str, np.ndarray], places: np.ndarray) -> dict[str, np.ndarray]:
        """The rows at these places as component k itself would have drawn them."""
        start = f"part{k}_"
        return {name[len(start) :]: np.asarray(v)[places] for name, v in rows.items() if name.startswith(start)}

    def simulate(self, x0: Tensor, rows: Mapping[str, np.ndarray], key: Key) -> Tensor:
        ((k, places),) = self.groups(rows).items()
        return self.parts[k][1].simulate(x0, self.rows_of(k, rows, places), key)

    def variance(self, y: Tensor, rows: Mapping[str, np.ndarray]) -> Tensor:
        out = torch.empty_like(y)
        for k, places in self.groups(rows).items():
            out[places] = self.parts[k][1].variance(y[places], self.rows_of(k, rows, places))
        return out
