"""Views, composed into one denoiser; what they do not see is left to a residual (residual.py).

A view sees v = A x. Where A Aᵀ = I, A(x₀ + σz) = A x₀ + σz' with z' white, so an ordinary denoiser D_k of the view is
used at the same σ, and D_k lifts to x-space as x + Aᵀ(D_k(Ax) − Ax). Several are combined as combine.py has it, by
precision-weighted least squares as a rule, with each view's error measured on full images that its model was not
trained on. D₀ = μ + c(σ)(x − μ), c = v/(v + σ²), fills what no view sees; v is the variance there. Least squares takes
the errors of a view's pixels to be independent; they are not (a crop is wrong about a whole block at once), so one
scalar a view and noise bin, fitted on the full images, corrects it along each view:
D_base + Σ a_k(σ) A_kᵀ (D_k(A_k x) − A_k D_base).

(Ma, "Bootstrapping Diffusion", arXiv 2505.11825, states the scheme; the combination and its proof are in the project's
documentation of the method.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pipeline.diffusion.bins import Bins
from pipeline.diffusion.blue import Shares
from pipeline.diffusion.combine import Mode, Normal, counting, diagonal_of, resolve, total, visible
from pipeline.diffusion.denoiser import Network, Trained, expand
from pipeline.diffusion.told import Asked, lend
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
    """What the views say of x.

    Their combination (B, C, *), each one's lifted objection to it (B, K·C, *), and the share of all views' precision
    that bears on each entry (B, C, *).
    """

    mean: Tensor
    objections: Tensor
    coverage: Tensor


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

        @property
        def leasts(self) -> tuple[float, ...]:
            """The noise levels at which views fall silent, ascending."""
            return tuple(sorted({view.least for view in self.views} - {0.0}))

        def build(self) -> Base:
            """The module, uncalibrated."""
            return Base(self)

    config: Config
    mean: Tensor
    null: Tensor
    bare: Tensor
    error: Tensor
    stack: Tensor
    scale: Tensor
    leasts: Tensor
    visible: Tensor
    shares: Shares | None

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.maps = [view.map for view in config.views]
        self.mode, self.normal = resolve(config.mode, self.maps), Normal(self.maps)
        self.counts = (counting(self.maps) if self.mode is Mode.BETHE else None) or [1] * len(self.maps)
        self.shares = None
        if self.mode is Mode.BLUE:
            self.shares = Shares(self.maps, [diagonal_of(A) for A in self.maps], config.bins.count)
        self.models = nn.ModuleList(view.model.build() for view in config.views)
        lend(self.models)
        self.register_buffer("mean", torch.zeros(config.shape))
        # The variance of what no view sees that is heard: below each of `leasts`, then above all.
        self.register_buffer("null", torch.ones(len(config.leasts) + 1) if config.leasts else torch.ones(()))
        # The same if one of `groups` were left out, which only a comparison needs, before anything is kept.
        self.register_buffer(
            "bare", self.null.new_full((len(self.groups), *self.null.shape), math.nan), persistent=False
        )
        self.register_buffer("error", torch.ones(len(config.views), config.bins.count))
        self.register_buffer("stack", torch.zeros(len(config.views) + (self.mode is Mode.STACK), config.bins.count))
        self.register_buffer("scale", torch.ones(config.bins.count))
        self.register_buffer("leasts", torch.tensor(config.leasts), persistent=False)
        self.register_buffer("visible", torch.stack([visible(A) for A in self.maps]), persistent=False)

    @property
    def groups(self) -> list[list[int]]:
        """The numbers of views that only come and go together, as they share one told network."""
        found: list[list[int]] = []
        told: list[int] = []
        for k, view in enumerate(self.config.views):
            if isinstance(view.model, Asked.Config) and view.model.told is None:
                told.append(k)
                continue
            found.append([k])
            told = found[-1] if isinstance(view.model, Asked.Config) else told
        return found

    def take(self, trained: Sequence[Network]) -> None:
        """Have the weights of trained models, one a view; views that share a told one are given it each."""
        for mine, model in zip(self.models, trained, strict=True):
            own = mine.told if isinstance(mine, Asked) else mine
            if own is not None:
                own.load_state_dict(model.state_dict())

    def forward(self, x: Tensor, sigma: Tensor, cond: Tensor | None = None) -> Tensor:
        """D_base(x, σ) (B, *)."""
        return self.see(x, sigma, cond).mean

    def see(self, x: Tensor, sigma: Tensor, cond: Tensor | None = None) -> Evidence:
        """D_base and what each view objects to it."""
        shown = self.shown(x, sigma, cond)
        mean = self.combine(x, sigma, shown)
        gains = self.config.bins.read(self.stack, sigma)
        ways = self.directions(mean, x, sigma, shown)
        mean = mean + total(expand(a, x) * way for a, way in zip(gains, ways, strict=True))
        share = self.precision(sigma)
        coverage = torch.einsum("kb,k...->b...", share / share.sum(0).clamp_min(1e-30), self.visible.to(share))
        return Evidence(mean, torch.cat(self.lifts(mean, sigma, shown), 1), coverage.to(mean))

    def shown(self, x: Tensor, sigma: Tensor, cond: Tensor | None = None) -> list[Tensor]:
        """Each view's own estimate D_k(A_k x) (B, *out_k)."""
        return [D(A(x), sigma, cond) for A, D in zip(self.maps, self.models, strict=True)]

    def lifts(self, mean: Tensor, sigma: Tensor, shown: list[Tensor], without: int | None = None) -> list[Tensor]:
        """A_kᵀ (D_k(A_k x) − A_k mean) (B, *), one a view, and 0 where it is not heard."""
        lifts = [A.adjoint(y - A(mean)) for A, y in zip(self.maps, shown, strict=True)]
        return [expand(heard, mean) * lift for heard, lift in zip(self.heard(sigma, without), lifts, strict=True)]

    def directions(
        self, mean: Tensor, x: Tensor, sigma: Tensor, shown: list[Tensor], without: int | None = None
    ) -> list[Tensor]:
        """Along which the combination is corrected: the lifts, and, where nothing else has looked at x, x itself."""
        lifts = self.lifts(mean, sigma, shown, without)
        return [*lifts, x - mean] if self.mode is Mode.STACK else lifts

    def heard(self, sigma: Tensor, without: int | None = None) -> list[Tensor]:
        """Whether each view's model is valid at σ (B,), and it is not of group `without`: 0 or 1, (B,) each."""
        views, left = enumerate(self.config.views), () if without is None else self.groups[without]
        return [torch.zeros_like(sigma) if k in left else (sigma >= view.least).to(sigma) for k, view in views]

    def precision(self, sigma: Tensor, without: int | None = None) -> Tensor:
        """Each view's weight 1/mse_k (K, B) at σ (B,), and 0 where it is not heard."""
        errors = self.config.bins.read(self.error, sigma).clamp_min(1e-12)
        return torch.stack(self.heard(sigma, without)) / errors

    def weights(self, x: Tensor, sigma: Tensor, mode: Mode, without: int | None = None) -> list[Tensor]:
        """Each view's weight in least squares at σ (B,), (B, 1, ..., 1) or, in mode `blue`, (B, *in)."""
        if mode is Mode.BLUE and self.shares is not None:
            weights = self.shares(self.config.bins.read(self.shares.table, sigma), x)
            return [expand(heard, x) * w for heard, w in zip(self.heard(sigma, without), weights, strict=True)]
        weights = self.precision(sigma, without)
        return [expand(w, x) for w in weights / weights.amax(0).clamp_min(1e-30)]

    def fallback(self, x: Tensor, sigma: Tensor, without: int | None = None) -> Tensor:
        """D₀ (B, *): what is known of an image without any view, if group `without` sees nothing."""
        null = self.null if without is None else self.bare[without]
        null = null[torch.bucketize(sigma.contiguous(), self.leasts, right=True)] if null.ndim else null
        return self.mean + expand(null / (null + sigma**2), x) * (x - self.mean)

    def combine(
        self, x: Tensor, sigma: Tensor, shown: list[Tensor], mode: Mode | None = None, without: int | None = None
    ) -> Tensor:
        """The combination (B, *) of the views' own estimates, each (B, *out_k), before it is stacked.

        In another `mode` than the base's own, and `without` one group of the views, to compare.
        """
        mode, fallback = mode or self.mode, self.fallback(x, sigma, without)
        if mode is Mode.STACK:
            return fallback
        if mode not in (Mode.LS, Mode.BLUE):
            lifts = self.lifts(x, sigma, shown, without)
            heard = [expand(heard, x) for heard in self.heard(sigma, without)]
            unseen = fallback - x - self.normal.project(fallback - x, heard)
            return x + unseen + total(c * lift for c, lift in zip(self.counts, lifts, strict=True))
        weights = self.weights(x, sigma, mode, without)
        right = total(w * lift for w, lift in zip(weights, self.lifts(fallback, sigma, shown, without), strict=True))
        return fallback + self.normal.solve(right, weights)
