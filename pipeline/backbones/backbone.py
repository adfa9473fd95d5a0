"""What a backbone is: a configuration that builds a network from (c_in x, c_noise, condition) to F."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import nn


class Backbone(ABC):
    """A frozen dataclass of sizes; a new architecture is a subclass in a file of its own."""

    @staticmethod
    def __named__() -> Mapping[str, Backbone]:
        """Those that a configuration may call by name."""
        from pipeline.backbones.presets import Preset

        return {preset.name: preset.value for preset in Preset}

    @abstractmethod
    def build(self, shape: tuple[int, ...], channels_in: int, channels_out: int) -> nn.Module:
        """A module called as net(x (B, channels_in, *shape[1:]), c_noise (B,), cond) -> (B, channels_out, *shape[1:]).

        `shape` is that of one image, (C, *). `cond` is None, labels (B,) with −1 for none, or embeddings (B, E) with
        zeros for none (see condition.py); a network without a condition is given None. Inputs have about unit variance,
        and so has what the output should match.
        """
