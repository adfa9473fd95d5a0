"""What each view contributes to a combination, and what the residual adds, measured on held-out full images.

The energy of a lift is E|A_kᵀ(D_k − A_k D₀)|² per entry: how far a view moves the image from what is known without any.
What a view is worth is what the error becomes without it, the others being combined as they are, and what they do not
see filled with its own variance. Places or masks at which one network is asked are worth something together
(`Base.groups`), for none of them is trained alone. The residual's energy E|ρ|², ρ = g c_r F, integrates to

    ½ ∫ E|ρ|²/σ⁴ dσ² = ∫ E|ρ|²/σ² d ln σ   nats,

which for the true ρ is KL(data ‖ what the base believes): with views that partition the image and are known exactly,
their total correlation, else the errors of the views and of their combination besides. What F has not learned, or a
gate holds back, is missing from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.diffusion.bins import Bins, weighted
from pipeline.diffusion.calibrate import Calibration, Products, Wanted, here, measure, products
from pipeline.diffusion.combine import Mode
from pipeline.diffusion.compose import Base
from pipeline.diffusion.denoiser import expand
from pipeline.keys import Key


@dataclass(frozen=True)
class Account:
    """Means per entry in each bin: `error` (bins,) of the combination, before least squares are stacked.

    `without` (groups, bins) is that of the combination without each group of views, and `compared` (bins,) of all of
    them combined as those that are left can be: by least squares where the weights of `bethe` and `blue` are those of
    all. `lift` (K, bins) is the energy of each lift, `weight` (K, bins) what each view weighs: its part of the
    precision in least squares and of the weights in `blue`, its counting number, or its scalar in `stack`. `harm` is
    how many times the error of least squares that of the combination is.
    """

    error: Tensor
    compared: Tensor
    without: Tensor
    lift: Tensor
    weight: Tensor
    harm: float

    def worth(self, bins: Bins) -> list[float]:
        """By which share the error, weighted as in training, would be larger without each view or group of them."""
        sigma = bins.centres()
        whole = weighted(sigma, self.compared)
        return [float(weighted(sigma, row) / whole - 1) for row in self.without]


def account(base: Base, x0: Tensor, ids: Sequence[str], key: Key, draws: int = 8) -> Account:
    """The account of a filled and calibrated base's views on images x0 (B, *) that trained none of them."""
    return here(accounting(base, key, draws), base.config.bins, x0, ids)


def accounting(base: Base, key: Key, draws: int) -> Calibration[Account]:
    """`account`, by sums that are asked for."""
    groups, less, K = range(len(base.groups)), _less(base.mode), len(base.maps)
    stacked = [products(base, group) for group in (None, *groups)] if base.mode is Mode.STACK else []

    def of(clean: Tensor, x: Tensor, sigma: Tensor) -> list[Tensor]:
        shown = base.shown(x, sigma)

        def off(mode: Mode, without: int | None = None) -> Tensor:
            return ((base.combine(x, sigma, shown, mode, without) - clean) ** 2).flatten(1).mean(1)

        whole = {mode: off(mode) for mode in {base.mode, less, Mode.LS}}
        rows = [whole[base.mode], whole[less], whole[Mode.LS], *(off(less, group) for group in groups)]
        rows += [(lift**2).flatten(1).mean(1) for lift in base.lifts(base.fallback(x, sigma), sigma, shown)]
        return rows + [row for each in stacked for row in each(clean, x, sigma)]

    means, sigma, known = (yield Wanted(of, key, draws)).mean, base.config.bins.centres(), 3 + len(groups)
    (error, compared, squares), without, lift = means[:3], means[3:known], means[known : known + K]
    if stacked:
        of_each = means[known + K :].reshape(len(stacked), -1, len(sigma))
        error, *rest = (Products.of(rows).error() / base.mean.numel() for rows in of_each)
        compared, without = error, torch.stack(rest)
    harm = float(weighted(sigma, error) / weighted(sigma, squares))
    return Account(error, compared, without, lift, _weights(base).cpu(), harm)


def _weights(base: Base) -> Tensor:
    """What each view weighs (K, bins)."""
    sigma, K = base.config.bins.centres().to(base.error), len(base.maps)
    if base.mode is Mode.STACK:
        return base.stack[:K]
    if base.mode in (Mode.SUM, Mode.BETHE):
        return torch.stack([c * heard for c, heard in zip(base.counts, base.heard(sigma), strict=True)])
    found = base.precision(sigma)
    if base.mode is Mode.BLUE:
        of_entries = base.weights(base.mean.expand(len(sigma), *base.mean.shape), sigma, Mode.BLUE)
        found = torch.stack([(w * seen).flatten(1).sum(1) for w, seen in zip(of_entries, base.visible, strict=True)])
    return found / found.sum(0).clamp_min(1e-30)


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
