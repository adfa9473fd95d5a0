"""Small networks of every kind, and what makes an untrained one do something."""

from __future__ import annotations

import torch
from torch import nn

from pipeline.backbones import adm, dit
from pipeline.backbones.magnitude import Preserving
from pipeline.backbones.normed import Normed

SMALL = {"width": 8, "multipliers": (1, 2), "blocks": 1, "attention": (1,), "head": 8, "embedding": 16}


def kinds(**more):
    """One configuration of every kind of network, by name; `more` are fields that all of them have."""
    return {
        "normed": adm.Config(**SMALL, style=Normed(), **more),
        "preserving": adm.Config(**SMALL, style=Preserving(), **more),
        "dit": dit.Config(width=16, depth=2, heads=2, **more),
        "rotary": dit.Config(width=16, depth=2, heads=2, rotary=True, **more),
    }


def awake(net: nn.Module, seed: int = 0) -> nn.Module:
    """The network with every parameter that starts at zero drawn at random."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in net.parameters():
        if not parameter.any():
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    return net
