"""One network for several views and the whole image: told which it is looking at, it learns from all of them.

A view v = A x with A Aᵀ = I is laid back in its place, u = Aᵀv = P x with P = AᵀA, so every kind of row has the image's
shape, and |A e|² = |P e|². Beside u the network sees one plane a kind, P 1 for the kind at hand and 0 for the others:

    D(u, σ; k) = P_k (μ_k + c_skip (u − μ_k) + c_out F(c_in (u − μ_k), planes_k, c_noise)),     kinds 1 .. K,

and kind K + 1 is the whole image, P = I. Rows of one kind teach what rows of another lack: a few whole images are
enough to join what the views' many rows have taught about the parts. (One mask-conditional network for many masks is
that of Ambient Diffusion, Daras et al., arXiv 2305.19256; here the masks are views and the noise stays white in each.)

As a `Denoiser` it is that of the whole image, hence a view like any other, with A = I.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.backbones.backbone import Backbone
from pipeline.diffusion.denoiser import Network, Trained, expand
from pipeline.diffusion.precond import EDM
from pipeline.physics.linear import Identity, LinearMap


class Joint(Network):
    """D(u, σ; kind); kinds 0 .. K − 1 are the views in their order, kind K is the whole image."""

    @dataclass(frozen=True)
    class Config(Trained):
        """Views of images of `shape` (C, *), and the standard deviation of each kind of row about its mean."""

        shape: tuple[int, ...]
        views: tuple[LinearMap, ...]
        sigma_data: tuple[float, ...]
        backbone: Backbone

        def __post_init__(self) -> None:
            if len(self.sigma_data) != len(self.views) + 1 or not all(s > 0 for s in self.sigma_data):
                raise ValueError(
                    f"sigma_data is {self.sigma_data}: give one number above 0 for each of {len(self.views)} views "
                    "and one for the whole image"
                )
            for A in self.views:
                if not A.orthonormal or tuple(A.in_shape) != tuple(self.shape):
                    raise ValueError(f"{type(A).__name__} is no view of images {self.shape}: A Aᵀ must be I on them")

        @property
        def kinds(self) -> tuple[LinearMap, ...]:
            """The operators of all kinds of rows, the whole image's last."""
            return (*self.views, Identity(tuple(self.shape)))

        @property
        def channels(self) -> tuple[int, int]:
            """Of the network's input, which has a plane a kind, and output."""
            return self.shape[0] + len(self.kinds), self.shape[0]

        def build(self) -> Joint:
            """The module, initialised from torch's global generator."""
            return Joint(self)

    config: Config
    centre: Tensor
    planes: Tensor
    spread: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        shape, kinds = tuple(config.shape), config.kinds
        self.net = config.backbone.build(shape, *config.channels)
        self.register_buffer("centre", torch.zeros(len(kinds), *shape))
        planes = torch.zeros(len(kinds), len(kinds), *shape[1:])
        for k, A in enumerate(kinds):
            planes[k, k] = A.adjoint(A(torch.ones(1, *shape)))[0].mean(0)
        self.register_buffer("planes", planes, persistent=False)
        self.register_buffer("spread", torch.tensor(config.sigma_data), persistent=False)

    def forward(self, x: Tensor, sigma: Tensor, cond: Tensor | None = None, kind: Tensor | None = None) -> Tensor:
        """P_k E[x₀ | u] (B, *) in float32 from u = P_k (x₀ + σz) (B, *), each row of its own `kind` (B,).

        Without kinds all rows are whole images.
        """
        at = x.new_full(x.shape[:1], len(self.config.views), dtype=torch.long) if kind is None else kind
        x, sigma, s, centre = x.float() - self.centre[at], sigma.float(), self.spread[at], self.centre[at]
        # EDM for s = 1 at σ/s, brought to data of scale s.
        c_skip, c_out, c_in, _ = EDM(1.0).coefficients(sigma / s)
        F = self.net(torch.cat([expand(c_in / s, x) * x, self.planes[at]], 1), sigma.log() / 4, cond)
        D = centre + expand(c_skip, x) * x + expand(c_out * s, x) * F
        return D if kind is None else self.seen(D, kind)

    def seen(self, u: Tensor, kind: Tensor) -> Tensor:
        """P_k u (B, *), each row by its own kind (B,)."""
        out = u
        for k, A in enumerate(self.config.views):
            out = torch.where(expand(kind == k, u), A.adjoint(A(u)), out)
        return out

    def weight(self, sigma: Tensor, kind: Tensor) -> Tensor:
        """The EDM weight (σ² + s²)/(σs)² (B,) of each row, with the s of its kind."""
        s = self.spread[kind]
        return EDM(1.0).weight(sigma / s) / s**2

    def sizes(self, kind: Tensor) -> Tensor:
        """How many numbers each row's view has (B,)."""
        counts = [float(math.prod(A.out_shape)) for A in self.config.kinds]
        return torch.tensor(counts, device=kind.device)[kind]
