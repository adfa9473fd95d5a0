"""How much each view counts where several see the same: by the covariance of their errors, not by its diagonal alone.

With u_k = A_kᵀ(D_k(A_k x) − A_k x₀) and P_k = A_kᵀA_k, E_kl = E⟨u_k, u_l⟩/tr(P_k P_l) is the covariance of two views'
errors an entry that both see, and E_kk the error of one. Of the unbiased combinations of the views S that see an entry,

    w = E_SS⁻¹ 1 / (1ᵀE_SS⁻¹ 1)        (Aitken, "On least squares and linear combination of observations", 1935)

has the least error, 1/(1ᵀE_SS⁻¹ 1). Views that err together share one say; what all of them err by, c 11ᵀ, as what is
left of x₀ given x, changes no weight. Pooled views are weighed among themselves, and against the others as if their
errors were independent of those.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pipeline.diffusion.denoiser import expand
from pipeline.physics.linear import LinearMap
from pipeline.physics.views import Pool

RIDGE = 0.02


def common(maps: Sequence[LinearMap]) -> Tensor:
    """tr(P_k P_l) (K, K), float64: how many directions two views share, if they share whole ones."""
    n = torch.Size(maps[0].in_shape).numel()
    found = torch.zeros(len(maps), len(maps), dtype=torch.float64)
    for entries in torch.arange(n).split(256):
        rows = torch.nn.functional.one_hot(entries, n).double().reshape(-1, *maps[0].in_shape)
        seen = torch.stack([A.adjoint(A(rows)).flatten() for A in maps])
        found += seen @ seen.T
    return found


def weights(covariance: Tensor, members: Tensor) -> Tensor:
    """E_SS⁻¹ 1 (sets, K, N), 0 outside S, of covariances E (K, K, N), for S in `members` (sets, K), bools.

    Regularised by RIDGE of how much the views' errors differ, which draws the weights together; a view with a weight
    below zero, which would be held against another, is left out of S.
    """
    K, E = len(covariance), covariance.double().permute(2, 0, 1)
    apart = (E.diagonal(dim1=1, dim2=2)[:, :, None] + E.diagonal(dim1=1, dim2=2)[:, None, :] - 2 * E).clamp_min(0)
    E = E + (RIDGE * apart.mean((1, 2)) + 1e-9 * E.diagonal(dim1=1, dim2=2).mean(1))[:, None, None] * torch.eye(K)
    within = members[:, None, :].expand(-1, len(E), -1).clone()
    while True:
        both = within[..., :, None] & within[..., None, :]
        system = torch.where(both, E, torch.eye(K).double())
        found = torch.linalg.solve(system, within.double()[..., None])[..., 0] * within
        lowest = found.amin(-1, keepdim=True)
        wrong = (found == lowest) & (lowest < 0)
        if not bool(wrong.any()):
            return found.transpose(1, 2)
        within &= ~wrong


class Shares(nn.Module):
    """Which views see which entry, and so the weight of each there, from a table for each set of views."""

    def __init__(self, maps: Sequence[LinearMap], diagonals: Sequence[Tensor | None], bins: int) -> None:
        """`diagonals`: diag(A_kᵀA_k) (*in) of views of which that is all there is to A_kᵀA_k, None of others."""
        super().__init__()
        self.maps, K = maps, len(maps)
        seen = torch.stack([torch.zeros(maps[0].in_shape) if d is None else d for d in diagonals]) > 0.5
        sets, place = seen.flatten(1).T.unique(dim=0, return_inverse=True)
        pools: dict[int, list[int]] = {}
        for k, A in enumerate(maps):
            if diagonals[k] is None:  # of other views each is weighed by itself
                pools.setdefault(A.size if isinstance(A, Pool) else -1 - k, []).append(k)
        also = torch.zeros(len(pools), K, dtype=torch.bool)
        for row, views in zip(also, pools.values(), strict=True):
            row[views] = True
        self.rows = {k: len(sets) + n for n, views in enumerate(pools.values()) for k in views}
        self.register_buffer("members", torch.cat([sets, also]), persistent=False)
        self.register_buffer("place", place.reshape(maps[0].in_shape), persistent=False)
        self.register_buffer("table", torch.zeros(len(sets) + len(also), K, bins))

    members: Tensor
    place: Tensor
    table: Tensor

    def set(self, covariance: Tensor, sigma: Tensor, least: Sequence[float]) -> None:
        """Take the weights from the covariance (K, K, bins) of the views' errors at σ (bins,).

        A view has none below its `least` σ.
        """
        heard = sigma[:, None] >= torch.tensor(least)
        found = torch.cat(
            [weights(covariance[..., n : n + 1], self.members.cpu() & heard[n]) for n in range(len(sigma))], 2
        )
        self.table.copy_(found / found.amax((0, 1)).clamp_min(1e-300))

    def forward(self, table: Tensor, x: Tensor) -> list[Tensor]:
        """Each view's weight, (B, *in) or (B, 1, ..., 1), from the table (sets, K, B) at the noise of x (B, *in)."""
        found = []
        for k in range(len(self.maps)):
            row = self.rows.get(k)
            found.append(expand(table[row, k], x) if row is not None else table[:, k].T[:, self.place])
        return found
