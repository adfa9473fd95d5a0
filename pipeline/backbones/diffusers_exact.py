"""A network of the package diffusers as somebody trained it: every option as its config.json has it, told a time step.

Where `diffusers_model` takes the architecture alone and fills in sizes and conditions, this keeps the whole, so that
weights from elsewhere fit. What needs more than an image and a time step (labels, texts) is refused.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.backbones.backbone import Backbone
from pipeline.backbones.diffusers_model import find, reason


@dataclass(frozen=True)
class Config(Backbone):
    """`model` names a class of diffusers, `options` are its arguments, all of them where a folder was read."""

    model: str = "UNet2DModel"
    options: Mapping[str, Any] = field(default_factory=dict)

    def build(self, shape: tuple[int, ...], channels_in: int, channels_out: int) -> Exact:
        """The network for images (C, H, W).

        Raises ValueError: diffusers is not installed, has no such network, refuses the options, or the network does not
        make such images of such images and a time step.
        """
        return Exact(self, (channels_in, *shape[1:]), (channels_out, *shape[1:]))


class Exact(nn.Module):
    """net(x (B, channels_in, H, W), time step (B,)) -> (B, channels_out, H, W)."""

    def __init__(self, config: Config, given: tuple[int, ...], wanted: tuple[int, ...]) -> None:
        super().__init__()
        kind = find(config.model)
        self.word = "sample" if "sample" in inspect.signature(kind.forward).parameters else "hidden_states"
        self.model = built(kind, config.options)
        if any(
            p.is_meta for p in self.model.parameters()
        ):  # where it costs nothing; of real weights it is known by then
            self._try(config.model, given, wanted)

    @torch.no_grad()
    def _try(self, name: str, given: tuple[int, ...], wanted: tuple[int, ...]) -> None:
        like = next(self.model.parameters())
        try:
            found = tuple(self(like.new_zeros(1, *given), like.new_zeros(1)).shape[1:])
        except Exception as error:  # whatever an architecture for something else has to say
            raise ValueError(
                f"{name} does not take images {given} and a time step alone: {reason(error)}; name a network that is "
                "told no labels and no texts"
            ) from error
        if found != wanted:
            raise ValueError(f"{name} makes {found} of images {given} and not {wanted}: name another network")

    def forward(self, x: Tensor, c_noise: Tensor, cond: Tensor | None = None) -> Tensor:
        """What the network predicts at a time step."""
        if cond is not None:
            raise ValueError("a network that was pretrained without conditions is told nothing: leave out cond")
        return self.model(**{self.word: x, "timestep": c_noise}).sample


def built(kind: type[nn.Module], options: Mapping[str, Any]) -> nn.Module:
    """A class of diffusers with these arguments. Raises ValueError: it refuses them."""
    takes = inspect.signature(kind.__init__).parameters
    if unknown := [name for name in options if name not in takes]:
        raise ValueError(f"{kind.__name__} of this diffusers has no option {unknown[0]!r:.60}: install a later one")
    try:
        return kind(**options)
    except Exception as error:  # of whatever kind its own checks raise
        raise ValueError(f"{kind.__name__} cannot be built as its options say: {reason(error)}") from error
