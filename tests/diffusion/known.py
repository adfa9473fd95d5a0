"""Denoisers, views and corrections that are known exactly, shared by the tests of this folder."""

from __future__ import annotations

import math

import torch
from torch import nn

from pipeline.backbones.mlp import Config as MLP
from pipeline.diffusion.bins import Bins
from pipeline.diffusion.combine import Mode
from pipeline.diffusion.compose import Base, View
from pipeline.diffusion.denoiser import expand
from pipeline.diffusion.precond import Preconditioned
from pipeline.diffusion.told import Told


class Known(nn.Module):
    """The exact denoiser of a law."""

    def __init__(self, law):
        super().__init__()
        self.law = law

    def forward(self, x, sigma, cond=None):
        return self.law(x, sigma, cond)


class KnownTold(nn.Module):
    """The exact denoiser of what each row shows of a law, told as `Told` is."""

    def __init__(self, law, telling):
        super().__init__()
        self.law, self.config = law, Told.Config(telling, MLP(width=8, blocks=1))

    def forward(self, x, sigma, cond=None, code=None):
        how, out = self.config.telling, torch.zeros_like(x)
        numbers = torch.arange(math.prod(how.shape)).reshape(how.shape) + 1
        for i in range(len(x)):
            shown = how.cut(numbers, code[i : i + 1])[0]
            A = torch.eye(numbers.numel(), dtype=torch.float64)[shown[shown > 0] - 1]
            out[i, shown > 0] = self.law.through(A)(x[i, shown > 0][None], sigma[i : i + 1])[0]
        return out


class Correction(nn.Module):
    """F = share · (D* − D_base)/c_r with the exact D*."""

    def __init__(self, law, share=1.0):
        super().__init__()
        self.law, self.share = law, share

    def forward(self, x, sigma, seen, unit, cond=None):
        return self.share * (self.law(x, sigma) - seen.mean) / expand(unit, x)


def exact_views(law, maps, bins, mode=Mode.AUTO):
    """Views of a law with exact denoisers, combined, uncalibrated, in float64."""
    views = tuple(View(A, Preconditioned.Config(A.out_shape, MLP(width=8, blocks=1))) for A in maps)
    base = Base.Config(tuple(maps[0].in_shape), views, bins, mode).build().double().eval().requires_grad_(False)
    base.models = nn.ModuleList(Known(law.through(A.dense())) for A in maps)
    return base


def exact_base(law, maps, mode, sigma2):
    """The same at one noise variance, each view's error being that of its posterior."""
    bins = Bins(sigma2**0.5, 2 * sigma2**0.5, 2)
    base = exact_views(law, maps, bins, mode)
    laws = [model.law for model in base.models]
    base.error.copy_(torch.stack([view.mse(bins.centres().double()) for view in laws]))
    return base
