"""A network of the package diffusers as a backbone: `UNet2DModel`, `DiTTransformer2DModel` and others of their kind.

The noise level becomes the time step that such networks expect: σ from 0.002 to 80 is 0 to 1000, evenly in ln σ. Labels
go in as `class_labels`, with one class more for none, and an embedding as a text of one token. Sides are padded with
zeros to what the network divides them by. Weights carry the names that diffusers gives them, below `model.`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.backbones.backbone import Backbone
from pipeline.backbones.condition import Condition, Embedded, Labels, features

LOW, HIGH = math.log(0.002), math.log(80.0)


@dataclass(frozen=True)
class Config(Backbone):
    """`model` names a class of diffusers, `options` its arguments; channels, size and classes are filled in."""

    model: str = "UNet2DModel"
    options: Mapping[str, Any] = field(default_factory=dict)
    condition: Condition | None = None

    def build(self, shape: tuple[int, ...], channels_in: int, channels_out: int) -> Borrowed:
        """The network for images (C, H, W).

        Raises ValueError: diffusers is not installed, has no such network, refuses the options, or it is no image.
        """
        if len(shape) != 3:
            raise ValueError(f"{self.model} is for images (C, H, W), not {tuple(shape)}: use adm or dit for others")
        return Borrowed(self, shape[1:], channels_in, channels_out)


class Borrowed(nn.Module):
    """net(x (B, channels_in, H, W), c_noise (B,), cond) -> (B, channels_out, H, W)."""

    def __init__(self, config: Config, size: tuple[int, ...], channels_in: int, channels_out: int) -> None:
        super().__init__()
        kind = _find(config.model)
        takes = inspect.signature(kind.__init__).parameters
        classes = config.condition.classes if isinstance(config.condition, Labels) else 0
        told = config.condition.size if isinstance(config.condition, Embedded) else None
        filled: dict[str, Any] = {"in_channels": channels_in, "out_channels": channels_out}
        # A DiT of diffusers counts the class for none itself, a U-Net does not, and a DiT cannot do without classes.
        filled |= {"num_class_embeds": classes + 1 if classes else None, "num_embeds_ada_norm": max(1, classes)}
        filled |= {"cross_attention_dim": told} if told else {}
        own = {name: value for name, value in filled.items() if name in takes}
        unknown = [name for name in config.options if name not in takes or name in (*filled, "sample_size")]
        if unknown:
            raise ValueError(f"{config.model} has no option {unknown[0]} to be set here: leave it out")
        if (classes and not own.keys() & {"num_class_embeds", "num_embeds_ada_norm"}) or (
            told and "cross_attention_dim" not in own
        ):
            raise ValueError(f"{config.model} takes no such condition as {config.condition}: give it another, or none")
        words = inspect.signature(kind.forward).parameters
        if (
            told is None
            and "encoder_hidden_states" in words
            and words["encoder_hidden_states"].default is inspect.Parameter.empty
        ):
            raise ValueError(f"{config.model} is of no use without a text: give it a condition of kind Embedded")
        step = _multiple(takes, config.options)
        self.padded = tuple(-(-n // step) * step for n in size)
        self.tokens = "hidden_states" in words
        if self.tokens:
            self.padded = (max(self.padded),) * 2  # transformers of diffusers take images to be square
        own["sample_size"] = max(self.padded)
        self.config, self.classes = config, classes
        try:
            self.model = kind(**config.options, **own)
        except (ValueError, TypeError, AttributeError, IndexError, ArithmeticError) as error:
            reason = " ".join(str(error).split()).rstrip(".").replace(". ", ": ")
            raise ValueError(f"{config.model} cannot be built with options {dict(config.options)}: {reason}") from error

    def forward(self, x: Tensor, c_noise: Tensor, cond: Tensor | None = None) -> Tensor:
        """F, of about unit variance once trained."""
        height, width = x.shape[2:]
        inside = functional.pad(x, (0, self.padded[1] - width, 0, self.padded[0] - height))
        time = 1000 * (4 * c_noise - LOW) / (HIGH - LOW)
        words: dict[str, Any] = {"hidden_states" if self.tokens else "sample": inside, "timestep": time}
        features(self.config.condition, cond, x)  # refuses what is no condition of this network
        if self.classes or self.tokens:
            none = x.new_full(x.shape[:1], -1, dtype=torch.long)
            labels = none if cond is None else cond
            words["class_labels"] = torch.where(labels < 0, max(1, self.classes), labels)
        elif isinstance(self.config.condition, Embedded):
            told = x.new_zeros(x.shape[0], self.config.condition.size) if cond is None else cond.to(x.dtype)
            words["encoder_hidden_states"] = told[:, None]
        return self.model(**words).sample[..., :height, :width]


def _find(name: str) -> type[nn.Module]:
    """The class of diffusers of this name. Raises: ValueError: there is none that is used as its image models are."""
    try:
        import diffusers  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{name} is a network of diffusers: install it with pip install 'kintsugi[diffusers]'"
        ) from error
    found = getattr(diffusers, name, None) if name.isidentifier() else None
    if not (isinstance(found, type) and issubclass(found, nn.Module) and issubclass(found, diffusers.ModelMixin)):
        raise ValueError(f"diffusers {diffusers.__version__} has no network {name!r}: name one such as UNet2DModel")
    takes = inspect.signature(found.forward).parameters
    first = takes.keys() & {"sample", "hidden_states"}
    needed = {n for n, p in takes.items() if p.default is p.empty and p.kind is not p.VAR_KEYWORD} - {"self", *first}
    known = {"timestep", "class_labels", "encoder_hidden_states"}
    if (
        not first
        or "timestep" not in takes
        or needed - known
        or ("hidden_states" in first and "class_labels" not in takes)
    ):
        raise ValueError(f"{name} is not called as a denoiser of images is: name one such as DiTTransformer2DModel")
    return found


def _multiple(takes: Mapping[str, inspect.Parameter], options: Mapping[str, Any]) -> int:
    """What the sides must be multiples of."""
    value = {name: options.get(name, parameter.default) for name, parameter in takes.items()}
    if "patch_size" in value:
        return max(1, int(value["patch_size"]))
    return 2 ** (len(value.get("down_block_types", ())) - 1)
