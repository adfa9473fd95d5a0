"""Views and a residual, composed into one denoiser.

A view sees v = A x. Where A Aᵀ = I, A(x₀ + σz) = A x₀ + σz' with z' white, so an ordinary denoiser D_k of the view is
used at the same σ, and D_k lifts to x-space as x + Aᵀ(D_k(Ax) − Ax). Several are combined as combine.py has it, by
precision-weighted least squares as a rule, with each view's error measured on full images that its model was not
trained on. D₀ = μ + c(σ)(x − μ), c = v/(v + σ²), fills what no view sees; v is the variance there. Least squares takes
the errors of a view's pixels to be independent; they are not (a crop is wrong about a whole block at once), so one
scalar a view and noise bin, fitted on the full images, corrects it along each view:
D_base + Σ a_k(σ) A_kᵀ (D_k(A_k x) − A_k D_base).

A residual network F, trained on the few full images, corrects what is left:

    D = D_base + g(σ) c_r(σ) F(x, D_base, σ),     c_r(σ)² = mean (x₀ − D_base)²,     g in [0, 1],

g, mse_k and a_k measured on full images that trained neither F nor any view.

(Ma, "Bootstrapping Diffusion", arXiv 2505.11825, states the scheme; the combination and its proof are in the project's
documentation of the method.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pipeline.backbones.backbone import Backbone
from pipeline.diffusion.bins import Bins
from pipeline.diffusion.combine import Mode, Normal, counting, resolve, total
from pipeline.diffusion.denoiser import Network, Trained, expand
from pipeline.physics.linear import LinearMap


@dataclass(frozen=True)
class View:
    """An operator with A Aᵀ = I and the denoiser of what it shows, which knows nothing below σ = `least`.

    A model that learned from rows of noise `least` is no judge of a cleaner image.
    """

    map: LinearMap
    model: Trained
    least: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.least < math.inf:
            raise ValueError(f"least is {self.least}: give the σ from which on the view's model is valid, from 0")
        if not self.map.orthonormal:
            raise ValueError(f"{type(self.map).__name__} is no view: A Aᵀ must be I, so that noise stays white")
        if tuple(self.map.out_shape) != tuple(self.model.shape):
            raise ValueError(f"the view shows {self.map.out_shape} but its model is for {self.model.shape}")


class Evidence(NamedTuple):
    """What the views say of x: their combination (B, C, *), and each one's lifted objection to it (B, K·C, *)."""

    mean: Tensor
    objections: Tensor


class Base(Network):
    """The views' denoisers as one denoiser of the whole image. Calibrate before use (see calibrate.py)."""

    @dataclass(frozen=True)
    class Config(Trained):
        """Views of images of `shape` (C, *), the bins in which they are calibrated, and how they are combined."""

        shape: tuple[int, ...]
        views: tuple[View, ...]
        bins: Bins = Bins()
        mode: Mode = Mode.AUTO

        def __post_init__(self) -> None:
            if not self.views:
                raise ValueError("there are no views: give at least one")
            for view in self.views:
                if tuple(view.map.in_shape) != tuple(self.shape):
                    raise ValueError(f"a view is of images {view.map.in_shape}, not {self.shape}")

        def build(self) -> Base:
            """The module, uncalibrated."""
            return Base(self)

    config: Config
    mean: Tensor
    null: Tensor
    error: Tensor
    stack: Tensor
    scale: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.maps = [view.map for view in config.views]
        self.mode, self.normal = resolve(config.mode, self.maps), Normal(self.maps)
        self.counts = (counting(self.maps) if self.mode is Mode.BETHE else None) or [1] * len(self.maps)
        self.models = nn.ModuleList(view.model.build() for view in config.views)
        self.register_buffer("mean", torch.zeros(config.shape))
        self.register_buffer("null", torch.ones(()))
        self.register_buffer("error", torch.ones(len(config.views), config.bins.count))
        self.register_buffer("stack", torch.zeros(len(config.views), config.bins.count))
        self.register_buffer("scale", torch.ones(config.bins.count))

    def forward(self, x: Tensor, sigma: Tensor, cond: Tensor | None = None) -> Tensor:
        """D_base(x, σ) (B, *)."""
        return self.see(x, sigma, cond).mean

    def see(self, x: Tensor, sigma: Tensor, cond: Tensor | None = None) -> Evidence:
        """D_base and what each view objects to it."""
        shown = self.shown(x, sigma, cond)
        mean = self.combine(x, sigma, shown)
        gains = self.config.bins.read(self.stack, sigma)
        mean = mean + total(expand(a, x) * lift for a, lift in zip(gains, self.lifts(mean, sigma, shown), strict=True))
        return Evidence(mean, torch.cat(self.lifts(mean, sigma, shown), 1))

    def shown(self, x: Tensor, sigma: Tensor, cond: Tensor | None = None) -> list[Tensor]:
        """Each view's own estimate D_k(A_k x) (B, *out_k)."""
        return [D(A(x), sigma, cond) for A, D in zip(self.maps, self.models, strict=True)]

    def lifts(self, mean: Tensor, sigma: Tensor, shown: list[Tensor]) -> list[Tensor]:
        """A_kᵀ (D_k(A_k x) − A_k mean) (B, *), one a view, and 0 where its model is not valid."""
        lifts = [A.adjoint(y - A(mean)) for A, y in zip(self.maps, shown, strict=True)]
        return [expand(valid, mean) * lift for valid, lift in zip(self.valid(sigma), lifts, strict=True)]

    def valid(self, sigma: Tensor) -> list[Tensor]:
        """Whether each view's model knows anything at σ (B,): 0 or 1, (B,) each."""
        return [(sigma >= view.least).to(sigma) for view in self.config.views]

    def combine(self, x: Tensor, sigma: Tensor, shown: list[Tensor]) -> Tensor:
        """The combination (B, *) of the views' own estimates, each (B, *out_k), before it is stacked."""
        fallback = self.mean + expand(self.null / (self.null + sigma**2), x) * (x - self.mean)
        if self.mode is Mode.STACK:
            return fallback
        if self.mode is not Mode.LS:
            lifts = self.lifts(x, sigma, shown)
            seen = self.normal.project(fallback - x, [expand(valid, x) for valid in self.valid(sigma)])
            unseen = fallback - x - seen
            return x + unseen + total(c * lift for c, lift in zip(self.counts, lifts, strict=True))
        weights = 1 / self.config.bins.read(self.error, sigma).clamp_min(1e-12) * torch.stack(self.valid(sigma))
        weights = [expand(w, x) for w in weights / weights.amax(0).clamp_min(1e-30)]
        right = total(w * lift for w, lift in zip(weights, self.lifts(fallback, sigma, shown), strict=True))
        return fallback + self.normal.solve(right, weights)


class Residual(nn.Module):
    """F: what the views do not see, from x, what they say, and what each objects to it; zero at first."""

    @dataclass(frozen=True)
    class Config:
        """A backbone on images of `shape` (C, *), seen by `views` views, of standard deviation `sigma_data`."""

        shape: tuple[int, ...]
        views: int
        backbone: Backbone
        sigma_data: float = 0.5

        @property
        def channels(self) -> tuple[int, int]:
            """Of the network's input, which has what each view objects, and output."""
            return (2 + self.views) * self.shape[0], self.shape[0]

        def build(self) -> Residual:
            """The module; its output is zero if the backbone's is."""
            return Residual(self)

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.net = config.backbone.build(tuple(config.shape), *config.channels)

    def forward(self, x: Tensor, sigma: Tensor, seen: Evidence, unit: Tensor, cond: Tensor | None = None) -> Tensor:
        """F (B, *) in units of c_r = `unit` (B,), from features of at most about unit variance."""
        s, unit = self.config.sigma_data, expand(unit, x)
        scaled = (x - seen.mean) * expand((sigma**2 + s**2).rsqrt(), x)
        return self.net(torch.cat([scaled, seen.mean / s, seen.objections / unit], 1), sigma.log() / 4, cond)


class Composed(Network):
    """Base plus gated residual: a denoiser like any other."""

    @dataclass(frozen=True)
    class Config(Trained):
        """The two parts, for images of `shape` (C, *)."""

        shape: tuple[int, ...]
        base: Base.Config
        residual: Residual.Config

        def build(self) -> Composed:
            """The module, uncalibrated: gates open."""
            return Composed(self)

    config: Config
    gate: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.base, self.residual = config.base.build(), config.residual.build()
        self.register_buffer("gate", torch.ones(config.base.bins.count))

    def forward(self, x: Tensor, sigma: Tensor, cond: Tensor | None = None) -> Tensor:
        """E[x₀ | x] (B, *)."""
        seen, bins = self.base.see(x, sigma, cond), self.config.base.bins
        unit, gate = bins.read(self.base.scale, sigma), bins.read(self.gate, sigma)
        return seen.mean + expand(gate * unit, x) * self.residual(x, sigma, seen, unit, cond)
