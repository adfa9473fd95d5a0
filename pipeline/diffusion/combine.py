"""How several views' estimates become one, without counting twice what more than one of them sees.

With a view's objection to u, lifted, L_k(u) = A_kᵀ(D_k(A_k x) − A_k u), and D₀ what is known without any view:

    sum     x + Σ L_k(x): the product of the views' densities, right for disjoint views only
    bethe   x + Σ c_k L_k(x), c_k = 1 − Σ c_j over the views j that contain view k: with models of the overlaps among
            the views, what several see counts once (regions as in Yedidia et al., "Constructing free-energy
            approximations and generalized belief propagation algorithms", 2005, eq. 16)
    ls      D₀ + (Σ w_k A_kᵀA_k)⁺ Σ w_k L_k(D₀), w_k(σ) = 1/mse_k(σ): least squares, in which a copy of a view changes
            nothing
    blue    ls with weights from the covariance of the views' errors, not from each one's alone (blue.py)
    stack   D₀ + a₀(σ) (x − D₀) + Σ a_k(σ) L_k(D₀), with a_k fitted on full images (calibrate.py)
    auto    sum for disjoint views, bethe where the overlaps have models, else ls

`sum` and `bethe`, too, take D₀ in directions that no view sees. All views have A Aᵀ = I.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable, Sequence
from enum import Enum

import torch
from torch import Tensor, nn

from pipeline.keys import Key
from pipeline.physics.linear import LinearMap
from pipeline.physics.solve import conjugate_gradients
from pipeline.physics.views import Pool


class Mode(Enum):
    """How views are combined."""

    AUTO = "auto"
    SUM = "sum"
    LS = "ls"
    BLUE = "blue"
    BETHE = "bethe"
    STACK = "stack"


def resolve(mode: Mode, maps: Sequence[LinearMap]) -> Mode:
    """What `auto` stands for with these views, any other mode itself.

    Raises ValueError when `bethe` lacks the model of an overlap.
    """
    if not maps:
        raise ValueError("there are no views: give at least one")
    numbers = counting(maps) if mode in (Mode.AUTO, Mode.BETHE) else None
    if mode is Mode.BETHE and numbers is None:
        raise ValueError("bethe needs a view for every overlap of two views: add those, or combine by ls")
    if mode is not Mode.AUTO:
        return mode
    if disjoint(maps):
        return Mode.SUM
    # A view within another would have no say at all (c = 0), though it may be the better of the two.
    return Mode.BETHE if numbers is not None and all(numbers) else Mode.LS


def disjoint(maps: Sequence[LinearMap]) -> bool:
    """Whether A_k A_lᵀ = 0 for all pairs: no direction is seen by two views."""
    return all(_nothing(A(B.adjoint(_probe(B, 1)))) for k, A in enumerate(maps) for B in maps[:k])


def counting(maps: Sequence[LinearMap]) -> list[int] | None:
    """The counting number c_k of each view, or None where the overlaps of some views are no views themselves."""
    found: dict[int, int] = {}
    for k in sorted(range(len(maps)), key=lambda k: -_size(maps[k])):
        within = [j for j in found if _size(maps[j]) > _size(maps[k]) and _contains(maps[j], maps[k])]
        found[k] = 1 - sum(found[j] for j in within)
    numbers = [found[k] for k in range(len(maps))]
    x = torch.randn(1, *maps[0].in_shape, generator=Key(0).fold("counting").torch(), dtype=torch.float64)
    counted = total(c * A.adjoint(A(x)) for c, A in zip(numbers, maps, strict=True))
    return numbers if all(_nothing(A(counted - x)) for A in maps) else None


class Normal(nn.Module):
    """G = Σ A_kᵀ w_k A_k and G⁺ for images (B, *in), with weights (B, 1, ..., 1), at least 0, of each view.

    A view that is a selection may have weights (B, *in) instead, one an entry. Exact where the views are selections,
    pooled over blocks of one size, or both; else by conjugate gradients.
    """

    def __init__(self, maps: Sequence[LinearMap]) -> None:
        super().__init__()
        self.maps = maps
        sizes = {A.size for A in maps if isinstance(A, Pool)}
        self.size = max(sizes, default=1)
        self.exact = len(sizes) <= 1
        for k, A in enumerate(maps):
            if not isinstance(A, Pool):
                self.exact &= (diagonal := diagonal_of(A)) is not None
                self.register_buffer(f"diagonal{k}", diagonal, persistent=False)

    def forward(self, u: Tensor, weights: Sequence[Tensor]) -> Tensor:
        """The product G u (B, *in)."""
        return total(w * A.adjoint(A(u)) for A, w in zip(self.maps, weights, strict=True))

    def solve(self, right: Tensor, weights: Sequence[Tensor]) -> Tensor:
        """G⁺ r (B, *in) for r in the range of G, of the smallest norm."""
        if not self.exact:
            return conjugate_gradients(lambda u: self(u, weights), right, tol=1e-5, steps=30)
        # Of tensors alone: a length would be a constant in what is exported.
        first = right[(slice(None), *(slice(1),) * (right.ndim - 1))]
        diagonal, pooled = torch.zeros_like(right), torch.zeros_like(first)
        for k, (A, w) in enumerate(zip(self.maps, weights, strict=True)):
            if isinstance(A, Pool):
                pooled = pooled + w
            else:
                diagonal = diagonal + w * self.get_buffer(f"diagonal{k}").to(right)
        return _by_blocks(diagonal, pooled, right, self.size)

    def project(self, u: Tensor, which: Sequence[Tensor] | None = None) -> Tensor:
        """The part of u (B, *in) that the views see together, or those of `which` (0 or 1, (B, 1, ..., 1) a view)."""
        weights = [u.new_ones(len(u), *(1,) * (u.ndim - 1))] * len(self.maps) if which is None else which
        return self.solve(self(u, weights), weights)


def _by_blocks(p: Tensor, w: Tensor, r: Tensor, s: int) -> Tensor:
    """The smallest u with p u + (w/s²) Σu = r in every block of s × s pixels, that is with G = diag p + (w/s²) 1 1ᵀ.

    With T = Σu, u = (r − (w/s²) T)/p where p > 0. Where p > 0 throughout, summing gives T; else r = (w/s²) T in the
    other pixels, which have equal shares of what is left of T.
    """
    p, r = (t.unflatten(-2, (-1, s)).unflatten(-1, (-1, s)) for t in (p, r))
    w = w[..., None, None] / s**2
    seen = p > 0
    inverse = torch.where(seen, 1 / torch.where(seen, p, 1), 0)
    others = (~seen).sum((-3, -1), keepdim=True)
    some, of_others = others > 0, torch.where(seen, 0, r).sum((-3, -1), keepdim=True) / others.clamp_min(1)
    closed = w * (r * inverse).sum((-3, -1), keepdim=True) / (1 + w * inverse.sum((-3, -1), keepdim=True))
    wT = torch.where(some, of_others, closed)
    u = (r - wT) * inverse
    T = torch.where(w > 0, wT / torch.where(w > 0, w, 1), 0)
    rest = torch.where(w > 0, T - u.sum((-3, -1), keepdim=True), 0) / others.clamp_min(1)
    return torch.where(seen, u, rest).flatten(-2).flatten(-3, -2)


def visible(A: LinearMap) -> Tensor:
    """diag(AᵀA) (*in): how much of each entry a view shows, within [0, 1].

    Exact for pooling and where AᵀA is diagonal, else unbiased, by 256 vectors of random signs (Hutchinson 1990).
    """
    if isinstance(A, Pool):
        return torch.full(tuple(A.in_shape), 1 / A.size**2)
    if (diagonal := diagonal_of(A)) is not None:
        return diagonal
    draw = Key(0).fold("visible").torch()
    signs = (torch.randint(0, 2, (1, *A.in_shape), generator=draw) * 2.0 - 1 for _ in range(256))
    return total(each * A.adjoint(A(each)) for each in signs)[0] / 256


def total(terms: Iterable[Tensor]) -> Tensor:
    """The sum of one or more tensors."""
    return functools.reduce(operator.add, terms)


def _size(A: LinearMap) -> int:
    return torch.Size(A.out_shape).numel()


def diagonal_of(A: LinearMap) -> Tensor | None:
    """diag(AᵀA) (*in) if AᵀA is diagonal, as of any selection; else None."""
    shown = A.adjoint(A(torch.ones(1, *A.in_shape)))
    x = torch.randn(shown.shape, generator=Key(0).fold("diagonal").torch())
    return shown[0] if torch.allclose(A.adjoint(A(x)), shown * x, atol=1e-6) else None


def _probe(A: LinearMap, seed: int) -> Tensor:
    """What a linear map does to one Gaussian y it does to all, but for a set of measure zero."""
    return torch.randn(1, *A.out_shape, generator=Key(seed).fold("probe").torch(), dtype=torch.float64)


def _contains(A: LinearMap, B: LinearMap) -> bool:
    """Whether A sees all that B sees."""
    shown = B.adjoint(_probe(B, 2))
    return _nothing(A.adjoint(A(shown)) - shown)


def _nothing(x: Tensor) -> bool:
    return bool(x.abs().max() < 1e-6)
