"""What no view sees: its mean and its variance, of all views together and of all but one, from full images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from pipeline.diffusion.compose import Base
from pipeline.keys import Key

WHOLE, PROBES = 4096, 128  # entries up to which a trace is taken over a basis; random vectors by which, beyond


def fill(base: Base, x0: Tensor) -> dict[str, float]:
    """Set what a base says of the directions that no view sees, their mean and variance, from full images x0 (B, *).

    Below the `least` of some views their directions are as if no view saw them, and have a variance of their own. So
    have they where the combination is compared with what it were without a group of views.

    Returns: the null-space variance and the share of the pixels' variance that no view sees.
    """
    base.mean.copy_(x0.mean(0))
    centred, views = x0 - base.mean, base.config.views
    heard = [[view.least < least for view in views] for least in base.config.leasts] + [[True] * len(views)]
    found = [_blind(base, centred, those) for those in heard]
    base.null.copy_(torch.tensor([variance for variance, _ in found]).reshape(base.null.shape))
    for group, row in zip(base.groups, base.bare, strict=True):
        rest = [[h and k not in group for k, h in enumerate(those)] for those in heard]
        row.copy_(torch.tensor([_blind(base, centred, those)[0] for those in rest]).reshape(row.shape))
    return {"null_variance": found[-1][0], "unseen_share": found[-1][1]}


def _blind(base: Base, centred: Tensor, heard: Sequence[bool]) -> tuple[float, float]:
    """The variance of each direction that none of the views sees which are heard, and its share of all."""

    def unseen(u: Tensor) -> Tensor:
        which = None if all(heard) else [u.new_full((len(u), *(1,) * (u.ndim - 1)), float(h)) for h in heard]
        return u - base.normal.project(u, which)

    n, blind = centred[0].numel(), 0.0
    for probes, share in _probes(n):
        u = probes.to(centred).reshape(-1, *centred.shape[1:])
        blind += share * float((u * unseen(u)).sum())
    energy = (unseen(centred) ** 2).mean()
    # The variance of each direction that no view sees, not its mean over all of them.
    variance = float((energy * n / max(blind, 1.0)).clamp_min(1e-8))
    return variance, float(energy / (centred**2).mean())


def _probes(n: int, whole: int = WHOLE) -> Iterator[tuple[Tensor, float]]:
    """Vectors u (*, n), and what share Σ uᵀP u over all of them counts in tr P of a matrix (n, n).

    The basis, or where that is more than `whole`, PROBES vectors of random signs (Hutchinson 1990): by these the trace
    of a projection is known to √(2/(PROBES tr P)) of it at worst.
    """
    if n <= whole:
        yield from ((one_hot(entries, n), 1.0) for entries in torch.arange(n).split(256))
    else:
        draw = Key(0).fold("probes").torch()
        yield from ((torch.randint(0, 2, (1, n), generator=draw) * 2 - 1, 1 / PROBES) for _ in range(PROBES))
