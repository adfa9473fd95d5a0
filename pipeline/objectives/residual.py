"""The residual objective: what is left of x₀ after the views, regularised hard.

L = mean |(D_base + c_r m F/(1 − p) − x₀)/c_r|² + λ mean |F|² + κ mean |∂F|², m = 0 with probability p. Unregularised
and in a class that can express the base, F would undo the base and be plain training from scratch; each penalty shrinks
its optimum F* towards no correction ("Bootstrapping Diffusion", Ma, arXiv 2505.11825, requires such a regulariser for
its bound): λ to F*/(1 + λ), p to (1 − p) F*, and κ, for linear F = Wx on data of covariance C, to W* C (C + κ)⁻¹, which
shrinks the directions first in which the data hardly vary.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from pipeline.diffusion.compose import Base, Evidence
from pipeline.diffusion.denoiser import expand
from pipeline.diffusion.residual import Residual
from pipeline.keys import Key
from pipeline.objectives.objective import Batch, Draws, Loss, Objective


@dataclass(frozen=True, eq=False)
class ResidualDenoising(Objective):
    """`base` is frozen and calibrated (its `scale` is c_r).

    Args:
        base: the views' combination.
        output_l2: λ ≥ 0.
        jacobian: κ ≥ 0, in squared units of x: of the derivatives of F in x, the combination and the objections, by one
            random direction a row (Hutchinson 1990), which takes one more pass backwards.
        dropout: p in [0, 1), of the whole correction of a row.
    """

    base: Base
    output_l2: float = 0.0
    jacobian: float = 0.0
    dropout: float = 0.0

    def draw(self, batch: Batch, key: Key) -> Draws:
        """White noise and, for the penalties that need them, directions and which rows keep their correction."""
        drawn = super().draw(batch, key)
        if self.jacobian:
            drawn["direction"] = batch.normal(key.fold("direction"))
        if self.dropout:
            drawn["kept"] = (batch.uniform(key.fold("branch")) >= self.dropout).to(batch.x)
        return drawn

    def loss(self, F: Residual, batch: Batch, sigma: Tensor, drawn: Draws) -> Loss:
        """One loss per example (B,); `kept` is the share of the base's error that remains."""
        x0 = batch.x
        x = x0 + expand(sigma, x0) * drawn["noise"]
        with torch.no_grad():
            seen = self.base.see(x, sigma, batch.cond)
            unit = self.base.config.bins.read(self.base.scale, sigma)
            target = (x0 - seen.mean) / expand(unit, x)
        asked = [x, seen.mean, seen.objections]
        if self.jacobian:
            asked = [tensor.detach().requires_grad_() for tensor in asked]
        # Of the kernels of attention only the plain one can be differentiated twice.
        with sdpa_kernel(SDPBackend.MATH) if self.jacobian else nullcontext():
            out = F(asked[0], sigma, Evidence(asked[1], asked[2], seen.coverage), unit, batch.cond)
        size = (out**2).flatten(1).mean(1)
        applied = out * expand(drawn["kept"] / (1 - self.dropout), out) if self.dropout else out
        fit = ((applied - target) ** 2).flatten(1).mean(1)
        loss, scalars = fit + self.output_l2 * size, {"output": size.detach().mean()}
        if self.jacobian:
            slopes = torch.autograd.grad((out * drawn["direction"]).sum(), asked, create_graph=True, allow_unused=True)
            steep = sum((slope**2).flatten(1).sum(1) for slope in slopes if slope is not None) / out[0].numel()
            loss, scalars["jacobian"] = loss + self.jacobian * steep, torch.as_tensor(steep).detach().mean()
        kept = ((out - target) ** 2).detach().sum() / (target**2).sum()
        return Loss(loss, scalars | {"kept": kept})
