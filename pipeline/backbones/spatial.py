"""The same operations on signals, images and clips: data (B, C, *) with one, two or three spatial dimensions."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

Conv: tuple[Callable[..., nn.Module], ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_convolve = (functional.conv1d, functional.conv2d, functional.conv3d)


def dimensions(shape: tuple[int, ...]) -> int:
    """How many spatial dimensions data of `shape` (C, *) have. Raises ValueError unless 1 to 3, none of them empty."""
    if not 2 <= len(shape) <= 4 or min(shape) < 1:
        raise ValueError(f"the shape is {tuple(shape)}: give channels and one to three sides, such as (3, 32, 32)")
    return len(shape) - 1


def convolve(x: Tensor, weight: Tensor) -> Tensor:
    """Data x (B, I, *) by weight (O, I, *) with odd sides; zeros beyond the edge."""
    return _convolve[x.ndim - 3](x, weight, padding=[n // 2 for n in weight.shape[2:]])


def halved(x: Tensor) -> Tensor:
    """Means of every two neighbours along each axis; the last of an odd number stands alone."""
    # Of a clip first its pictures, then its frames: the gradient of avg_pool3d is not deterministic on a GPU.
    if x.ndim == 5:
        frames = _pooled(x.flatten(1, 2), 1, 1).unflatten(1, x.shape[1:3])
        return _pooled(frames.flatten(3), 1, 0).unflatten(3, frames.shape[3:])
    return _pooled(x, 1, 1) if x.ndim == 4 else _pooled(x[..., None], 1, 0)[..., 0]


def _pooled(x: Tensor, down: int, across: int) -> Tensor:
    """Means of two neighbours along the last axis but one, the last, or both, by 1 where that is wanted."""
    window = [min(1 + wanted, n) for wanted, n in zip((down, across), x.shape[2:])]
    return functional.avg_pool2d(x, window, ceil_mode=True, count_include_pad=False)


def enlarged(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """Each entry twice along each axis, cut to `size`."""
    return functional.interpolate(x, size=size, mode="nearest")


def located(x: Tensor) -> Tensor:
    """The same x with one more channel an axis: the place along it, from −√3 to √3, which has unit variance."""
    axes = [torch.linspace(-1, 1, n, device=x.device) if n > 1 else x.new_zeros(1) for n in x.shape[2:]]
    place = math.sqrt(3) * torch.stack(torch.meshgrid(*axes, indexing="ij"))
    return torch.cat([x, place.type_as(x).expand(x.shape[0], *place.shape)], 1)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Every place attends to every place: q, k, v and the result (B, heads, channels, *)."""
    a, b, c = (part.flatten(3).transpose(2, 3) for part in (q, k, v))
    return functional.scaled_dot_product_attention(a, b, c).transpose(2, 3).reshape(v.shape)
