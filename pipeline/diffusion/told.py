"""One network of many views of one kind, told of each row which one it is: by its mask, or by its window's place.

A row v = A x₀ comes with its own A, drawn for it. Beside the row the network sees A p, the mask or the window's
coordinates (telling.py):

    D(v, σ; A) = A μ + c_skip (v − A μ) + c_out F(c_in (v − A μ), A p, c_noise).

Judged on what the rows show, its minimum is E[A x₀ | v] for each A that rows have, which is all that a lift by this A
needs. For an A that no row has it is a guess. (A network told its mask: Ambient Diffusion, Daras et al., arXiv
2305.19256; coordinates of patches: Patch Diffusion, Wang et al. 2023.)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.backbones.backbone import Backbone
from pipeline.diffusion.denoiser import Network, Trained, expand
from pipeline.diffusion.precond import EDM
from pipeline.diffusion.telling import Telling
from pipeline.physics.linear import LinearMap, Shape


class Told(Network):
    """D(v, σ; code): E[A x₀ | v] of rows v as their `Telling` has them."""

    @dataclass(frozen=True)
    class Config(Trained):
        """How it is told, and the network; `precond` is for the spread of what rows show about their mean."""

        telling: Telling
        backbone: Backbone
        precond: EDM = EDM()

        @property
        def shape(self) -> Shape:  # pyright: ignore[reportIncompatibleVariableOverride]
            """Of one row."""
            return self.telling.rows

        @property
        def channels(self) -> tuple[int, int]:
            """Of the network's input, which has the planes that tell, and output."""
            return self.shape[0] + self.telling.planes, self.shape[0]

        def build(self) -> Told:
            """The module, initialised from torch's global generator."""
            return Told(self)

    config: Config
    centre: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.net = config.backbone.build(config.shape, *config.channels)
        self.register_buffer("centre", torch.zeros(tuple(config.telling.shape)))

    def forward(self, x: Tensor, sigma: Tensor, cond: Tensor | None = None, code: Tensor | None = None) -> Tensor:
        """E[A x₀ | A x₀ + σz] (B, *rows) in float32, 0 where nothing is seen, from x (B, *rows) and codes (B, *).

        What x holds where nothing is seen reaches nothing. Raises ValueError without codes.
        """
        if code is None:
            raise ValueError("this network must be told the mask or the place of what it is shown: combine it (Asked)")
        how = self.config.telling
        centre, sigma = how.cut(self.centre, code), sigma.float()
        x = how.seen(x.float() - centre, code)
        c_skip, c_out, c_in, c_noise = self.config.precond.coefficients(sigma)
        F = self.net(torch.cat([expand(c_in, x) * x, how.told(code)], 1), c_noise, cond)
        return how.seen(centre + expand(c_skip, x) * x + expand(c_out, x) * F, code)


class Asked(Network):
    """A told network at one view A: an ordinary denoiser of A x₀, E[A x₀ | A x]."""

    @dataclass(frozen=True)
    class Config(Trained):
        """The view, and the network; None: that of the nearest view before in a combination, which it shares."""

        at: LinearMap
        told: Told.Config | None
        telling: Telling

        def __post_init__(self) -> None:
            self.telling.code(self.at)
            if not self.at.orthonormal:
                raise ValueError(f"{type(self.at).__name__} is no view: A Aᵀ must be I, so that noise stays white")

        @property
        def shape(self) -> Shape:  # pyright: ignore[reportIncompatibleVariableOverride]
            """Of what the view shows."""
            return tuple(self.at.out_shape)

        def build(self) -> Asked:
            """The module; one that shares a network must still `borrow` it."""
            return Asked(self)

    config: Config
    code: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.told = None if config.told is None else config.told.build()
        self.lent = [] if self.told is None else [self.told]  # a list, so that weights are not registered twice
        self.register_buffer("code", config.telling.code(config.at), persistent=False)

    def borrow(self, told: Told) -> None:
        """Ask this network, which is another's."""
        self.lent = [told]

    def forward(self, x: Tensor, sigma: Tensor, cond: Tensor | None = None) -> Tensor:
        """E[A x₀ | A x₀ + σz] (B, *out)."""
        how, A = self.config.telling, self.config.at
        code = self.code.expand(x.shape[0], *self.code.shape[1:])
        return how.taken(self.lent[0](how.laid(x, A), sigma, cond, code), A)


def lend(models: Iterable[nn.Module]) -> None:
    """Give each `Asked` among a combination's models that has no network of its own that of the nearest before.

    Raises ValueError: there is none before, or it is told in another way.
    """
    last: Told | None = None
    for model in models:
        if not isinstance(model, Asked):
            continue
        last = model.told if model.told is not None else last
        if last is None or last.config.telling != model.config.telling:
            raise ValueError("a view shares the network of a view before it, and there is none of its kind: order them")
        model.borrow(last)
