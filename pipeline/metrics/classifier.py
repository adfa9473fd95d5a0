"""A small classifier, trained on a set's own labels, whose last hidden layer is a feature space for that set.

Pixels say little of what an image shows, and Inception has seen no digits: where labels are at hand, what tells the
classes apart is a measure of this set. Its features are comparable with those of no other training, hence the hash.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pipeline.keys import Key
from pipeline.metrics.features import Extract, Features, Read

WEIGHTS = "weights.safetensors"
WIDEST = 1 << 10


@dataclass(frozen=True)
class Classifier(Features):
    """Four convolutions and a mean over the image: 4 · `width` features.

    Args:
        width: channels of the first convolution.
        images: how many are seen in training, in batches of `batch`, shifted by up to an eighth of a side.
        batch: images a step.
        rate: AdamW's, which falls to zero along half a cosine.
        seed: of the weights, the order and the shifts.
        shape: of an image; found from the data.
        classes: how many there are; found from the data.
        sha256: of the trained weights.
    """

    width: int = 32
    images: int = 60_000
    batch: int = 128
    rate: float = 2e-3
    seed: int = 0
    shape: tuple[int, ...] = ()
    classes: int = 0
    sha256: str = ""

    def __post_init__(self) -> None:
        if not 1 <= self.width <= WIDEST or self.images < 1 or self.batch < 1 or self.rate <= 0:
            raise ValueError(
                f"width is {self.width}, images {self.images}, batch {self.batch}, rate {self.rate}: give positive "
                "numbers"
            )

    @property
    def card(self) -> dict[str, Any]:
        told = {"features": "the last hidden layer of a classifier trained on this set's labels", "resize": "none"}
        return told | {"sha256": self.sha256, "classes": self.classes, "images_seen": self.images, "seed": self.seed}

    def build(self) -> Network:
        """The network, freshly drawn. Raises ValueError: there are no two classes, or the images are no images."""
        if self.classes < 2 or len(self.shape) != 3 or self.classes > 1 << 16:
            raise ValueError(
                f"there are {self.classes} classes of images {self.shape}: a classifier needs at least two"
            )
        torch.manual_seed(Key(self.seed).fold("classifier").integer())
        return Network(self.shape[0], self.width, self.classes)

    def train(self, batches: Iterator[tuple[Tensor, Tensor]], device: str | torch.device = "cpu") -> Network:
        """A network that has learned from batches of images (B, C, H, W) and labels (B,); batches never end.

        Raises ValueError: the loss is not finite.
        """
        network = self.build().to(device).train()
        optim = torch.optim.AdamW(network.parameters(), self.rate, weight_decay=0.05)
        steps = -(-self.images // self.batch)
        for step in range(steps):
            for group in optim.param_groups:
                group["lr"] = self.rate * 0.5 * (1 + math.cos(math.pi * step / steps))
            x, label = next(batches)
            x = _moved(x, Key(self.seed).fold("shift", step)).to(device)
            loss = cross_entropy(network(x)[1], label.to(device))
            optim.zero_grad(set_to_none=True)
            loss.backward()
            optim.step()
            if step == steps - 1 and not bool(loss.isfinite()):
                raise ValueError(f"the classifier's loss is {loss.item()}: lower its rate")
        return network.eval()

    def open(self, read: Read, device: str | torch.device = "cpu") -> Extract:
        import safetensors.torch

        data = read(WEIGHTS)
        if hashlib.sha256(data).hexdigest() != self.sha256:
            raise ValueError("the classifier's weights are not the ones that were described: make the features again")
        network = self.build()
        try:
            network.load_state_dict(safetensors.torch.load(data))
        except (safetensors.SafetensorError, RuntimeError) as error:
            raise ValueError(f"{WEIGHTS} does not fit the classifier: make the features again") from error
        network = network.to(device).eval()

        @torch.no_grad()
        def extract(x: Tensor) -> Tensor:
            if tuple(x.shape[1:]) != self.shape:
                raise ValueError(
                    f"the classifier learned images {self.shape}, these are {tuple(x.shape[1:])}: train anew"
                )
            return network(x.to(device))[0].double().cpu()

        return extract


class Network(nn.Module):
    """Images (B, C, H, W) in [-1, 1] to (features (B, 4 · width), logits (B, classes))."""

    def __init__(self, channels: int, width: int, classes: int):
        super().__init__()
        layers, taken = [], channels
        for given, stride in ((width, 1), (2 * width, 2), (4 * width, 2), (4 * width, 1)):
            layers += [nn.Conv2d(taken, given, 3, stride, 1, bias=False), nn.GroupNorm(1, given), nn.ReLU()]
            taken = given
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(taken, classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features and logits."""
        features = self.body(x).mean((2, 3))
        return features, self.head(features)


def _moved(x: Tensor, key: Key) -> Tensor:
    """Images (B, C, H, W), all by one shift of up to an eighth of a side; what comes in repeats the edge."""
    most = [side // 8 for side in x.shape[-2:]]
    down, right = (int(key.fold(i).numpy().integers(-m, m + 1)) for i, m in enumerate(most))
    rows = (torch.arange(x.shape[-2]) - down).clamp(0, x.shape[-2] - 1)
    columns = (torch.arange(x.shape[-1]) - right).clamp(0, x.shape[-1] - 1)
    return x[:, :, rows][:, :, :, columns]
