"""Damaged: rows that the world harmed before they arrived; what is known of it is checked and kept, nothing is added.

Such an image is y = m ⊙ x0 + σ z with a mask m in {0, 1} (1 = seen) and σ > 0 in units of [-1, 1] images, which is
twice the standard deviation of pixels scaled to [0, 1]. Seen pixels are taken as they are and hidden ones forgotten,
whatever a file has there: a set keeps nothing that was not observed. Resizing would mix hidden with seen ones and
change σ, turning would part the image from its mask, and making grey would average noise away.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from pipeline.data.images import BadImage, Header, decode, header
from pipeline.data.listing import shown

NAMES = ("mask", "sigma")
EMBEDDING = "embedding"  # the operator column of what is told of an image in numbers
NO_MAP = {"sigma", EMBEDDING}  # operator columns that say nothing of which operator a row was seen through
HIDES, NOISY = "hides", "noisy"  # what dataset.json says of rows of which something is hidden, or measured with noise
OPERATOR = "operator"  # what is said to be known where one operator is declared for the whole set
NOTHING = 128  # what 8-bit pixels have where nothing was seen: x = 0, as near as they come


class Known(ABC):
    """What all images of a set went through before they arrived: `declared.Declared` says what.

    This much of it knows no torch, which an ingest without it does not need and which takes thrice its memory.
    """

    shape: tuple[int, ...]

    @property
    @abstractmethod
    def uint8(self) -> bool:
        """Whether y is what the pictures have, so that 8 bits keep it."""

    @abstractmethod
    def y(self, pixels: np.ndarray) -> np.ndarray:
        """What the 8-bit picture (C, *, H, W) of `shape` says of A x0: in 8 bits as well, or in float16."""

    @abstractmethod
    def told(self) -> dict[str, Any]:
        """What `dataset.json` says of it."""


def operator_row(
    damage: dict[str, Any], head: Header, shape: tuple[int, ...], name: str, declared: bool = False
) -> dict[str, np.ndarray | np.generic]:
    """The operator columns of one row of `shape` (C, *, H, W), from `Raw.damage` and the header of the image.

    "mask" is packed bits of (1, *, H, W), True where seen, as `PixelMask` keeps it; "sigma" a float32. `declared` says
    that the whole set was seen through a known operator, which leaves no room for masks.

    Raises BadImage where a row's mask or sigma cannot be right, ValueError where the image was to be changed.
    """
    if not (damage or declared):
        return {}
    if head.size != shape[-2:] or head.turned:
        turned = ", to be turned" if head.turned else ""
        raise ValueError(
            f"{name} was damaged before it arrived and is {head.size[0]}x{head.size[1]} pixels{turned}, where "
            f"{shape[-2]}x{shape[-1]} were asked for: resizing or turning would falsify what is known of it, so ask "
            "for the size that it has and store it upright."
        )
    if declared and "mask" in damage:
        raise ValueError(f"{name} has a mask, and an operator is declared for the whole set: keep one of the two.")
    if head.mode == "RGB" and shape[0] == 1:
        raise ValueError(f"{name} was damaged in colour; grey would change its noise, so take it in colour.")
    row: dict[str, np.ndarray | np.generic] = {}
    if "mask" in damage:
        seen = _seen(damage["mask"], f"the mask of {name}", head.size)
        if not seen.any():
            raise BadImage(f"The mask of {name} hides every pixel; seen pixels are True, or white in a picture.")
        row["mask"] = np.packbits(np.broadcast_to(seen, (1, *shape[1:])))
    if "sigma" in damage:
        row["sigma"] = np.float32(_sigma(damage["sigma"], name))
    return row


def observed(pixels: np.ndarray, row: dict[str, np.ndarray | np.generic]) -> np.ndarray:
    """The 8-bit image (C, *, H, W) without what the operator columns of its row say was not seen."""
    if "mask" not in row:
        return pixels
    seen = np.unpackbits(np.asarray(row["mask"], np.uint8), count=pixels[0].size).reshape(1, *pixels.shape[1:])
    return np.where(seen, pixels, np.uint8(NOTHING))


def _sigma(value: Any, name: str) -> float:
    number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    if not (number and math.isfinite(value) and np.float32(value) > 0):
        raise BadImage(f"{name} has sigma {shown(str(value))}; give a finite number above 0, or a set without sigma.")
    return float(value)


def _seen(mask: Any, name: str, size: tuple[int, ...]) -> np.ndarray:
    """The bools (H, W) of an encoded image (bright = seen) or of an array or nested list (true or not 0 = seen).

    (T, H, W) of T of them, one for each frame of a clip.
    """
    if isinstance(mask, tuple):
        return np.stack([_seen(one, f"frame {t} of {name}", size) for t, one in enumerate(mask)])
    name = f"{name[0].upper()}{name[1:]}"
    if mask is None:
        raise BadImage(f"{name} is missing; give every row one, or none.")
    if isinstance(mask, bytes):
        head = header(mask, name)
        if head.turned:
            raise BadImage(f"{name} is to be turned by its EXIF tag; save it upright.")
        shape, seen = head.size, None  # not decoded before its size is known to be right
    else:
        try:
            array = np.asarray(mask)
        except ValueError:  # a list of lists of several lengths
            array = np.empty(0, object)
        if array.ndim != 2 or array.dtype.kind not in "biu" or (array.dtype.kind == "i" and (array < 0).any()):
            raise BadImage(f"{name} is no array (height, width) of bools.")
        shape, seen = array.shape, array != 0
    if shape != size:
        here, there = ("x".join(map(str, sides)) for sides in (shape, size))
        raise BadImage(f"{name} is {here} where the image is {there}.")
    return decode(mask, name, "L")[0] >= 128 if seen is None else seen
