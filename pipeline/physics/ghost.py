"""Ghost imaging, the single-pixel camera: y = P x / √N, light patterns P projected one by one into one bucket detector.

A scene is light u = (x + 1) / 2 of N = H W pixels; the bucket counts b = P u, and 2 b - P 1 = P x is linear in x.
Directions in which P sees less than CUTOFF of what it sees best are left out of A, so A⁺ divides by nothing small:
with P Pᵀ / N = U diag(s²) Uᵀ the singular values of A are s or 0, and A⁺ = Aᵀ U diag(1/s²) Uᵀ. Or the patterns are
orthonormalised by Pᵀ / √N = Q R, A = Qᵀ, so A Aᵀ = I: then y = R⁻ᵀ P x / √N, and noise white on y is coloured on b.
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.keys import Key
from pipeline.physics.corruption import Corruption, Row, column
from pipeline.physics.linear import LinearMap, Shape
from pipeline.physics.measurements import Measurements
from pipeline.physics.spectral import CUTOFF
from pipeline.physics.views import require_axes


@dataclass(frozen=True)
class Patterns(ABC):
    """A distribution over light patterns."""

    @abstractmethod
    def __call__(self, count: int, height: int, width: int, key: Key) -> np.ndarray:
        """`count` patterns (count, height, width) in float64."""


@dataclass(frozen=True)
class Rademacher(Patterns):
    """Every pixel +1 or -1, both alike: what two complementary projections of a mirror array differ by."""

    def __call__(self, count: int, height: int, width: int, key: Key) -> np.ndarray:
        words = key.numpy().bit_generator.random_raw(count * height * width)
        return np.where(words >> 63, 1.0, -1.0).reshape(count, height, width)


@dataclass(frozen=True)
class Speckle(Patterns):
    """Laser light behind ground glass: intensity |Σ exp(i (φ + ω·r))|² / K over the K waves that an aperture passes.

    Phases φ are uniform, the aperture passes the waves of at most 1/(2 grain) cycles a pixel, so grains are about
    `grain` pixels wide. The mean of each pattern is 1, E[I²] = 2 - 1/K, and the covariance of two pixels that lie r
    apart is |γ(r)|² - 1/K, with γ(r) the mean of exp(i ω·r) over the waves (Goodman, "Speckle Phenomena", 2007).
    """

    grain: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.grain) and self.grain > 0):
            raise ValueError(f"Speckle.grain must be a finite number of pixels above 0, got {self.grain}.")

    def aperture(self, height: int, width: int) -> np.ndarray:
        """The waves that pass, booleans (height, width) in the order of the FFT."""
        down, across = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)
        return np.hypot(down, across) <= 0.5 / self.grain + 1e-9

    def __call__(self, count: int, height: int, width: int, key: Key) -> np.ndarray:
        passed = self.aperture(height, width)
        phases = key.numpy().random((count, height, width))
        field = np.fft.fft2(passed * np.exp(2j * np.pi * phases))
        return np.abs(field) ** 2 / passed.sum()


def measuring(patterns: np.ndarray, orthonormal: bool) -> Tensor:
    """A (count, N) in float64 of patterns (count, H, W): what P / √N sees well, or Qᵀ.

    Raises ValueError where Qᵀ is asked of patterns that do not see `count` directions well.
    """
    P = torch.from_numpy(patterns).flatten(1) / math.sqrt(patterns[0].size)
    squares, U = torch.linalg.eigh(P @ P.T)
    seen = squares > CUTOFF**2 * squares[-1]
    if not orthonormal:
        return P if seen.all() else U[:, seen] @ (U[:, seen].T @ P)
    if not seen.all():
        raise ValueError(
            f"The {len(P)} patterns see only {int(seen.sum())} directions well and cannot be orthonormalised: "
            "use fewer patterns or a smaller grain."
        )
    # Cholesky's factor of P Pᵀ is Rᵀ, the only one with a positive diagonal; CUTOFF keeps its rounding near 1e-10.
    return torch.linalg.solve_triangular(torch.linalg.cholesky(P @ P.T), P, upper=False)


@dataclass(frozen=True, eq=False)
class Buckets(Measurements):
    """A x = `matrix` x for every channel and frame: matrices (B or 1, count, H W); (..., H, W) to (..., count)."""

    shape: Shape
    matrix: Tensor
    orthonormal: bool = False

    def __post_init__(self) -> None:
        pixels = _pixels("Buckets", self.shape)
        if self.matrix.ndim != 3 or not self.matrix.numel() or self.matrix.shape[2] != pixels:
            raise ValueError(f"Buckets needs a matrix (B, count, {pixels}), got {tuple(self.matrix.shape)}.")

    @property
    def count(self) -> int:
        return self.matrix.shape[1]

    @property
    def rows(self) -> int:
        return len(self.matrix)

    @property
    def gram(self) -> Tensor:
        matrix = self.matrix.double()
        return matrix @ matrix.mT

    def _times(self, matrix: Tensor, x: Tensor) -> Tensor:
        flat = x.reshape(len(x), -1, x.shape[-1])
        return (flat @ matrix.to(x).mT).reshape(*x.shape[:-1], matrix.shape[-2])

    def __call__(self, x: Tensor) -> Tensor:
        self.check(x, self.in_shape)
        return self._times(self.matrix, x.flatten(-2))

    def adjoint(self, y: Tensor) -> Tensor:
        self.check(y, self.out_shape)
        return self._times(self.matrix.mT, y).reshape(len(y), *self.shape)


@dataclass(frozen=True)
class Camera(LinearMap):
    """One camera whose `count` patterns, drawn by `seed`, are the same for every image: a fixed view (..., count)."""

    shape: Shape
    count: int
    patterns: Patterns = Rademacher()
    seed: int = 0
    orthonormal: bool = True

    def __post_init__(self) -> None:
        _require_count("Camera", self.shape, self.count)

    @property
    def in_shape(self) -> Shape:
        return self.shape

    @property
    def out_shape(self) -> Shape:
        return (*self.shape[:-2], self.count)

    @property
    def buckets(self) -> Buckets:
        """The same map with its matrix written down."""
        return _camera(self)

    def __call__(self, x: Tensor) -> Tensor:
        self.check(x, self.in_shape)
        return self.buckets(x)

    def adjoint(self, y: Tensor) -> Tensor:
        self.check(y, self.out_shape)
        return self.buckets.adjoint(y)

    def pinv(self, y: Tensor) -> Tensor:
        self.check(y, self.out_shape)
        return self.buckets.pinv(y)


@functools.lru_cache(maxsize=4)
@torch.inference_mode(False)
def _camera(camera: Camera) -> Buckets:
    H, W = camera.shape[-2:]
    drawn = camera.patterns(camera.count, H, W, Key(camera.seed).fold("camera"))
    return Buckets(camera.shape, measuring(drawn, camera.orthonormal)[None], camera.orthonormal)


@dataclass(frozen=True)
class Ghost(Corruption):
    """Every image behind `count` patterns of its own; a row holds the key of their draw."""

    count: int
    patterns: Patterns = Rademacher()
    orthonormal: bool = True

    def out_shape(self, shape: Shape) -> Shape:
        _require_count("Ghost", shape, self.count)
        return (*shape[:-2], self.count)

    def draw(self, shape: Shape, key: Key) -> Row:
        self.out_shape(shape)
        return {"patterns": np.array([key.integer()], np.int64)}

    def at(self, rows: Mapping[str, np.ndarray], shape: Shape) -> LinearMap:
        self.out_shape(shape)
        H, W = shape[-2:]
        keys = (Key(int(number)).fold("ghost") for number in column(rows, "patterns", width=1)[:, 0])
        drawn = (self.patterns(self.count, H, W, key) for key in keys)
        matrices = torch.stack([measuring(patterns, self.orthonormal) for patterns in drawn])
        return Buckets(shape, matrices, self.orthonormal)


def _pixels(owner: str, shape: Shape) -> int:
    require_axes(owner, shape, 2, "(..., H, W)")
    return shape[-2] * shape[-1]


def _require_count(owner: str, shape: Shape, count: int) -> None:
    pixels = _pixels(owner, shape)
    if not 1 <= count <= pixels:
        raise ValueError(f"{owner}.count must be from 1 to the {pixels} pixels of a channel, got {count}.")
