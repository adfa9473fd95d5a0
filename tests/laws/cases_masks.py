"""Cases of what is drawn per example: boxes, lines, windows of images and clips, watermarks, sensors and mixtures."""

from __future__ import annotations

import torch

from pipeline.physics.blackbox import BlackBox, Gamma
from pipeline.physics.boxes import Boxes, FixedBox, KeepPatch, Subtitle
from pipeline.physics.corruption import Clean, Corruption, Noisy, Through
from pipeline.physics.linear import Identity, LinearMap, Shape
from pipeline.physics.masks import BoxMask, FixedMask, LineMask, Masked, PixelMask
from pipeline.physics.mixture import Mixture, Routed
from pipeline.physics.sensors import Measured, Poisson, Quantised
from pipeline.physics.views import Pool
from pipeline.physics.visible import Visible
from pipeline.physics.watermark import Diagonal, Watermark
from pipeline.physics.windows import DroppedFrames, FrameRate, RandomCrop, Runs, ShortClip

IMAGE, COLOUR, CLIP = (1, 8, 8), (3, 4, 6), (2, 3, 4, 4)
LOGO = Watermark(
    alpha=((0.0, 0.25, 0.5), (0.875, 0.9, 1.0)),
    colour=(((1.0, 0.5, 0.0), (-1.0, 0.25, 1.0)),) * 3,
    left=1,
    dilation=0,
)
SEVENTY = Mixture(((0.7, Noisy(noise=0.59)), (0.2, PixelMask(0.5)), (0.1, Clean())))
CROPS = Mixture(((0.5, RandomCrop(4, 4)), (0.5, Through(Pool(IMAGE, 2)))))

MAPS: dict[str, LinearMap] = {
    "runs": Runs(COLOUR, 2, torch.tensor([2]), 3),
    "runs, another start a row": Runs(COLOUR, 1, torch.tensor([2, 0, 1]), 2),
    "runs of channels": Runs(COLOUR, 0, torch.tensor([1, 0]), 2),
    "diagonal": Diagonal(COLOUR, torch.linspace(-1, 1, 25)[:24].reshape(1, 1, 4, 6)),
    "diagonal, some hidden, one a row": Diagonal(COLOUR, (torch.arange(144.0) % 5).reshape(2, *COLOUR)),
    "visible": Visible(COLOUR, PixelMask(0.5), seed=3, draw=1),
    "visible beside a watermark": Visible(COLOUR, LOGO),
    "visible of each channel": Visible(COLOUR, PixelMask(0.4, per_channel=True)),
    "routed": Routed(
        (Identity(COLOUR), Masked(COLOUR, (torch.arange(144) % 3 > 0).reshape(2, *COLOUR))),
        (torch.tensor([3, 0]), torch.tensor([1, 2])),
    ),
    "routed crops and pools": Routed(
        (Pool(IMAGE, 2), Runs((1, 8, 4), 1, torch.tensor([1, 3]), 4) @ Runs(IMAGE, 2, torch.tensor([0, 4]), 4)),
        (torch.tensor([1]), torch.tensor([2, 0])),
    ),
}

CORRUPTIONS: dict[str, tuple[Corruption, Shape]] = {
    "boxes": (Boxes(3, 0.1, 0.5), COLOUR),
    "boxes in a clip": (Boxes(2, 0.25, 0.5, noise=0.1), CLIP),
    "fixed box": (FixedBox(1, 2, 2, 3, noise=0.1), COLOUR),
    "fixed mask": (FixedMask(("011010", "111111", "100001", "010101"), noise=0.1), COLOUR),
    "keep patch": (KeepPatch(0.3, 0.7, noise=0.1), COLOUR),
    "subtitle": (Subtitle(), IMAGE),
    "subtitle of a clip": (Subtitle(0.25, 0.5, noise=0.1), CLIP),
    "rows": (LineMask(0.5, noise=0.1), COLOUR),
    "columns of a clip": (LineMask(0.3, columns=True, noise=0.1), CLIP),
    "random crop": (RandomCrop(3, 5), IMAGE),
    "random crop of a clip": (RandomCrop(2, 4, noise=0.1), CLIP),
    "watermark": (LOGO, COLOUR),
    "short clip": (ShortClip(2), CLIP),
    "short clip from frame 1": (ShortClip(2, start=1, noise=0.1), CLIP),
    "low frame rate": (FrameRate(2, noise=0.1), CLIP),
    "dropped frames": (DroppedFrames(2), CLIP),
    "each frame pooled": (Through(Pool(CLIP, 2), noise=0.1), CLIP),
    "photons": (Measured(BoxMask(0.25, 0.75), Poisson(40.0), noise=0.05), COLOUR),
    "rounded": (Measured(RandomCrop(4, 4), Quantised(17)), IMAGE),
    "rounded at random": (Measured(Clean(), Quantised(9, dither=True)), IMAGE),
    "a filter that is linear": (BlackBox(Gamma(1.0), noise=0.1), COLOUR),
    "mixture": (SEVENTY, COLOUR),
    "mixture of crops": (CROPS, IMAGE),
    "mixture of sensors": (Mixture(((0.5, Measured(Clean(), Poisson(9.0))), (0.5, Subtitle()))), IMAGE),
}
