"""A small perceptron and deterministic data, shared by the tests of this folder."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from pipeline.backbones.backbone import Backbone
from pipeline.diffusion.exact import Gaussian
from pipeline.diffusion.precond import Preconditioned
from pipeline.keys import Key
from pipeline.objectives.objective import Batch

LAW = Gaussian(torch.tensor([0.2, -0.1]), torch.tensor([[0.30, 0.18], [0.18, 0.20]]))


@dataclass(frozen=True)
class Perceptron(Backbone):
    width: int = 32
    dropout: float = 0.0

    def build(self, shape, channels_in, channels_out):
        return Net(channels_in, channels_out, self)


class Net(nn.Module):
    def __init__(self, channels_in, channels_out, sizes):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.layers = nn.Sequential(
            nn.Linear(channels_in + 3, sizes.width),
            nn.SiLU(),
            nn.LayerNorm(sizes.width),
            nn.Dropout(sizes.dropout),
            nn.Linear(sizes.width, sizes.width),
            nn.SiLU(),
            nn.Linear(sizes.width, channels_out),
        )

    def forward(self, x, c_noise, cond=None):
        if self.training:
            self.calls = self.calls + 1
        t = c_noise[:, None]
        return self.layers(torch.cat([x, t, t.sin(), (3 * t).cos()], 1))


def build(seed=0, **sizes):
    torch.manual_seed(seed)
    return Preconditioned.Config((2,), Perceptron(**sizes)).build()


def batches(batch=16, start=0, rank=0, world=1, law=LAW):
    """Endless global batches from image `start` on, this rank's rows of each."""
    at, rows = start, batch // world
    while True:
        x0 = law.sample(batch, Key(0).fold("data", at)).float()
        mine = slice(rank * rows, (rank + 1) * rows)
        yield Batch(x0[mine], index=torch.arange(at, at + batch)[mine], offset=rank * rows, total=batch)
        at += batch


def same(a, b):
    """Whether two dictionaries of tensors agree to the bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
