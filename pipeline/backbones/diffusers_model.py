"""A network of the package diffusers as a backbone: `UNet2DModel`, `DiTTransformer2DModel` and others of their kind.

The noise level becomes the time step that such networks expect: σ from 0.002 to 80 is 0 to 1000, evenly in ln σ. Labels
go in as `class_labels`, with one class more for none, and an embedding as a text of one token. What is called with an
image, a time step and no more than these is taken (U-Nets of images, DiT, PixArt, Sana), if it works when it is tried,
once, as it is built; what needs further inputs or is for clips or sounds (SD3, Flux, UNet1DModel) is refused. Sides are
padded with zeros to what the network divides them by. Weights carry diffusers' names, below `model.`.
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

        Raises ValueError: diffusers is not installed, has no such network, refuses the options, it is no image, or the
        network does not make images of images.
        """
        if len(shape) != 3:
            raise ValueError(f"{self.model} is for images (C, H, W), not {tuple(shape)}: use adm or dit for others")
        return Borrowed(self, shape[1:], channels_in, channels_out)


class Borrowed(nn.Module):
    """net(x (B, channels_in, H, W), c_noise (B,), cond) -> (B, channels_out, H, W)."""

    def __init__(self, config: Config, size: tuple[int, ...], channels_in: int, channels_out: int) -> None:
        super().__init__()
        kind = find(config.model)
        takes = inspect.signature(kind.__init__).parameters
        classes = config.condition.classes if isinstance(config.condition, Labels) else 0
        told = config.condition.size if isinstance(config.condition, Embedded) else None
        filled: dict[str, Any] = {"in_channels": channels_in, "out_channels": channels_out}
        # A DiT of diffusers counts the class for none itself, a U-Net does not, and a DiT cannot do without classes.
        filled |= {"num_class_embeds": classes + 1 if classes else None, "num_embeds_ada_norm": max(1, classes)}
        text = "caption_channels" if "caption_channels" in takes else "cross_attention_dim"
        filled |= {text: told} if told else {}
        own = {name: value for name, value in filled.items() if name in takes}
        unknown = [name for name in config.options if name not in takes or name in (*filled, "sample_size")]
        if unknown:
            raise ValueError(f"{config.model} has no option {unknown[0]} to be set here: leave it out")
        if (classes and not own.keys() & {"num_class_embeds", "num_embeds_ada_norm"}) or (told and text not in own):
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
        self.labelled = "class_labels" in words and bool(classes or self.tokens)
        if self.tokens:
            self.padded = (max(self.padded),) * 2  # transformers of diffusers take images to be square
        own |= {"sample_size": max(self.padded)} if "sample_size" in takes else {}
        self.config, self.classes = config, classes
        try:
            self.model = kind(**config.options, **own)
        except Exception as error:  # of whatever kind its own checks raise
            told_why = f"{config.model} cannot be built with options {dict(config.options)}"
            raise ValueError(f"{told_why}: {reason(error)}") from error
        self._try((channels_in, *size), (channels_out, *size))

    @torch.no_grad()
    def _try(self, given: tuple[int, ...], wanted: tuple[int, ...]) -> None:
        """Evaluate it once. Raises ValueError: it is no denoiser of such images, though it is called as one."""
        training, name = self.training, self.config.model
        like = next(self.model.parameters())
        try:
            found = tuple(self.eval()(like.new_zeros(1, *given), like.new_zeros(1)).shape[1:])
        except Exception as error:  # whatever an architecture for something else has to say
            raise ValueError(f"{name} does not take images {given} as a denoiser does: {reason(error)}") from error
        finally:
            self.train(training)
        if found != wanted:
            raise ValueError(f"{name} makes {found} of images {given} and not {wanted}: name another network")

    def forward(self, x: Tensor, c_noise: Tensor, cond: Tensor | None = None) -> Tensor:
        """F, of about unit variance once trained."""
        height, width = x.shape[2:]
        inside = functional.pad(x, (0, self.padded[1] - width, 0, self.padded[0] - height))
        time = 1000 * (4 * c_noise - LOW) / (HIGH - LOW)
        words: dict[str, Any] = {"hidden_states" if self.tokens else "sample": inside, "timestep": time}
        features(self.config.condition, cond, x)  # refuses what is no condition of this network
        if self.labelled:
            none = x.new_full(x.shape[:1], -1, dtype=torch.long)
            labels = none if cond is None else cond
            words["class_labels"] = torch.where(labels < 0, max(1, self.classes), labels)
        if isinstance(self.config.condition, Embedded):
            told = x.new_zeros(x.shape[0], self.config.condition.size) if cond is None else cond.to(x.dtype)
            words["encoder_hidden_states"] = (told * self.config.condition.scale)[:, None]
        return self.model(**words).sample[..., :height, :width]


def package(name: str) -> Any:
    """The package diffusers. Raises ValueError: it, and with it `name`, is not installed."""
    try:
        import diffusers  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{name} is a network of diffusers: install it with pip install 'kintsugi[diffusers]'"
        ) from error
    return diffusers


def find(name: str) -> type[nn.Module]:
    """The class of diffusers of this name. Raises: ValueError: there is none that is used as its image models are."""
    diffusers = package(name)
    found = getattr(diffusers, name, None) if name.isidentifier() else None
    if not (isinstance(found, type) and issubclass(found, nn.Module) and issubclass(found, diffusers.ModelMixin)):
        raise ValueError(f"diffusers {diffusers.__version__} has no network {name!r}: name one such as UNet2DModel")
    takes = inspect.signature(found.forward).parameters
    first = takes.keys() & {"sample", "hidden_states"}
    needed = {n for n, p in takes.items() if p.default is p.empty and p.kind is not p.VAR_KEYWORD} - {"self", *first}
    known = {"timestep", "class_labels", "encoder_hidden_states"}
    if not first or "timestep" not in takes or needed - known:
        raise ValueError(f"{name} is not called as a denoiser of images is: name one such as DiTTransformer2DModel")
    return found


def reason(error: Exception) -> str:
    """What another package has to say, as the end of a sentence."""
    return " ".join(str(error).split())[:300].rstrip(".").replace(". ", ": ") or type(error).__name__


def _multiple(takes: Mapping[str, inspect.Parameter], options: Mapping[str, Any]) -> int:
    """What the sides must be multiples of."""
    value = {name: options.get(name, parameter.default) for name, parameter in takes.items()}
    if "patch_size" in value:
        sides = value["patch_size"] or 1
        return max(1, *map(int, sides if isinstance(sides, tuple | list) else (sides,)))
    return 2 ** (len(value.get("down_block_types", ())) - 1)
