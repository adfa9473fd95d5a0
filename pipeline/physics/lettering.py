"""Lettering: a line of text drawn over the lower part of an image, white with a black outline, as subtitles are.

What lies under the letters is lost, so A = diag(m) hides every pixel that a letter or its outline touches, and
`dilation` pixels around, where video codecs smear them. The text is made up of letters drawn by key and set in the font
that Pillow brings along; a row holds the mask itself, so that A is the same under any other version of that font.
"""

from __future__ import annotations

import bisect
import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from pipeline.keys import Key
from pipeline.physics.corruption import Corruption, Row, column
from pipeline.physics.linear import Shape
from pipeline.physics.masks import Masked
from pipeline.physics.views import require_axes

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont, ImageFont

LONGEST = 64
SMALLEST = 6


@dataclass(frozen=True)
class Lettering(Corruption):
    """Letters `size` of the image's height (6 pixels at least), as many as fit into a share of its width.

    The share is uniform in [narrow, wide], the text is centred, and its distance from the lower edge is uniform in
    [0, lift] of the height. Images are (C, *, H, W), of a clip every frame is written on alike. `corrupt` gives
    y = A x0; `over` draws what a viewer sees. A row holds the mask as packed bits, the text as bytes and, in pixels,
    the place of its first letter (top, left) and the size of the font.
    """

    size: float = 0.12
    narrow: float = 0.4
    wide: float = 0.9
    lift: float = 0.2
    dilation: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        shares = 0 < self.size <= 1 and 0 <= self.narrow <= self.wide <= 1 and 0 <= self.lift <= 1
        if not shares or self.dilation < 0:
            raise ValueError(
                "Lettering needs 0 < size <= 1, 0 <= narrow <= wide <= 1, 0 <= lift <= 1 and dilation >= 0, got "
                f"{self.size}, {self.narrow}, {self.wide}, {self.lift} and {self.dilation}."
            )

    def draw(self, shape: Shape, key: Key) -> Row:
        require_axes("Lettering", shape, 3, "(C, *, H, W)")
        H, W = shape[-2:]
        generator = key.numpy()
        share, lift = generator.uniform((self.narrow, 0), (self.wide, self.lift))
        size = max(round(self.size * H), SMALLEST)
        font, edge = _font(size), _outline(size)
        text = fitting(made_up(generator), font, share * W - 2 * edge)
        width, height = font.getbbox(text, anchor="lt")[2:]
        top = max(H - round(lift * H) - math.ceil(height) - edge, 0)
        place = np.array([top, max((W - math.ceil(width)) // 2, 0), size], np.int32)
        drawn, _ = written(text, place, (H, W))
        around = torch.nn.functional.max_pool2d(drawn[None], 2 * self.dilation + 1, stride=1, padding=self.dilation)[0]
        codes = np.frombuffer(text.encode().ljust(LONGEST, b"\0"), np.uint8)
        return {"mask": np.packbits((around == 0).numpy()), "text": codes.copy(), "place": place}

    def at(self, rows: Mapping[str, np.ndarray], shape: Shape) -> Masked:
        require_axes("Lettering", shape, 3, "(C, *, H, W)")
        H, W = shape[-2:]
        packed = column(rows, "mask", width=-(-H * W // 8)).astype(np.uint8, copy=False)
        seen = np.unpackbits(packed, axis=1, count=H * W).astype(bool)
        return Masked(shape, torch.from_numpy(seen).reshape(-1, *(1,) * (len(shape) - 2), H, W))

    def over(self, x0: Tensor, rows: Mapping[str, np.ndarray]) -> Tensor:
        """What a viewer sees of images x0 (B, C, *, H, W); A takes it to y = A x0, for letters are drawn where A hides.

        Raises ValueError when the rows are not B.
        """
        shape = tuple(x0.shape[1:])
        A = self.at(rows, shape)
        if len(x0) != A.rows:
            raise ValueError(f"Lettering.over needs one row for each image, got {A.rows} rows and {len(x0)} images.")
        seen = []
        codes, places = column(rows, "text", width=LONGEST), column(rows, "place", width=3)
        for x, text, place in zip(x0, codes, places, strict=True):
            drawn, filled = written(text.astype(np.uint8).tobytes().rstrip(b"\0").decode(), place, shape[-2:])
            outlined = x - drawn.to(x) * (x + 1)
            seen.append(outlined + filled.to(x) * (1 - outlined))
        return torch.where(A.mask.to(x0.device), x0, torch.stack(seen))


def made_up(generator: np.random.Generator) -> str:
    """Words of 2 to 8 lower-case letters, the first one with a capital: LONGEST characters."""
    letters = (generator.integers(ord("a"), ord("z"), LONGEST, endpoint=True)).astype(np.uint8)
    ends = np.cumsum(generator.integers(2, 8, LONGEST, endpoint=True) + 1) - 1
    letters[ends[ends < LONGEST]] = ord(" ")
    return letters.tobytes().decode().capitalize()


def fitting(text: str, font: FreeTypeFont | ImageFont, width: float) -> str:
    """The longest beginning of the text that `font` sets in `width` pixels: one letter at least, and no space last."""
    count = bisect.bisect_right(range(1, len(text) + 1), width, key=lambda n: font.getbbox(text[:n], anchor="lt")[2])
    return text[: max(count, 1)].rstrip()


def written(text: str, place: np.ndarray, size: Shape) -> tuple[Tensor, Tensor]:
    """How much of each pixel the letters with their outline cover, and the letters alone: two (1, H, W) in [0, 1]."""
    from PIL import Image, ImageDraw

    top, left, pixels = map(int, place)
    covers = []
    for edge in (_outline(pixels), 0):
        canvas = Image.new("L", (size[1], size[0]))
        ImageDraw.Draw(canvas).text((left, top), text, fill=255, font=_font(pixels), anchor="lt", stroke_width=edge)
        covers.append(torch.from_numpy(np.array(canvas))[None].float() / 255)
    return covers[0], covers[1]


def _outline(pixels: int) -> int:
    return max(round(pixels / 12), 1)


@functools.lru_cache(maxsize=16)
def _font(pixels: int) -> FreeTypeFont | ImageFont:
    from PIL import ImageFont

    return ImageFont.load_default(pixels)
