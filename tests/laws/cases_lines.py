"""Cases of what samples an image anew: bicubic pixels, Fourier lines, light patterns, padded Hadamard rows, letters."""

from __future__ import annotations

import torch

from pipeline.physics.bicubic import Bicubic
from pipeline.physics.corruption import Corruption, Through
from pipeline.physics.fourier import Fourier, FourierLines
from pipeline.physics.ghost import Buckets, Camera, Ghost, Rademacher, Speckle
from pipeline.physics.hadamard import Hadamard, HadamardRows
from pipeline.physics.lettering import Lettering
from pipeline.physics.linear import LinearMap, Shape

IMAGE, COLOUR, CLIP = (1, 8, 8), (3, 4, 6), (2, 3, 4, 4)

ALTERNATING = torch.where(torch.arange(30).reshape(2, 15) % 4 < 2, 1, -1)
TWO = torch.cos(torch.arange(1.0, 241, dtype=torch.float64) ** 2).reshape(2, 5, 24)

MAPS: dict[str, LinearMap] = {
    "bicubic": Bicubic(IMAGE, 2),
    "bicubic of a mirrored image": Bicubic(COLOUR, 2, mirror=True),
    "bicubic by 3": Bicubic((2, 6, 9), 3),
    "bicubic of a clip, all of it one pixel": Bicubic(CLIP, 4, mirror=True),
    "fourier lines": FourierLines(IMAGE, ((0, 1, 7),)),
    "the middle line alone": FourierLines(CLIP, ((2,),)),
    "every line": FourierLines((1, 3, 5), ((0, 1, 2),)),
    "fourier columns, other ones a row": FourierLines(COLOUR, ((0, 1, 5), (0, 2, 4), (1, 3, 5)), columns=True),
    "buckets, other ones a row": Buckets(COLOUR, TWO),
    "a camera": Camera(IMAGE, 20),
    "a camera of a clip": Camera(CLIP, 5, Speckle(), seed=3),
    "as many patterns as pixels": Camera((1, 6, 5), 30, orthonormal=False),
    "speckle that hides directions": Camera(IMAGE, 40, Speckle(3.0), orthonormal=False),
    "hadamard of 15 pixels": HadamardRows((1, 3, 5), ALTERNATING, torch.tensor([[0, 3, 15, 7], [8, 1, 2, 14]])),
    "hadamard of 15 pixels, most of it": HadamardRows((2, 3, 5), ALTERNATING[:1], torch.arange(15)[None] + 1),
}

CORRUPTIONS: dict[str, tuple[Corruption, Shape]] = {
    "bicubic": (Through(Bicubic(IMAGE, 2), noise=0.1), IMAGE),
    "fourier": (Fourier(2.0, noise=0.1), IMAGE),
    "fourier, every line": (Fourier(1.0, columns=True), COLOUR),
    "fourier columns of a clip": (Fourier(1.25, centre=0.75, columns=True), CLIP),
    "fixed lines": (Through(FourierLines(COLOUR, ((0, 1, 3),)), noise=0.1), COLOUR),
    "ghost": (Ghost(12, noise=0.1), COLOUR),
    "ghost with speckle": (Ghost(6, Speckle(2.0), orthonormal=False), IMAGE),
    "camera": (Through(Camera(CLIP, 5, Rademacher()), noise=0.1), CLIP),
    "hadamard of any size": (Hadamard(9, noise=0.1), COLOUR),
    "letters": (Lettering(noise=0.1), IMAGE),
    "letters in a clip": (Lettering(0.5, dilation=0), (1, 2, 9, 14)),
}
