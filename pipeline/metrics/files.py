"""Feature networks from files that the user names, with the images brought to what they expect.

    {is: pipeline.metrics.files.File, path: resnet20.pt}                    images in 0 .. 255, RGB, their own size
    {is: pipeline.metrics.files.Inception, path: inception-2015-12-05.pt}   as published for StyleGAN: it resizes itself
    {is: pipeline.metrics.files.DINOv2, path: dinov2_vitb14.pt}             224x224, ImageNet's mean and deviation

Only Inception's 2048 features of 50,000 samples against the whole training set are what papers call FID.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from pipeline.metrics.features import Extract, Features, Read
from pipeline.metrics.programs import is_onnx, onnx, torchscript

WEIGHTS = "network"
MOST_FEATURES = 1 << 12


@dataclass(frozen=True)
class File(Features):
    """A TorchScript or ONNX file, from images (B, `channels`, H, W) to features (B, n), or (B, n, 1, 1).

    Args:
        path: where the file lies.
        size: the side of the square that images are brought to, bilinear and antialiased; None: as they are.
        low: what becomes of black, −1 in this project.
        high: what becomes of white.
        mean: of each channel, taken off then.
        std: of each channel, divided by then.
        channels: how many it takes; grey images are repeated.
        output: which of its outputs are the features, where it has several.
        sha256: of its content; found when it is read.
    """

    path: str = ""
    size: int | None = None
    low: float = 0.0
    high: float = 255.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    channels: int = 3
    output: int = 0
    sha256: str = ""

    def __post_init__(self) -> None:
        if self.size is not None and self.size < 1:
            raise ValueError(f"size is {self.size}: give the side that images are brought to")
        if self.low == self.high or self.channels < 1 or self.output < 0:
            raise ValueError(f"low and high are {self.low}, channels {self.channels}, output {self.output}: see `File`")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values and len(values) != self.channels:
                raise ValueError(f"{name} has {len(values)} numbers: give one for each of {self.channels} channels")
        if 0 in self.std:
            raise ValueError("std has a zero, by which nothing can be divided")

    @property
    def card(self) -> dict[str, Any]:
        side = "none" if self.size is None else f"to {self.size}x{self.size}, bilinear, antialiased"
        kind = "" if type(self) is File else f", prepared for {type(self).__name__}"
        told = {"features": f"the network in a file{kind}", "sha256": self.sha256, "resize": side}
        told |= {"range": [self.low, self.high], "mean": list(self.mean), "std": list(self.std)}
        return told | {"channels": self.channels, "output": self.output}

    def open(self, read: Read, device: str | torch.device = "cpu") -> Extract:
        data = read(WEIGHTS)
        if hashlib.sha256(data).hexdigest() != self.sha256:
            raise ValueError("the feature network is not the one that was described: make the features again")
        name = "the feature network"
        run = onnx(data, name) if is_onnx(data, name) else torchscript(data, name, device)

        @torch.no_grad()
        def extract(x: Tensor) -> Tensor:
            prepared = self.prepared(x.to(device))
            try:
                found = run(prepared)
            except RuntimeError as error:
                why = [line for line in str(error).splitlines() if line.strip()]
                raise ValueError(
                    f"{name} does not take images {tuple(prepared.shape[1:])}: {(why or [''])[-1][:160]}; "
                    "say with size, channels, low and high what it expects"
                ) from error
            return self._features(found, len(x))

        return extract

    def prepared(self, x: Tensor) -> Tensor:
        """What the network is given for images (B, C, H, W) in [-1, 1]. Raises ValueError: it takes other channels."""
        if x.ndim != 4 or x.shape[1] not in (1, self.channels):
            raise ValueError(
                f"the feature network takes {self.channels} channels and these are images {tuple(x.shape[1:])}"
            )
        x = x.float().expand(-1, self.channels, -1, -1)
        if self.size is not None and tuple(x.shape[-2:]) != (self.size, self.size):
            x = interpolate(x, (self.size, self.size), mode="bilinear", antialias=True, align_corners=False)
        x = (x + 1) * ((self.high - self.low) / 2) + self.low
        mean, std = (x.new_tensor(values).reshape(-1, 1, 1) for values in (self.mean or (0.0,), self.std or (1.0,)))
        return (x - mean) / std

    def _features(self, found: Any, count: int) -> Tensor:
        if isinstance(found, tuple | list):
            if self.output >= len(found):
                raise ValueError(f"output is {self.output} and the feature network has {len(found)}: count from 0")
            found = found[self.output]
        if not isinstance(found, Tensor) or not found.is_floating_point() or found.ndim < 2 or len(found) != count:
            said = f"{found.dtype} {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(f"the feature network gives {said} for {count} images: it must give numbers (B, n)")
        if found.shape[2:].numel() > 1 or found.shape[1] > MOST_FEATURES:
            raise ValueError(
                f"the feature network gives {tuple(found.shape[1:])} numbers an image: give one that ends in a vector "
                f"of at most {MOST_FEATURES}"
            )
        return found.flatten(1).double().cpu()


@dataclass(frozen=True)
class Inception(File):
    """InceptionV3 of FID as StyleGAN's TorchScript file, which takes 0 .. 255 of any size and resizes as TF did."""


@dataclass(frozen=True)
class DINOv2(File):
    """A DINOv2 network exported by the user, its class token as features."""

    size: int | None = 224
    high: float = 1.0
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
