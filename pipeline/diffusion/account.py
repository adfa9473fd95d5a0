"""What each view contributes to a combination, and what the residual adds, measured on held-out full images.

The energy of a lift is E|A_kᵀ(D_k − A_k D₀)|² per entry: how far a view moves the image from what is known without any.
What a view is worth is what the error becomes without it, the others being combined as they are. The residual's energy
E|ρ|², ρ = g c_r F, integrates to

    ½ ∫ E|ρ|²/σ⁴ dσ² = ∫ E|ρ|²/σ² d ln σ   nats,

which for the true ρ is KL(data ‖ what the base believes): with views that partition the image and are known exactly,
their total correlation. What F has not learned, or a gate holds back, is missing from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.diffusion.bins import Bins, weighted
from pipeline.diffusion.calibrate import Calibration, Wanted, here, measure
from pipeline.diffusion.combine import Mode, disjoint
from pipeline.diffusion.compose import Base
from pipeline.diffusion.denoiser import expand
from pipeline.keys import Key


@dataclass(frozen=True)
class Account:
    """Means per entry in each bin: `error` (bins,) of the combination before stacking, `without` (K, bins) each view.

    `lift` (K, bins) is the energy of each lift, `share` (K, bins) each view's part of the precision; `harm` is how many
    times the error of least squares that of views is which overlap and are summed (1: they do not).
    """

    error: Tensor
    without: Tensor
    lift: Tensor
    share: Tensor
    harm: float

    def worth(self, bins: Bins) -> list[float]:
        """By which share the error, weighted as in training, would be larger without each view."""
        sigma = bins.centres()
        whole = weighted(sigma, self.error)
        return [float(weighted(sigma, row) / whole - 1) for row in self.without]


def account(base: Base, x0: Tensor, ids: Sequence[str], key: Key, draws: int = 8) -> Account:
    """The account of a calibrated base's views on images x0 (B, *) that trained none of them."""
    return here(accounting(base, key, draws), base.config.bins, x0, ids)


def accounting(base: Base, key: Key, draws: int) -> Calibration[Account]:
    """`account`, by sums that are asked for."""
    views, overlap = range(len(base.maps)), base.mode is Mode.SUM and not disjoint(base.maps)

    def of(clean: Tensor, x: Tensor, sigma: Tensor) -> list[Tensor]:
        shown = base.shown(x, sigma)

        def off(mode: Mode, without: int | None = None) -> Tensor:
            return ((base.combine(x, sigma, shown, mode, without) - clean) ** 2).flatten(1).mean(1)

        rows = [off(base.mode), *(off(_less(base.mode), k) for k in views)]
        rows += [(lift**2).flatten(1).mean(1) for lift in base.lifts(base.fallback(x, sigma), sigma, shown)]
        return rows + ([off(Mode.LS)] if overlap else [])

    means = (yield Wanted(of, key, draws)).mean
    sigma = base.config.bins.centres().to(base.error)
    precision = base.precision(sigma)
    harm = float(weighted(sigma.cpu(), means[0]) / weighted(sigma.cpu(), means[-1])) if overlap else 1.0
    K = len(views)
    share = precision / precision.sum(0).clamp_min(1e-30)
    return Account(means[0], means[1 : K + 1], means[K + 1 : 2 * K + 1], share.cpu(), harm)


def residual_energy(
    base: Base, residual: nn.Module, gate: Tensor, x0: Tensor, ids: Sequence[str], key: Key, draws: int = 8
) -> tuple[Tensor, float]:
    """E|ρ|² of the gated correction summed over an image's entries (bins,), and its integral in nats over the bins."""
    bins = base.config.bins

    def of(clean: Tensor, x: Tensor, sigma: Tensor) -> list[Tensor]:
        seen = base.see(x, sigma)
        unit = bins.read(base.scale, sigma)
        rho = expand(bins.read(gate, sigma) * unit, x) * residual(x, sigma, seen, unit)
        return [(rho**2).flatten(1).sum(1)]

    energy = measure(of, x0, ids, bins, key, draws).mean[0]
    sigma = bins.centres().double()
    return energy, float(torch.trapezoid(energy / sigma**2, sigma.log()))


def _less(mode: Mode) -> Mode:
    """How the views that are left are combined: counting numbers and weights by covariance are those of all of them."""
    return Mode.LS if mode in (Mode.BETHE, Mode.BLUE) else mode
