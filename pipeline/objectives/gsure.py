"""GSURE: the denoising error of images that nobody saw, estimated from what was measured of them.

A row is y = A x₀ + s₀ n. In the basis that makes A diagonal (`physics/modes.py`: A = U S Vᵀ, x̄ = Vᵀx) the
measurement is ȳ = S⁺Uᵀy = P x̄ + ν, P = [S > 0], ν ~ N(0, C) with C = s₀² S⁻² on what is seen. Noise of variance σ² −
C is added there and of σ² where nothing was seen, so that

    ū = ȳ + (σ² − C)^½ ε,   ū | x₀ ~ N(P x̄, σ² I),

which is x = x₀ + σz of an image of which the hidden modes are 0 (here: their mean, which only shifts x). It needs σ²
≥ C. For f(u) = D(V u, σ) in the same basis and any W that is diagonal in it,

    E|W P (f − x̄)|² = E|W P (f − ȳ)|² + 2 E⟨W² P f, ν⟩ − tr(W² C),

since E⟨W²P(f − ȳ), P(ȳ − x̄)⟩ = E⟨W² P f, ν⟩ − tr(W² C). (ν, ū) is Gaussian with Cov(ν, ū) = C, hence (Stein)

    E⟨W² P f, ν⟩ = E tr(W² C ∂f/∂ū):   |W P (f − x̄)|² ≈ |W P (f − ȳ)|² + 2 tr(W² C ∂f/∂ū) − tr(W² C).

In the papers' x_t = √ᾱ ū the middle term is 2 s₀² √ᾱ div_{x_t}, as ∂/∂ū = √ᾱ ∂/∂x_t. The loss of Kawar et al. (arXiv
2305.13128, TMLR 2024) is passed on with 2(1 − ᾱ) in its place and the target x_t/√ᾱ, which wants 2(1 − ᾱ)/√ᾱ, and their
code has 1e-4 (1 − ᾱ) for every s₀ with the target ȳ: neither is unbiased, as the tests show. W² = 1/E[P] over the rows
(ENSURE, Aggarwal et al. 2022) makes seldom seen modes count as much as any other. The trace is estimated by one random
direction of signs (Hutchinson 1990). Without noise C = 0, and nothing of this is needed.

The minimum is f_j(u) = E[x̄_j | u, P_j = 1]: with P = I the denoiser D itself, for σ ≥ s₀; behind masks what is right
for images with as many holes, which whole images are not: exact only as masks hide little (docs/recipes/gsure.md).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from pipeline.diffusion.denoiser import Denoiser, expand
from pipeline.diffusion.precond import EDM, Precond
from pipeline.keys import Key
from pipeline.objectives.objective import Batch, Draws, Loss, Objective
from pipeline.physics.modes import Basis, Pixels

STEP = 1e-2  # of finite differences, in units of σ; their error is of the order of its square


class Probe(StrEnum):
    """How the derivative along a direction is taken."""

    BACKWARD = "backward"  # exact; the network is differentiated twice
    DIFFERENCE = "difference"  # of two answers of the network, for those that can be differentiated once only


@dataclass(frozen=True)
class Measured(Batch):
    """A batch whose `x` is V ȳ, with anything where nothing was seen.

    `singular` (B, *) are S, 0 where nothing was seen; `level` (B,) is s₀.
    """

    singular: Tensor | None = None
    level: Tensor | None = None


@dataclass(frozen=True, eq=False)
class GSURE(Objective):
    """Minimised where E|W P (D − x₀)|² is; a row's loss may be negative.

    Args:
        weight: W² (*), shaped as an image in `basis`.
        basis: V.
        precond: whose weight over σ is taken.
        noisy: whether any row has noise; without, nothing is differentiated.
        probe: how the trace is taken.
    """

    weight: Tensor
    basis: Basis = Pixels()
    precond: Precond = EDM()
    noisy: bool = True
    probe: Probe = Probe.BACKWARD

    def draw(self, batch: Batch, key: Key) -> Draws:
        """White noise and, where rows are noisy, random signs."""
        drawn = super().draw(batch, key)
        if self.noisy:
            drawn["signs"] = torch.where(batch.normal(key.fold("signs")) < 0, -1.0, 1.0).to(batch.x)
        return drawn

    def loss(self, D: Denoiser, batch: Batch, sigma: Tensor, drawn: Draws) -> Loss:
        """One loss per example (B,), 0 of those whose own noise is above σ: `too_noisy` counts them.

        Raises ValueError: the batch does not say what its rows went through.
        """
        if not isinstance(batch, Measured) or batch.singular is None or batch.level is None:
            raise ValueError("GSURE needs batches that say what their rows went through: give it `Measured` ones")
        S, weight, width = batch.singular, self.weight.to(batch.x), expand(sigma, batch.x) ** 2
        seen = (S > 0).to(batch.x)
        own = seen * (expand(batch.level, S) / torch.where(S > 0, S, 1)) ** 2  # C
        added = width - own
        # Rounding alone must not forbid σ = s₀.
        allowed = (added >= -1e-6 * width).flatten(1).all(1)
        y = self.basis.into(batch.x)
        u = y + added.clamp_min(0).sqrt() * drawn["noise"]

        def f(u: Tensor) -> Tensor:
            return self.basis.into(D(self.basis.back(u), sigma, batch.cond))

        if self.noisy:
            out, along = self._probed(f, u, weight * own, drawn["signs"], sigma)
        else:
            out, along = f(u), u.new_zeros(len(u))
        fit = (weight * seen * (out - y) ** 2).flatten(1).mean(1)
        risk = fit + 2 * along - (weight * own).flatten(1).mean(1)
        risk = torch.where(allowed, risk, 0)  # not multiplied: 0 times NaN is NaN
        scalars = {"mse": risk.detach().mean(), "too_noisy": (~allowed).float().mean()}
        return Loss(self.precond.weight(sigma) * risk, scalars)

    def _probed(
        self, f: Callable[[Tensor], Tensor], u: Tensor, K: Tensor, signs: Tensor, sigma: Tensor
    ) -> tuple[Tensor, Tensor]:
        """f(u), and an estimate of tr(K ∂f/∂u) over the number of entries, for a diagonal K."""
        if self.probe is Probe.DIFFERENCE:
            step, state = STEP * expand(sigma, u), _random(u.device)
            out = f(u)
            _random(u.device, state)  # or what dropout leaves out of one and not of the other would be the derivative
            return out, (K * signs * (f(u + step * signs) - out) / step).flatten(1).mean(1)
        v = K.sqrt() * signs
        # Of the kernels of attention only the plain one can be differentiated twice.
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH) if u.is_cuda else nullcontext():
            u = u.detach().requires_grad_()
            out = f(u)
            (slope,) = torch.autograd.grad((v * out).sum(), u, create_graph=True)
        return out, (v * slope).flatten(1).mean(1)


def _random(device: torch.device, state: Tensor | None = None) -> Tensor:
    """The state of the generator that dropout draws from, perhaps after setting it."""
    if device.type == "cuda":
        if state is not None:
            torch.cuda.set_rng_state(state, device)
        return torch.cuda.get_rng_state(device)
    if state is not None:
        torch.set_rng_state(state)
    return torch.get_rng_state()
