"""Sliced Wasserstein distance: the root mean over directions θ of W₂² between the projections θᵀa and θᵀb.

In one dimension W₂² = ∫₀¹ (F_a⁻¹(t) − F_b⁻¹(t))² dt, exact for sets of any two sizes (Rabin et al., "Wasserstein
barycenter and its application to texture mixing", 2011). A shift by v gives (mean_θ (θᵀv)²)^½, about |v|/√n.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.keys import Key
from pipeline.metrics.features import TooFew
from pipeline.metrics.interval import Estimate, estimate, left_out


def directions(n: int, count: int, key: Key) -> Tensor:
    """Unit vectors (count, n), uniform on the sphere, the same for every set."""
    drawn = torch.from_numpy(key.fold("directions", n).numpy().standard_normal((count, n)))
    return drawn / drawn.norm(dim=1, keepdim=True)


def sliced(a: Tensor, b: Tensor, theta: Tensor) -> float:
    """Of features a (M, n) and b (N, n) over directions (L, n), in units of the features."""
    return _distance(*((x.double() @ theta.T).sort(0).values for x in (a, b)))


def judged(a: Tensor, b: Tensor, group_a: Tensor, group_b: Tensor, groups: int, theta: Tensor) -> Estimate:
    """The distance with its interval."""
    if min(len(a), len(b)) < 2:
        raise TooFew("a sliced Wasserstein distance needs at least 2 images of each set: sample more")
    (p, order_p), (q, order_q) = ((x.double() @ theta.T).sort(0) for x in (a, b))
    in_a, in_b = (torch.bincount(group, minlength=groups).tolist() for group in (group_a, group_b))
    without_a = left_out(lambda g: _distance(_left(p, group_a[order_p], g), q), in_a)
    without_b = left_out(lambda g: _distance(p, _left(q, group_b[order_q], g)), in_b)
    return estimate(_distance(p, q), [without_a, without_b], low=0.0)


def _left(ordered: Tensor, group: Tensor, g: int) -> Tensor:
    """The sorted projections (M, L) without the rows of a group, of which every column has as many."""
    return ordered.T[(group != g).T].reshape(ordered.shape[1], -1).T


def _distance(p: Tensor, q: Tensor) -> float:
    """Of sorted projections (M, L) and (N, L)."""
    m, n = len(p), len(q)
    # Quantiles are constant between these levels, in units of 1/(m n), so that they are whole numbers.
    ends = torch.cat([torch.arange(1, m + 1) * n, torch.arange(1, n + 1) * m]).unique()
    starts = torch.cat([ends.new_zeros(1), ends[:-1]])
    apart = p[starts // n] - q[starts // m]
    weight = (ends - starts).double() / (m * n)
    return float((weight @ apart**2).mean().sqrt())
