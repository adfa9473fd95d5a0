"""Overlaps: for views that are windows, further views of what two or more of them see, learned from all their rows.

Region counting (`combine=bethe`, pipeline/diffusion/combine.py) needs the overlaps' own models. Their rows cost
nothing: every row of a view shows its overlaps, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.graph import Step
from pipeline.physics.views import Crop


@dataclass(frozen=True)
class Overlap:
    """A window and the numbers of the views that contain it."""

    map: Crop
    views: tuple[int, ...]

    def rows(self, maps: Sequence[Crop], data: Sequence[Step], cut: Callable[[Step, Crop], Step]) -> list[Step]:
        """The overlap's part of the rows of every view that shows it; `cut` sees a set through a window."""
        O = self.map
        return [
            cut(data[k], Crop(maps[k].out_shape, O.top - maps[k].top, O.left - maps[k].left, O.height, O.width))
            for k in self.views
        ]


def overlaps(maps: Sequence[object]) -> list[Overlap]:
    """The windows that are the intersection of two or more of the given ones and none of them, widest first.

    Raises ValueError when a view is no window (Crop) of the image.
    """
    if wrong := [type(A).__name__ for A in maps if not isinstance(A, Crop)]:
        raise ValueError(f"regions are counted of windows alone, and {wrong[0]} is none: leave out combine=bethe")
    windows = [A for A in maps if isinstance(A, Crop)]
    found = set(windows)
    while new := {C for A in found for B in found if (C := common(A, B)) is not None} - found:
        found |= new
    order = sorted(found - set(windows), key=lambda A: (-A.height * A.width, A.top, A.left))
    return [Overlap(A, tuple(k for k, B in enumerate(windows) if common(A, B) == A)) for A in order]


def common(A: Crop, B: Crop) -> Crop | None:
    """The window that both show, or None."""
    top, left = max(A.top, B.top), max(A.left, B.left)
    bottom, right = min(A.top + A.height, B.top + B.height), min(A.left + A.width, B.left + B.width)
    return Crop(A.shape, top, left, bottom - top, right - left) if top < bottom and left < right else None
