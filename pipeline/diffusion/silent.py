"""Silent views: what becomes of the directions that only views see which are not heard at a noise level.

A view of noisy rows knows nothing below their noise, σ < `least`. There its directions are as if no view saw them: the
fallback's variance is that of all that is seen by no view which is still heard.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.diffusion.compose import Base


def fill_silent(base: Base, x0: Tensor) -> list[float]:
    """Set and return the variance, below each `least` of the views, of a direction unseen there, from x0 (B, *)."""
    centred, views = x0 - base.mean, base.config.views
    n = x0[0].numel()
    basis = torch.eye(n, dtype=x0.dtype, device=x0.device).reshape(-1, *x0.shape[1:])
    for i, least in enumerate(base.config.leasts):
        heard = [float(view.least < least) for view in views]

        def unseen(u: Tensor, heard: list[float] = heard) -> Tensor:
            which = [u.new_full((len(u), *(1,) * (u.ndim - 1)), h) for h in heard]
            return u - base.normal.project(u, which)

        blind = sum(float((part * unseen(part)).sum()) for part in basis.split(256))
        energy = float((unseen(centred) ** 2).flatten(1).sum(1).mean())
        base.silent[i] = max(energy / max(blind, 1.0), 1e-8)
    return base.silent.tolist() if base.config.leasts else []
