"""Learning from images of which pixels are hidden, with noise of their own or without ("Ambient Diffusion").

Observed is y = m ⊙ (x₀ + s z). In every step further pixels are hidden, m̃ = m ⊙ b, and the network fills in what it
is then asked of all pixels that are known: x = m̃ ⊙ (y + √(σ² − s²) z') and, with k = s²/σ²,

    T_j = (1 − k) D_j + k x_j  where m̃_j = 1,   T_j = D_j  where m_j = 1 and m̃_j = 0,
    L = Σ_{j: m_j = 1} w_j (T_j − y_j)² / Σ_j m_j.

D cannot tell which of the pixels that it does not see are known, so at its minimum it is E[x₀ | x, m̃] at every pixel
that the data show now and then (Daras et al., NeurIPS 2023, arXiv 2305.19256; with noise, double Tweedie as in
`ambient.py`). w_j is the weight of σ where a pixel is seen, and that of infinite noise, 1/s_data², where it is not.
With s = 0 and nothing hidden it is denoising, with s > 0 and nothing hidden `Ambient`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.diffusion.denoiser import expand
from pipeline.diffusion.filling import Further
from pipeline.diffusion.precond import EDM
from pipeline.keys import Key
from pipeline.objectives.ambient import Ambient
from pipeline.objectives.objective import Batch, Draws, Loss

SPARED = 0.5  # of the rows that are whole, the share of which nothing is hidden


@dataclass(frozen=True)
class Masking(Ambient):
    """`Ambient` for a network that is told the mask; rows without one are whole, and half of those are left so."""

    precond: EDM = EDM()
    further: Further = Further()

    def draw(self, batch: Batch, key: Key) -> Draws:
        """White noise, what is not hidden besides, and which whole rows are left whole."""
        u = batch.uniform(key.fold("further"), (1, *batch.x.shape[2:]))
        spared = batch.uniform(key.fold("spared")) < SPARED
        return super().draw(batch, key) | {"kept": self.further.keeps(u), "spared": spared}

    def loss(self, D: nn.Module, batch: Batch, sigma: Tensor, drawn: Draws) -> Loss:
        """One loss per example (B,); the scalar `filled` is the mean square error at pixels hidden besides."""
        y = batch.x
        known = torch.ones_like(y, dtype=torch.bool) if batch.mask is None else batch.mask.expand_as(y)
        spared = drawn["spared"] & known.flatten(1).all(1)  # a model that is asked for whole images must have seen some
        seen = known & (drawn["kept"] | spared.reshape(-1, *(1,) * (y.ndim - 1)))
        y = torch.where(known, y, 0)
        x, share = self.noised(batch, sigma, drawn)
        x = torch.where(seen, x, 0)
        guess = D(x, sigma, batch.cond, mask=seen)
        k = expand(share, y)
        square = (torch.where(seen, (1 - k) * guess + k * x, guess) - y) ** 2
        weight = torch.where(seen, expand(self.weigh(sigma, share), y), 1 / self.precond.sigma_data**2)
        each = (weight * square * known).flatten(1).sum(1) / known.flatten(1).sum(1).clamp_min(1)
        besides = known & ~seen
        return Loss(each, {"filled": (square.detach() * besides).sum() / besides.sum().clamp_min(1)})
