"""Features: maps from images to vectors in which sets of images are compared, and what is said of them.

A number made with features is comparable with no number made with others: every card names them.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipeline import config

Extract = Callable[[Tensor], Tensor]
Read = Callable[[str], bytes]
DESCRIPTION = "features.json"


class TooFew(ValueError):
    """A number cannot be made of so few images."""


class Features(ABC):
    """A map from images (B, C, H, W) in [-1, 1] to features (B, n); a frozen dataclass that says what it is."""

    @property
    @abstractmethod
    def card(self) -> dict[str, Any]:
        """What must be said beside every number made with it: "features" in words, "resize", and hashes of weights."""

    @abstractmethod
    def open(self, read: Read, device: str | torch.device = "cpu") -> Extract:
        """The map, float64 out, from a function that gives the bytes of a file beside its description.

        Raises ValueError: the files are none of its own. The map raises ValueError for images that it does not take.
        """


@dataclass(frozen=True)
class Pixels(Features):
    """The pixels themselves, averaged down until no side is longer than `side`."""

    side: int = 8

    def __post_init__(self) -> None:
        if self.side < 1:
            raise ValueError(f"side is {self.side}: give at least one pixel")

    @property
    def card(self) -> dict[str, Any]:
        return {"features": "pixels", "resize": f"averaged to at most {self.side}x{self.side}"}

    def open(self, read: Read | None = None, device: str | torch.device = "cpu") -> Extract:
        return self

    def __call__(self, x: Tensor) -> Tensor:
        """(B, C · h · w) float64 with h, w ≤ side; of clips, those of every frame."""
        height, width = x.shape[-2:]
        size = (min(self.side, height), min(self.side, width))
        return torch.nn.functional.adaptive_avg_pool2d(x.double().flatten(1, -3), size).flatten(1)


def described(features: Features) -> str:
    """The text of `features.json`."""
    return json.dumps(config.to_json(features, Features), indent=1)


def undescribed(text: bytes) -> Features:
    """The features of `features.json`. Raises ValueError: it describes none."""
    try:
        return config.from_json(Features, json.loads(text), DESCRIPTION)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{DESCRIPTION} cannot be read ({error}): make the features again") from error


def finite(features: Tensor, ids: Sequence[str], card: dict[str, Any]) -> Tensor:
    """The features (B, n) of images with these ids. Raises ValueError: one has a number that is not finite."""
    wrong = (~features.isfinite().all(1)).nonzero()[:, 0].tolist()
    if wrong:
        raise ValueError(
            f"the features of image {ids[wrong[0]]!r} are not finite numbers: {card['features']} cannot judge it"
        )
    return features
