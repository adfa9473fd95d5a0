"""Declared: the one operator that all images of a set were seen through before they arrived, as their owner says.

A picture v in [-1, 1] holds y = A x0 + noise as a viewer sees it; `Corruption.linear` takes it back to y. Numbers of y
that A fills with 0 whatever x0 is say nothing, and what a file has there is forgotten. What is drawn for each image
cannot be declared for all: only the rows themselves could tell it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from pipeline import config
from pipeline.data.damaged import HIDES, NOTHING, Known
from pipeline.keys import Key
from pipeline.physics.corruption import Corruption
from pipeline.physics.linear import Shape, shows

SEEN_THROUGH = "seen_through"  # where dataset.json keeps it


@dataclass(frozen=True)
class Declared(Known):
    """A corruption that draws nothing, and the shape of the rows that were seen through it.

    Raises ValueError where the one does not show images of the other.
    """

    corruption: Corruption
    shape: Shape

    def __post_init__(self) -> None:
        name = type(self.corruption).__name__
        if (shows := self.corruption.out_shape(self.whole)) != self.shape:
            raise ValueError(
                f"the images are {self.shape} and {name} shows {shows}: declare what they were seen through, in the "
                "size that they have"
            )
        if self.corruption.draw(self.whole, Key(0)):
            raise ValueError(
                f"{name} draws something for every image, which only the images' own rows can tell: give a mask beside "
                "each, or declare a corruption that is the same for all"
            )
        _ = self.seen, self.uint8

    @property
    def whole(self) -> Shape:
        """The shape of the images x0."""
        return self.corruption.in_shape(self.shape)

    @cached_property
    def seen(self) -> np.ndarray:
        """Which numbers of y depend on x0: bools of `shape`."""
        return shows(self.corruption.at({}, self.whole))[0].numpy()

    @cached_property
    def uint8(self) -> bool:
        v = torch.from_numpy(Key(0).fold("picture").numpy().uniform(-1, 1, (1, *self.shape)))
        return torch.equal(self.corruption.linear(v), v)

    def y(self, pixels: np.ndarray) -> np.ndarray:
        y, nothing = pixels, np.uint8(NOTHING)
        if not self.uint8:
            v = torch.from_numpy(pixels.astype(np.float32))[None] / 127.5 - 1
            y, nothing = self.corruption.linear(v)[0].numpy().astype(np.float16), np.float16(0)
        return np.where(self.seen, y, nothing)

    def told(self) -> dict[str, Any]:
        """What `declared` reads again, and whether anything is hidden."""
        hides = {} if self.seen.all() else {HIDES: True}
        return {SEEN_THROUGH: config.to_json(self.corruption, Corruption)} | hides


def declared(more: Mapping[str, Any], shape: Shape) -> Declared | None:
    """What `dataset.json` says that rows of this shape were seen through, None where it says nothing.

    Raises ValueError where that cannot be read, such as a corruption of somebody's own that is not here.
    """
    if SEEN_THROUGH not in more:
        return None
    return Declared(config.from_json(Corruption, more[SEEN_THROUGH], SEEN_THROUGH), shape)
