"""By which method a denoiser hears rows y = A x₀ + σ_y n: a choice that can be written down and made later."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from pipeline.diffusion import inverse
from pipeline.diffusion.denoiser import Denoiser
from pipeline.diffusion.posterior import Posterior
from pipeline.physics.linear import LinearMap


@dataclass(frozen=True)
class Conditioning(ABC):
    """A method and its options; `bound` is the largest absolute value of an image (None: there is none)."""

    bound: float | None = 1.0

    @abstractmethod
    def __call__(self, D: Denoiser, A: LinearMap, y: Tensor, noise: float | Tensor) -> Denoiser:
        """D that has seen y (B, *out); `noise` is σ_y, one number, one a row or one for each number of y."""


@dataclass(frozen=True)
class MomentMatching(Conditioning):
    """`posterior.Posterior`: exact for every Gaussian but for its ridge; iterations + 2 passes backwards a call."""

    iterations: int = 3
    ridge: float = 0.1

    def __call__(self, D: Denoiser, A: LinearMap, y: Tensor, noise: float | Tensor) -> Denoiser:
        return Posterior(D, A, y, noise, self.iterations, self.ridge, self.bound)


@dataclass(frozen=True)
class DPS(Conditioning):
    """`inverse.DPS`: one pass backwards; `step` wants to be tuned."""

    step: float | None = 8.0

    def __call__(self, D: Denoiser, A: LinearMap, y: Tensor, noise: float | Tensor) -> Denoiser:
        return inverse.DPS(D, A, y, noise, self.step, self.bound)


@dataclass(frozen=True)
class PiGDM(Conditioning):
    """`inverse.PiGDM`: one pass backwards."""

    spread: float = 0.5

    def __call__(self, D: Denoiser, A: LinearMap, y: Tensor, noise: float | Tensor) -> Denoiser:
        return inverse.PiGDM(D, A, y, noise, self.spread, self.bound)


@dataclass(frozen=True)
class DDNM(Conditioning):
    """`inverse.DDNM`: no pass backwards; rows without noise only."""

    def __call__(self, D: Denoiser, A: LinearMap, y: Tensor, noise: float | Tensor) -> Denoiser:
        return inverse.DDNM(D, A, y, noise, self.bound)
