"""How large a network is and what it costs: parameters, and floating-point operations of one evaluation.

Counted on torch's meta device, where tensors have shapes and no contents: it takes no memory whatever the size. An
operation is one multiplication or one addition in a matrix product, a convolution or attention; the rest is left out,
as it is in published counts. A training step costs about three times the operations of an evaluation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from pipeline.backbones.backbone import Backbone


class Count(NamedTuple):
    """Of a network: its trainable parameters and the operations of one evaluation on one image of `shape`."""

    shape: tuple[int, ...]
    parameters: int
    flops: int

    def __str__(self) -> str:
        size = "x".join(map(str, self.shape))
        return f"{_short(self.parameters).rstrip()} parameters, {_short(self.flops)}FLOP per evaluation at {size}"


def count(backbone: Backbone, shape: tuple[int, ...], channels_in: int, channels_out: int) -> Count:
    """The size of the network that a backbone builds for data of `shape` (C, *)."""
    with torch.device("meta"), torch.no_grad():
        net = backbone.build(shape, channels_in, channels_out).eval().to("meta")  # buffers made by numpy, too
        with FlopCounterMode(display=False) as counter:
            net(torch.empty(1, channels_in, *shape[1:]), torch.empty(1))
    parameters = sum(p.numel() for p in net.parameters() if p.requires_grad)
    return Count(tuple(shape), parameters, counter.get_total_flops())


def networks(config: Any, path: str = "") -> Iterator[tuple[str, Count]]:
    """(path, count) of every network that a denoiser's configuration builds.

    A part of the configuration builds a network if it has a `backbone`, a `shape` (C, *) and `channels` (in, out).
    """
    if isinstance(config, tuple):
        for i, item in enumerate(config):
            yield from networks(item, f"{path}.{i}")
    elif dataclasses.is_dataclass(config):
        channels = getattr(config, "channels", None)
        backbone, shape = getattr(config, "backbone", None), getattr(config, "shape", None)
        if isinstance(backbone, Backbone) and shape is not None and channels is not None:
            yield path.removeprefix("."), count(backbone, tuple(shape), *channels)
        for field in dataclasses.fields(config):
            yield from networks(getattr(config, field.name), f"{path}.{field.name}")


def _short(number: int) -> str:
    for unit, size in (("T", 10**12), ("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number} "
