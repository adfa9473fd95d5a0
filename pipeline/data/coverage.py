"""Coverage: which pixels some row of a set shows; where none does, nothing can be learnt.

Row r shows pixel i where A e_i is not 0. With white w, (AᵀA w)_i = ⟨A e_i, A w⟩ is then not 0 either, almost surely, so
one image tells it of all pixels. A view that is the same for all rows and has a shape of its own (a crop, a channel) is
no mask: it shows all that its model is about.
"""

from __future__ import annotations

import numpy as np
import torch

from pipeline.data.leaks import Damage
from pipeline.keys import Key
from pipeline.physics.linear import Identity, LinearMap

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
