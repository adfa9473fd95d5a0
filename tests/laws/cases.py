"""One case or more for every concrete LinearMap and Corruption of `pipeline.physics`: small shapes, full range."""

from __future__ import annotations

from dataclasses import dataclass

import cases_lines
import cases_masks
import cases_spectral
import torch
from torch import Tensor

from pipeline.physics.corruption import Clean, Corruption, Noisy, Through
from pipeline.physics.linear import Identity, LinearMap, Shape, Stacked
from pipeline.physics.masks import BoxMask, Masked, PixelMask
from pipeline.physics.views import Channel, Crop, Frames, Pool

IMAGE, COLOUR, CLIP = (1, 8, 8), (3, 4, 6), (2, 3, 4, 4)


@dataclass(frozen=True)
class Blend(LinearMap):
    """A fixed 5 × 12 matrix of rank 3: no closed form of its own, hence the case for the default `pinv`."""

    in_shape: Shape = (3, 2, 2)
    out_shape: Shape = (5,)

    def matrix(self, like: Tensor) -> Tensor:
        i, j = torch.arange(1.0, 6, dtype=torch.float64), torch.arange(1.0, 13, dtype=torch.float64)
        terms = [torch.outer(torch.cos(k * i), torch.sin(k * j * j)) for k in (1, 2, 3)]
        return torch.stack(terms).sum(0).to(like)

    def __call__(self, x: Tensor) -> Tensor:
        self.check(x, self.in_shape)
        return x.flatten(1) @ self.matrix(x).T

    def adjoint(self, y: Tensor) -> Tensor:
        self.check(y, self.out_shape)
        return (y @ self.matrix(y)).reshape(-1, *self.in_shape)


@dataclass(frozen=True)
class Fading(LinearMap):
    """Thirty numbers times 1 down to 0.1: thirty singular values, so CG must converge, not just end."""

    in_shape: Shape = (30,)
    out_shape: Shape = (30,)

    def __call__(self, x: Tensor) -> Tensor:
        self.check(x, self.in_shape)
        return torch.linspace(1, 0.1, 30, dtype=torch.float64).to(x) * x

    def adjoint(self, y: Tensor) -> Tensor:
        return self(y)


def mask(shape: Shape, rows: int) -> Tensor:
    """A boolean mask (rows, *shape), about half of it True, another one in each row."""
    places = torch.arange(rows * torch.Size(shape).numel())
    return (places * places % 7 < 3).reshape(rows, *shape)


MAPS: dict[str, LinearMap] = (
    {
        "identity": Identity((3, 5)),
        "crop": Crop(IMAGE, 2, 1, 4, 5),
        "crop, all of it": Crop(COLOUR, 0, 0, 4, 6),
        "crop, corner of a clip": Crop(CLIP, 3, 3, 1, 1),
        "channel": Channel(COLOUR, (1,)),
        "channels out of order": Channel(COLOUR, (2, 0)),
        "frames": Frames(CLIP, (2, 0)),
        "pool": Pool(IMAGE, 2),
        "pool by 3": Pool((2, 6, 3), 3),
        "pool of a clip": Pool(CLIP, 4),
        "masked": Masked(COLOUR, mask(COLOUR, 1)),
        "masked, one mask a row": Masked(COLOUR, mask(COLOUR, 4)),
        "masked, channels together": Masked(COLOUR, mask((1, 4, 6), 2)),
        "masked, nothing seen": Masked((1, 2, 2), torch.zeros(1, 1, 2, 2, dtype=torch.bool)),
        "view of a view": Crop((1, 4, 4), 1, 0, 2, 3) @ Pool(IMAGE, 2),
        "masked view": Masked((1, 4, 4), mask((1, 4, 4), 3)) @ Pool(IMAGE, 2),
        "pooled masks": Pool(IMAGE, 2) @ Masked(IMAGE, mask(IMAGE, 2)),
        "overlapping views": Stacked((Crop(IMAGE, 0, 0, 8, 5), Crop(IMAGE, 0, 3, 8, 5), Pool(IMAGE, 2))),
        "stack with a mask a row": Stacked((Pool(IMAGE, 4), Masked(IMAGE, mask(IMAGE, 3)))),
        "plain mean": 0.5 * Pool(IMAGE, 2),
        "negative": -1 * Channel(COLOUR, (1,)),
        "rank 3": Blend(),
        "fading": Fading(),
        "rank 3 of a crop": Blend() @ Crop(COLOUR, 1, 2, 2, 2),
    }
    | cases_lines.MAPS
    | cases_masks.MAPS
    | cases_spectral.MAPS
)

CORRUPTIONS: dict[str, tuple[Corruption, Shape]] = (
    {
        "clean": (Clean(), IMAGE),
        "noisy": (Noisy(noise=0.2), IMAGE),
        "crop": (Through(Crop(COLOUR, 1, 2, 2, 3), noise=0.1), COLOUR),
        "pool": (Through(Pool(IMAGE, 2), noise=0.3), IMAGE),
        "pool by 3": (Through(Pool((1, 6, 9), 3)), (1, 6, 9)),
        "rank 3": (Through(Blend(), noise=0.1), (3, 2, 2)),
        "pixels": (PixelMask(0.6), COLOUR),
        "pixels of each channel": (PixelMask(0.3, per_channel=True, noise=0.1), (3, 5, 3)),
        "pixels of a clip": (PixelMask(0.5, noise=0.1), CLIP),
        "box": (BoxMask(0.25, 0.75, noise=0.1), COLOUR),
        "box in a clip": (BoxMask(0.0, 1.0), CLIP),
    }
    | cases_lines.CORRUPTIONS
    | cases_masks.CORRUPTIONS
    | cases_spectral.CORRUPTIONS
)
