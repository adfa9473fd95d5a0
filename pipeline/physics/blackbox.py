"""Black boxes: filters without a matrix, JPEG and gamma, which can be simulated and nothing else.

y = f(x0) + noise · ε with f not linear: there is no adjoint, so `at` refuses. Methods that only need to corrupt images
(a simulator) work with them; methods that project or solve do not.
"""

from __future__ import annotations

import io
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.keys import Key
from pipeline.physics.corruption import Corruption, Row
from pipeline.physics.linear import Identity, LinearMap, Shape


@dataclass(frozen=True)
class Filter(ABC):
    """A function of images that need not be linear."""

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """f(x) of images x (B, C, *, H, W) in [-1, 1], of the same shape and dtype."""

    def map(self, shape: Shape) -> LinearMap:
        """The filter as a linear map, where it is one. Raises ValueError where it is not."""
        raise ValueError(
            f"{type(self).__name__} can only be simulated and has no adjoint: "
            "choose a method that only corrupts images, or a corruption that is a LinearMap."
        )


@dataclass(frozen=True)
class Jpeg(Filter):
    """Written as JPEG of this quality (1 to 95) and read again, each frame by itself; its bytes are Pillow's."""

    quality: int = 75

    def __post_init__(self) -> None:
        if not 1 <= self.quality <= 95:
            raise ValueError(f"Jpeg.quality must be from 1 to 95, got {self.quality}.")

    def __call__(self, x: Tensor) -> Tensor:
        from PIL import Image

        if x.ndim < 4 or x.shape[1] not in (1, 3):
            raise ValueError(f"Jpeg needs images of 1 or 3 channels (B, C, H, W), got {tuple(x.shape)}.")
        if not x.isfinite().all():
            raise ValueError("Jpeg needs finite images, got NaN or infinity.")
        frames = x.movedim(1, -1)
        u = ((frames + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu().numpy()
        out = np.empty_like(u)
        for place in np.ndindex(u.shape[:-3]):
            file = io.BytesIO()
            pixels = u[place]
            Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(
                file, "JPEG", quality=self.quality
            )
            out[place] = np.asarray(Image.open(file)).reshape(pixels.shape)
        return (torch.from_numpy(out).to(x) / 127.5 - 1).movedim(-1, 1).contiguous()


@dataclass(frozen=True)
class Gamma(Filter):
    """Brightness u = (x + 1) / 2 becomes u^gamma; below black it stays black. Gamma 1 is the identity, and linear."""

    gamma: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.gamma) and self.gamma > 0):
            raise ValueError(f"Gamma.gamma must be a finite number above 0, got {self.gamma}.")

    def __call__(self, x: Tensor) -> Tensor:
        return x if self.gamma == 1 else 2 * ((x + 1) / 2).clamp(min=0) ** self.gamma - 1

    def map(self, shape: Shape) -> LinearMap:
        return Identity(shape) if self.gamma == 1 else super().map(shape)


@dataclass(frozen=True)
class BlackBox(Corruption):
    """Every image through one filter: y = filter(x0) + noise · ε."""

    filter: Filter

    def draw(self, shape: Shape, key: Key) -> Row:
        return {}

    def at(self, rows: Mapping[str, np.ndarray], shape: Shape) -> LinearMap:
        return self.filter.map(shape)

    def simulate(self, x0: Tensor, rows: Mapping[str, np.ndarray], key: Key) -> Tensor:
        return self.measure(self.filter(x0), key)
