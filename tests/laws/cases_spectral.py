"""Cases of what is diagonal in some basis: blurs, luminance, Hadamard measurements."""

from __future__ import annotations

import torch

from pipeline.physics.blur import GaussianBlur, MotionBlur
from pipeline.physics.corruption import Corruption, Through
from pipeline.physics.hadamard import Hadamard, HadamardRows
from pipeline.physics.linear import LinearMap, Shape
from pipeline.physics.luminance import Luminance

IMAGE, COLOUR, CLIP = (1, 8, 8), (3, 4, 6), (2, 3, 4, 4)

SIGNS = torch.where(torch.arange(48).reshape(3, 16) % 5 < 2, 1, -1)
PICKS = torch.stack([torch.tensor([0, 3, 7]), torch.tensor([15, 1, 2]), torch.tensor([4, 5, 6])])

MAPS: dict[str, LinearMap] = {
    "gaussian blur": GaussianBlur(IMAGE, 0.7),
    "gaussian blur that hides frequencies": GaussianBlur((1, 8, 9), 2.0),
    "no blur": GaussianBlur(COLOUR, 0.0),
    "slanted blur": GaussianBlur(COLOUR, 1.2, 0.3, angle=30.0),
    "blur of a clip": GaussianBlur(CLIP, 0.5, 1.0),
    "motion": MotionBlur(IMAGE, 3.0, angle=20.0),
    "motion over whole pixels": MotionBlur((1, 5, 8), 4.0),
    "luminance": Luminance(COLOUR),
    "hadamard": HadamardRows(CLIP, SIGNS[:1], PICKS[:1]),
    "hadamard, another one a row": HadamardRows((3, 2, 8), SIGNS, PICKS),
}

CORRUPTIONS: dict[str, tuple[Corruption, Shape]] = {
    "gaussian blur": (Through(GaussianBlur(IMAGE, 0.7), noise=0.1), IMAGE),
    "hadamard": (Hadamard(20, noise=0.1), IMAGE),
    "hadamard of colours": (Hadamard(5), (3, 4, 4)),
}
