"""Bicubic downsampling by a whole factor, antialiased as Pillow and Matlab do it, in closed form.

Pixel i of the small image lies at c = (i + 1/2) s of the large one and is the mean of the pixels j around it with the
weights k((j + 1/2 - c) / s), k being Keys' cubic with a = -1/2 (Keys, "Cubic convolution interpolation for digital
image processing", IEEE Trans. ASSP 29, 1981, eq. 15), stretched by s so that it also filters. Along one axis this is a
matrix D = U diag(d) Vᵀ, so A = D₁ ⊗ D₂ has the singular values dᵢ dⱼ and A⁺ = D₁⁺ ⊗ D₂⁺.

At the border Pillow leaves out the pixels that are not there and Matlab mirrors the image (its edge pixels twice);
both scale the weights to sum to 1, so brightness stays as it is.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.physics.linear import LinearMap, Shape
from pipeline.physics.views import require_axes


def keys_cubic(t: Tensor) -> Tensor:
    """Keys' kernel with a = -1/2: 1 at 0, 0 at the other whole numbers and beyond 2; k(t + n) sum to 1 over n."""
    t = t.abs()
    near = 1.5 * t**3 - 2.5 * t**2 + 1
    far = -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
    return torch.where(t < 1, near, torch.where(t < 2, far, 0))


# What is cached must serve gradients later, so it is never made as an inference tensor.
@functools.lru_cache(maxsize=64)
@torch.inference_mode(False)
def resampling(length: int, factor: int, mirror: bool) -> Tensor:
    """D (length / factor, length) in float64; its rows sum to 1."""
    ahead = 2 * factor
    places = torch.arange(-ahead, length + ahead)
    centres = (torch.arange(length // factor, dtype=torch.float64) + 0.5) * factor
    weights = keys_cubic((places + 0.5 - centres[:, None]) / factor)
    if mirror:
        folded = places % (2 * length)
        source = torch.where(folded < length, folded, 2 * length - 1 - folded)
        weights = weights.new_zeros(len(weights), length).index_add(1, source, weights)
    else:
        weights = weights[:, ahead:-ahead]
    return weights / weights.sum(1, keepdim=True)


@functools.lru_cache(maxsize=64)
@torch.inference_mode(False)
def restoring(length: int, factor: int, mirror: bool) -> Tensor:
    """D⁺ = V diag(1/d) Uᵀ (length, length / factor) in float64."""
    return torch.linalg.pinv(resampling(length, factor, mirror))


@dataclass(frozen=True)
class Bicubic(LinearMap):
    """Images (..., H, W) to (..., H/factor, W/factor), with Pillow's border or, with `mirror`, Matlab's.

    Noise of std σ in the image is coloured in y, with A Aᵀ ≠ I; `singular_values` states how much.
    """

    shape: Shape
    factor: int
    mirror: bool = False

    def __post_init__(self) -> None:
        require_axes("Bicubic", self.shape, 2, "(..., H, W)")
        H, W = self.shape[-2:]
        if self.factor < 1 or H % self.factor or W % self.factor:
            raise ValueError(f"Bicubic needs a factor that divides the {H} x {W} image, got {self.factor}.")

    @property
    def in_shape(self) -> Shape:
        return self.shape

    @property
    def out_shape(self) -> Shape:
        return (*self.shape[:-2], self.shape[-2] // self.factor, self.shape[-1] // self.factor)

    @property
    def singular_values(self) -> Tensor:
        """Those of A on one channel and frame, dᵢ dⱼ, the largest first: (H W / factor²,) in float64."""
        down, across = (torch.linalg.svdvals(resampling(n, self.factor, self.mirror)) for n in self.shape[-2:])
        return torch.outer(down, across).flatten().sort(descending=True).values

    def _along(self, matrices: tuple[Tensor, Tensor], x: Tensor) -> Tensor:
        down, across = (matrix.to(x) for matrix in matrices)
        return down @ x @ across.mT

    def _matrices(self) -> tuple[Tensor, Tensor]:
        H, W = self.shape[-2:]
        return resampling(H, self.factor, self.mirror), resampling(W, self.factor, self.mirror)

    def __call__(self, x: Tensor) -> Tensor:
        self.check(x, self.in_shape)
        return self._along(self._matrices(), x)

    def adjoint(self, y: Tensor) -> Tensor:
        self.check(y, self.out_shape)
        down, across = self._matrices()
        return self._along((down.mT, across.mT), y)

    def pinv(self, y: Tensor) -> Tensor:
        """D₁⁺ y D₂⁺ᵀ, the smallest of all images that look so."""
        self.check(y, self.out_shape)
        H, W = self.shape[-2:]
        return self._along((restoring(H, self.factor, self.mirror), restoring(W, self.factor, self.mirror)), y)
