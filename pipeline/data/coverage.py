"""Coverage: which pixels some row of a set shows; where none does, nothing can be learnt.

Row r shows pixel i where A e_i is not 0. With white w, (AᵀA w)_i = ⟨A e_i, A w⟩ is then not 0 either, almost surely, so
one image tells it of all pixels. A view that is the same for all rows and has a shape of its own (a crop, a channel) is
no mask: it shows all that its model is about.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from pipeline.data.leaks import Damage
from pipeline.keys import Key
from pipeline.physics.linear import Identity, LinearMap

NAMED = 8  # pixels that a message names
SMALL = 1e-6  # of the largest: what rounding leaves of 0


def shown(A: LinearMap | None, damage: Damage | None) -> np.ndarray:
    """Which pixels some row of a batch shows: bools of `damage.shape`, or one True where all are or none is known."""
    if A is None or damage is None or isinstance(A, Identity):
        return np.array(True)
    if A.out_shape != damage.shape and not damage.corruption.draw(damage.shape, Key(0)):
        return np.array(True)
    w = Key(0).fold("coverage").numpy().standard_normal((1, *damage.shape), dtype=np.float32)
    back = A.adjoint(A(torch.from_numpy(w).expand(A.rows, *damage.shape))).abs()
    return (back > SMALL * back.max()).any(0).numpy()


def apart(seen: Iterable[np.ndarray], n: int) -> np.ndarray:
    """Which of n numbers no row shows together, bools (n, n), from what rows show, bools (B, n) at a time.

    How those vary with each other nothing tells. Ends as soon as all have met.
    """
    met = np.zeros((n, n), bool)
    for part in seen:
        shows = part.astype(np.float32)
        met |= shows.T @ shows > 0
        if met.all():
            break
    return ~met


def told_apart(alone: np.ndarray, places: np.ndarray, what: str) -> str:
    """A sentence about pairs (n, n) that are shown together by no row, and where; "" if there are none.

    `places` (n, k) are the coordinates of the numbers, which are called `what`.
    """
    pairs = np.argwhere(np.triu(alone))
    if not len(pairs):
        return ""
    named = [tuple(place) for place in places.tolist()]
    concerned = np.flatnonzero(alone.any(0))
    listed = ", ".join(str(named[i]) for i in concerned[:NAMED])
    more = f" and {len(concerned) - NAMED} more" if len(concerned) > NAMED else ""
    n = len(alone)
    return (
        f"{len(pairs)} of {n * (n + 1) // 2} pairs of {what} are shown together by no row, such as "
        f"{named[pairs[0][0]]} and {named[pairs[0][1]]}; it concerns {listed}{more}: how they go together is not "
        "learned"
    )
