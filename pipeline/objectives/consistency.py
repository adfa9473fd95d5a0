"""Consistency: along the reverse diffusion a true denoiser is a martingale, E[D(x_s, s) | x_t] = D(x_t, t) for s < t.

Below the noise of all rows nothing else can be learned. For two paths from the same x_t with independent noise

    E ⟨D(x_s¹, s) − D(x_t, t), D(x_s², s) − D(x_t, t)⟩ = |E[D(x_s, s) | x_t] − D(x_t, t)|²

without bias, which the mean square of one path has ("Consistent Diffusion Meets Tweedie", Daras, Dimakis and
Daskalakis, arXiv 2404.10177). The product is added to the loss of `Ambient`, weighted by w(t), on a share of the rows;
paths are a few steps of the ancestral sampler, and no gradient goes through them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.diffusion.denoiser import Denoiser, expand
from pipeline.diffusion.sample import Ancestral
from pipeline.keys import Key
from pipeline.objectives.ambient import Ambient
from pipeline.objectives.objective import Batch, Draws, Loss

PATH = Ancestral(steps=2)  # its step alone is used


@dataclass(frozen=True)
class Consistent(Ambient):
    """`Ambient`, and consistency below.

    Args:
        weight: of the product, above 0.
        share: of the rows of a global batch that are followed, within (0, 1]: every round(1/share)th.
        steps: of a path.
        low: the least s; ln s is uniform from there to ln t.
    """

    weight: float = 1.0
    share: float = 0.25
    steps: int = 2
    low: float = 0.02

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.weight < math.inf or not 0 < self.share <= 1 or self.steps < 1 or not self.low > 0:
            raise ValueError(
                f"weight is {self.weight}, share {self.share}, steps {self.steps} and low {self.low}: give a weight "
                "and a level above 0, a share within (0, 1] and a step at least"
            )

    @property
    def every(self) -> int:
        """Of so many rows one is followed."""
        return round(1 / self.share)

    def draw(self, batch: Batch, key: Key) -> Draws:
        """White noise, that of both paths' steps, how far down they go, and which rows are followed."""
        drawn = super().draw(batch, key) | {"depth": batch.uniform(key.fold("depth"))}
        # By their place in the global batch, whatever pieces it comes in.
        every = torch.arange(len(batch), device=batch.x.device)
        drawn["followed"] = every[-batch.offset % self.every :: self.every]
        for path in range(2):
            drawn |= {f"path.{path}.{k}": batch.normal(key.fold("path", path, k)) for k in range(self.steps)}
        return drawn

    def loss(self, D: Denoiser, batch: Batch, sigma: Tensor, drawn: Draws) -> Loss:
        """One loss per example (B,); the scalar `consistency` is the mean product, without weight."""
        x, known = self.noised(batch, sigma, drawn)
        guess = D(x, sigma, batch.cond)
        found = self.judged(guess, x, known, batch, sigma)
        at, every = drawn["followed"], self.every
        if not len(at):
            return Loss(found.each, found.scalars | {"consistency": torch.zeros_like(found.each).mean()})
        t, cond = sigma[at], None if batch.cond is None else batch.cond[at]
        s = torch.exp(t.log() + drawn["depth"][at] * (math.log(self.low) - t.log()).clamp_max(0))
        with torch.no_grad():
            ends = [self._path(D, x[at], t, s, cond, drawn, path, at) for path in range(2)]
        first, second = (D(end, s, cond) - guess[at] for end in ends)
        product = (first * second).flatten(1).mean(1)
        # The rows that are followed stand for all: their losses grow by what the mean over all would otherwise lose.
        extra = self.weight * self.precond.weight(t) * product * every
        each = found.each.index_add(0, at, extra)
        return Loss(each, found.scalars | {"consistency": product.detach().sum() * every / len(batch)})

    def _path(
        self, D: Denoiser, x: Tensor, t: Tensor, s: Tensor, cond: Tensor | None, drawn: Draws, path: int, at: Tensor
    ) -> Tensor:
        """x_s (n, *) from x_t, in steps evenly spaced in ln σ."""
        for k in range(self.steps):
            sigma, down = (torch.exp(t.log() + (k + i) / self.steps * (s.log() - t.log())) for i in range(2))
            move = PATH.step(D, x, sigma, down, cond)
            std = torch.zeros_like(sigma) if move.std is None else move.std
            x = move.mean + expand(std, x) * drawn[f"path.{path}.{k}"][at]
        return x
