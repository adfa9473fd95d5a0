"""Views and a residual, composed into one denoiser.

A view sees v = A x. Where A Aᵀ = I, A(x₀ + σz) = A x₀ + σz' with z' white, so an ordinary denoiser D_k of the view is
used at the same σ, and D_k lifts to x-space as x + Aᵀ(D_k(Ax) − Ax). Overlapping views are combined by
precision-weighted least squares,

    D_base = D₀ + (Σ w_k A_kᵀA_k)⁺ Σ w_k A_kᵀ (D_k(A_k x) − A_k D₀),     w_k(σ) = 1 / mse_k(σ),

with mse_k measured on full images that no view model was trained on. A view counted twice changes nothing (its copies
share one weight's worth of say), which a sum of lifted scores would get wrong. D₀ = μ + c(σ)(x − μ), c = v/(v + σ²),
fills what no view sees; v is the variance there. A residual network F, trained on the few full images, corrects it:

    D = D_base + g(σ) c_r(σ) F(x, D_base, σ),     c_r(σ)² = mean (x₀ − D_base)²,     g in [0, 1] measured on held-out.

(Ma, "Bootstrapping Diffusion", arXiv 2505.11825, states the scheme; the combination and its proof are in the project's
documentation of the method.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pipeline.backbones.backbone import Backbone
from pipeline.diffusion.bins import Bins
from pipeline.diffusion.denoiser import expand
from pipeline.diffusion.precond import Preconditioned
from pipeline.physics.linear import LinearMap
from pipeline.physics.solve import conjugate_gradients


@dataclass(frozen=True)
class View:
    """An operator with A Aᵀ = I and the denoiser of what it shows."""

    map: LinearMap
    model: Preconditioned.Config

    def __post_init__(self) -> None:
        if not self.map.orthonormal:
            raise ValueError(f"{type(self.map).__name__} is no view: A Aᵀ must be I, so that noise stays white")
        if tuple(self.map.out_shape) != tuple(self.model.shape):
            raise ValueError(f"the view shows {self.map.out_shape} but its model is for {self.model.shape}")


class Seen(NamedTuple):
    """What the views say of x: their combination (B, *), and how far apart they are, root mean square (B, 1, *)."""

    mean: Tensor
    disagreement: Tensor


class Base(nn.Module):
    """The views' denoisers as one denoiser of the whole image. Calibrate before use (see calibrate.py)."""

    @dataclass(frozen=True)
    class Config:
        """Views of images of `shape` (C, *), and the bins in which they are calibrated."""

        shape: tuple[int, ...]
        views: tuple[View, ...]
        bins: Bins = Bins()

        def __post_init__(self) -> None:
            if not self.views:
                raise ValueError("there are no views: give at least one")
            for view in self.views:
                if tuple(view.map.in_shape) != tuple(self.shape):
                    raise ValueError(f"a view is of images {view.map.in_shape}, not {self.shape}")

        def build(self) -> Base:
            """The module, uncalibrated."""
            return Base(self)

    mean: Tensor
    null: Tensor
    error: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.maps = [view.map for view in config.views]
        self.models = nn.ModuleList(view.model.build() for view in config.views)
        self.register_buffer("mean", torch.zeros(config.shape))
        self.register_buffer("null", torch.ones(()))
        self.register_buffer("error", torch.ones(len(config.views), config.bins.count))

    def forward(self, x: Tensor, sigma: Tensor, cond: Tensor | None = None) -> Tensor:
        """D_base(x, σ) (B, *)."""
        return self.see(x, sigma, cond).mean

    def see(self, x: Tensor, sigma: Tensor, cond: Tensor | None = None) -> Seen:
        """D_base and how far apart the views are."""
        shown = [D(A(x), sigma, cond) for A, D in zip(self.maps, self.models, strict=True)]
        return self.combine(x, sigma, shown)

    def combine(self, x: Tensor, sigma: Tensor, shown: list[Tensor]) -> Seen:
        """The weighted least-squares combination of the views' own estimates D_k(A_k x), each (B, *out_k)."""
        fallback = self.mean + expand(self.null / (self.null + sigma**2), x) * (x - self.mean)
        weights = 1 / self.config.bins.read(self.error, sigma).clamp_min(1e-12)
        weights = [expand(w, x) for w in weights / weights.amax(0)]
        rest = [y - A(fallback) for A, y in zip(self.maps, shown, strict=True)]
        right = sum(w * A.adjoint(r) for A, w, r in zip(self.maps, weights, rest, strict=True))
        mean = fallback + conjugate_gradients(lambda u: self._gram(u, weights), right, tol=1e-5, steps=30)
        apart = sum(w * A.adjoint((y - A(mean)) ** 2) for A, w, y in zip(self.maps, weights, shown, strict=True))
        return Seen(mean, apart.mean(1, keepdim=True).clamp_min(0).sqrt())

    def _gram(self, u: Tensor, weights: list[Tensor]) -> Tensor:
        return sum(w * A.adjoint(A(u)) for A, w in zip(self.maps, weights, strict=True))


class Residual(nn.Module):
    """F: what the views do not see, from x, what they say, and how far they are apart; zero at first."""

    @dataclass(frozen=True)
    class Config:
        """A backbone on images of `shape` (C, *) whose standard deviation is `sigma_data`."""

        shape: tuple[int, ...]
        backbone: Backbone
        sigma_data: float = 0.5

        def build(self) -> Residual:
            """The module; its output is zero if the backbone's is."""
            return Residual(self)

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        channels = config.shape[0]
        self.net = config.backbone.build(tuple(config.shape), 2 * channels + 1, channels)

    def forward(self, x: Tensor, sigma: Tensor, seen: Seen, cond: Tensor | None = None) -> Tensor:
        """F (B, *), in units of c_r."""
        s = self.config.sigma_data
        scaled = x * expand((sigma**2 + s**2).rsqrt(), x)
        return self.net(torch.cat([scaled, seen.mean / s, seen.disagreement / s], 1), sigma.log() / 4, cond)


class Composed(nn.Module):
    """Base plus gated residual: a denoiser like any other."""

    @dataclass(frozen=True)
    class Config:
        """The two parts."""

        base: Base.Config
        residual: Residual.Config

        @property
        def shape(self) -> tuple[int, ...]:
            """The images' shape (C, *)."""
            return self.base.shape

        def build(self) -> Composed:
            """The module, uncalibrated: scale 1, gates open."""
            return Composed(self)

    scale: Tensor
    gate: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.base, self.residual = config.base.build(), config.residual.build()
        self.register_buffer("scale", torch.ones(config.base.bins.count))
        self.register_buffer("gate", torch.ones(config.base.bins.count))

    def forward(self, x: Tensor, sigma: Tensor, cond: Tensor | None = None) -> Tensor:
        """E[x₀ | x] (B, *)."""
        seen = self.base.see(x, sigma, cond)
        bins = self.config.base.bins
        step = bins.read(self.gate * self.scale, sigma)
        return seen.mean + expand(step, x) * self.residual(x, sigma, seen, cond)
