"""Denoising of rows of several kinds by one network: each row is judged where its own view sees.

For a row u₀ = P_k x₀ of kind k, L = w_k(σ) |D(P_k (x₀ + σz), σ; k) − u₀|² / m_k with m_k the numbers of the view: since
|P_k e|² = |A_k e|², it is the plain denoising loss of the view v₀ = A_k x₀ (see pipeline/diffusion/joint.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from pipeline.diffusion.denoiser import expand
from pipeline.diffusion.joint import Joint
from pipeline.objectives.objective import Batch, Draws, Loss, Objective


@dataclass(frozen=True, eq=False)
class JointDenoising(Objective):
    """`kinds` (N,) says of each example what kind of row it is, by `batch.index`; `joint` knows the operators."""

    joint: Joint
    kinds: Tensor

    def loss(self, D: nn.Module, batch: Batch, sigma: Tensor, drawn: Draws) -> Loss:
        """One loss per example (B,); `mse` is the unweighted one and `mse_whole` that of the whole images' rows.

        Raises ValueError when the batch does not name its examples.
        """
        if batch.index is None:
            raise ValueError("joint denoising needs batches with an index, by which each row's kind is known")
        kind = self.kinds.to(batch.x.device)[batch.index]
        u = self.joint.seen(batch.x + expand(sigma, batch.x) * drawn["noise"], kind)
        error = ((D(u, sigma, batch.cond, kind) - batch.x) ** 2).flatten(1).sum(1)
        mse = error / self.joint.sizes(kind)
        whole = (kind == len(self.joint.config.views)).to(mse)
        scalars = {"mse": mse.detach().mean(), "mse_whole": (mse.detach() * whole).sum() / whole.sum().clamp_min(1)}
        return Loss(self.joint.weight(sigma, kind) * mse, scalars)
