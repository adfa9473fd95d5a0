"""Views of a recipe: how the rows of each are made and learned from, and at which operators its model is asked.

A view is one linear map for all rows, perhaps with noise, or a corruption that draws a mask or a window for every row.
Of the latter one network learns, which is told of each row what it shows (pipeline/diffusion/told.py); it is then asked
at several operators, each of them a part of the combination, and all of them such as the rows were drawn with.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline.backbones.backbone import Backbone
from pipeline.diffusion.levels import Levels
from pipeline.diffusion.sample import Grid
from pipeline.diffusion.telling import Masks, Telling, Windows
from pipeline.graph import Step
from pipeline.keys import Key
from pipeline.objectives.ambient import Ambient
from pipeline.physics.corruption import Corruption, Noisy, Through
from pipeline.physics.linear import Identity, LinearMap, unit
from pipeline.physics.views import Crop, Frames, Pool
from pipeline.physics.visible import Visible, hidden_by
from stages.ambient import Learned, TrainAmbient
from stages.told import TrainTold
from stages.train import Fit, Train, Trains

MASKS = 4  # at which a network that is told masks is asked, where nothing else is said
DRAWS = 512  # of a corruption, by which is known what is usual of it
FEW = 16  # of them, by which is known of which kind it is
RARE = 1e-6  # share of the levels beyond which training hardly ever looked


@dataclass(frozen=True)
class Named:
    """A view under its name.

    Args:
        name: of the view.
        map: an operator with A Aᵀ = c I, taken as A / √c, or a corruption: `Through` or `Noisy` with noise, masks,
            holes, a known watermark, or windows and clips at random places.
        at: of masks and windows, the operators at which the model is asked; a choice of our own if none are given.
        whole: of masks, the share of every batch that is full images with nothing hidden, above 0 to be asked so.
        data: where images are that arrived seen so (stages/arrived.py); if not given, full images are made so.
        count: how many of those to take; all if not given.
    """

    name: str
    map: LinearMap | Corruption
    at: tuple[LinearMap, ...] = ()
    whole: float = 0.0
    data: str = ""
    count: int | None = None

    def __post_init__(self) -> None:
        if self.count is not None and (self.count < 1 or not self.data):
            raise ValueError(f"count of view {self.name} is {self.count}: give 1 or more, of images that data names")
        if not 0 <= self.whole < 1:
            raise ValueError(f"whole of view {self.name} is {self.whole}: give a share of every batch within [0, 1)")
        if isinstance(self.map, LinearMap | Noisy | Through) and (self.at or self.whole):
            raise ValueError(f"view {self.name} is the same for all rows: at and whole are for masks and windows")

    @property
    def corruption(self) -> Corruption:
        """How its rows are seen. Raises ValueError: the view colours noise."""
        seen = Through(self.map) if isinstance(self.map, LinearMap) else self.map
        if not isinstance(seen, Through) or seen.map.orthonormal:
            return seen
        try:
            return Through(unit(seen.map), noise=seen.noise / math.sqrt(seen.map.isotropy or 1))
        except ValueError as error:
            raise ValueError(f"view {self.name} is none: {error}") from error

    @property
    def noise(self) -> float:
        """That of its rows."""
        return self.corruption.noise

    def fixed(self, shape: tuple[int, ...]) -> LinearMap | None:
        """The operator through which all rows were seen; None: each through its own, or through a mask."""
        seen = self.corruption
        if isinstance(seen, Noisy):
            return Identity(shape)
        return seen.map if isinstance(seen, Through) else None

    def plain(self, shape: tuple[int, ...]) -> LinearMap | None:
        """The same of rows without noise alone."""
        return None if self.noise else self.fixed(shape)

    def telling(self, shape: tuple[int, ...]) -> Telling:
        """How a network is told what each row of images of `shape` shows.

        Raises ValueError: it is neither masks nor windows, or there is noise.
        """
        corruption, name = self.corruption, type(self.corruption).__name__
        if not corruption.noiseless:
            raise ValueError(
                f"rows of view {self.name} have masks or places of their own, and noise: leave one of both"
            )
        A = _drawn(corruption, shape, 0)
        if hidden_by(A) is not None:
            if not corruption.hides(shape):
                raise ValueError(f"{name} hides nothing of view {self.name}, so that it is none: give masks or windows")
            drawn = [hidden_by(_drawn(corruption, shape, k)) for k in range(FEW)]
            masks = [seen for seen in drawn if seen is not None]
            if len(masks) < FEW:
                raise ValueError(f"{name} does more than to hide, in some rows of view {self.name}: give masks alone")
            return Masks(shape, all(bool((seen == seen[:, :1]).all()) for seen in masks))
        found = Windows(shape, tuple(A.out_shape[1:])) if len(A.out_shape) == len(shape) else None
        if found is None:
            raise ValueError(f"{name} neither hides nor cuts out, so that no network can be told of view {self.name}")
        for k in range(FEW):  # of a mixture the first may be a window and the next none
            found.code(_drawn(corruption, shape, k))
        if self.whole:
            raise ValueError(f"whole of view {self.name} is for masks: a window is never the whole image")
        return found

    def asked(self, shape: tuple[int, ...], seed: int) -> tuple[LinearMap, ...]:
        """The operators at which its told network is asked.

        Raises ValueError: one of `at` is not like what its rows were drawn with.
        """
        how, corruption = self.telling(shape), self.corruption
        if not self.at:
            if isinstance(how, Windows):
                return self._covering(how)
            if self.whole:
                return (Identity(shape),)
            drawn = bool(corruption.draw(shape, Key(0)))
            return tuple(Visible(shape, corruption, seed, k) for k in range(MASKS if drawn else 1))
        for A in self.at:
            if tuple(A.in_shape) != shape or not A.orthonormal:
                raise ValueError(f"view {self.name} is asked at a {type(A).__name__} that is no view of images {shape}")
            code = how.code(A)
            if not (self.whole and bool(code.all())) and not usual(code, codes(how, corruption)):
                also = "" if isinstance(how, Windows) else ", or give whole above 0 to ask it so"
                raise ValueError(
                    f"view {self.name} is asked at a {type(A).__name__} unlike all of {DRAWS} draws of "
                    f"{type(corruption).__name__}, and of what no row showed its network only guesses: ask at an "
                    f"operator that it draws{also}"
                )
        return self.at

    def _covering(self, how: Windows) -> tuple[LinearMap, ...]:
        """Windows as drawn, from the first place to the last, which cover all between; neighbours share a quarter."""
        found = codes(how, self.corruption)
        places = []
        for low, high, side in zip(found.amin(0).tolist(), found.amax(0).tolist(), how.sides):
            steps = math.ceil((high - low) / max(1, 3 * side // 4))
            places.append([round(low + (high - low) * i / max(1, steps)) for i in range(steps + 1)])
        return tuple(_window(how, corner) for corner in itertools.product(*places))


class Part(NamedTuple):
    """An operator of a combination, its name, the stage that trains its model, and the σ from which that is heard."""

    name: str
    map: LinearMap
    stage: Trains
    least: float = 0.0


def parts(
    view: Named, rows: Step, full: Step, shape: tuple[int, ...], backbone: Backbone, fit: Fit, seed: int
) -> list[Part]:
    """What a view brings to a combination: parts of one and the same stage, which learns from `rows`.

    `full` are the whole images, of `shape`, of which a view of masks with `whole` takes some.
    """
    A = view.fixed(shape)
    if A is not None and tuple(A.in_shape) != tuple(shape):
        raise ValueError(f"view {view.name} is of images {tuple(A.in_shape)}, and these are {tuple(shape)}: change one")
    if A is None:
        maps, whole = view.asked(shape, seed), full if view.whole else None
        share = view.whole or TrainTold.share
        told = TrainTold(rows, view.corruption, view.telling(shape), whole, share, backbone, fit, seed)
        return [Part(view.name if len(maps) == 1 else f"{view.name} {k}", B, told) for k, B in enumerate(maps)]
    if view.noise:
        noisy = TrainAmbient((Learned(rows, view.noise),), backbone, fit, seed)
        return [Part(view.name, A, noisy, noisy.objective.least(view.noise))]
    return [Part(view.name, A, Train(rows, backbone, fit, seed))]


def codes(how: Telling, corruption: Corruption) -> Tensor:
    """The codes (DRAWS, *) of draws of a corruption."""
    return torch.cat([how.code(_drawn(corruption, how.shape, k)) for k in range(DRAWS)])


def usual(code: Tensor, drawn: Tensor) -> bool:
    """Whether a code (1, *) is like drawn ones (N, *), as far as those tell.

    Its numbers add up to no less and no more than theirs do, and it is no further from the nearest of them than they
    are from one another; of places, it lies among theirs.
    """
    if code.dtype != torch.bool:
        return bool(((drawn.amin(0) <= code[0]) & (code[0] <= drawn.amax(0))).all())
    a, b = code.flatten(1).float(), drawn.flatten(1).float()
    if not b.sum(1).min() <= a.sum() <= b.sum(1).max():
        return False
    apart = _differ(b, b).fill_diagonal_(math.inf).amin(1).max()
    return bool(_differ(a, b).min() <= apart)


def require_levels(name: str, levels: Levels, schedule: Grid) -> None:
    """Raises ValueError: training at these noise levels leaves out some at which images will be drawn."""
    ends = levels.quantile(torch.tensor([RARE, 1 - RARE], dtype=torch.float64)).exp().tolist()
    if ends[0] > 1.01 * schedule.sigma_min or ends[1] < schedule.sigma_max / 1.01:
        raise ValueError(
            f"{name}.levels are from {ends[0]:.3g} to {ends[1]:.3g} and images are drawn from σ = "
            f"{schedule.sigma_max:g} down to {schedule.sigma_min:g}: draw levels that cover these"
        )


def require_heard(view: Named, schedule: Grid) -> None:
    """Raises ValueError: rows are so noisy that no level at which images are drawn is above their noise."""
    if view.noise and Ambient().least(view.noise) >= schedule.sigma_max:
        raise ValueError(
            f"the rows of view {view.name} have noise of {view.noise:g} where A Aᵀ is I, and images are drawn from σ = "
            f"{schedule.sigma_max:g}, so that it would have no say: pixels are in [-1, 1], so state less noise"
        )


def default_views(shape: tuple[int, ...]) -> tuple[Named, ...]:
    """Two crops of the full height that overlap by a quarter of the width, and every 2x2 block averaged.

    Of clips the first and the last frames in place of crops. Raises: ValueError: a side is not a multiple of 2, or
    under 4.
    """
    height, width = shape[-2:]
    if height % 2 or width % 2 or min(height, width) < 4:
        raise ValueError(f"images of {height}x{width} have no default views: give --size with an even number from 4")
    if len(shape) == 4:
        frames = shape[1]
        if frames < 2:
            raise ValueError("clips of a single frame have no default views: give --frames from 2")
        long = min(frames - 1, frames // 2 + max(1, frames // 8))
        early, late = tuple(range(long)), tuple(range(frames - long, frames))
        return Named("early", Frames(shape, early)), Named("late", Frames(shape, late)), Named("pooled", Pool(shape, 2))
    wide = width // 2 + max(1, width // 8)
    return (
        Named("left", Crop(shape, 0, 0, height, wide)),
        Named("right", Crop(shape, 0, width - wide, height, wide)),
        Named("pooled", Pool(shape, 2)),
    )


def _differ(a: Tensor, b: Tensor) -> Tensor:
    """In how many places rows of zeros and ones differ: (N, n) and (M, n) to (N, M)."""
    return a.sum(1)[:, None] + b.sum(1) - 2 * a @ b.T


def _drawn(corruption: Corruption, shape: tuple[int, ...], k: int) -> LinearMap:
    row = corruption.draw(shape, Key(0).fold("usual", k))
    return corruption.at({name: np.asarray(value)[None] for name, value in row.items()}, shape)


def _window(how: Windows, corner: Sequence[int]) -> LinearMap:
    """The view of a window: of images a `Crop`, of clips `Frames` where no pixel is cut away."""
    shape, sides = how.shape, how.sides
    frames = tuple(range(corner[0], corner[0] + sides[0])) if len(shape) == 4 else ()
    inner = shape if not frames or len(frames) == shape[1] else Frames(shape, frames).out_shape
    crop = Crop(inner, corner[-2], corner[-1], sides[-2], sides[-1])
    if inner == shape:
        return crop
    return Frames(shape, frames) if crop.out_shape == inner else crop @ Frames(shape, frames)
