"""Where, how wide and how fast a step runs: nothing that says what it makes, so none of it bears identity.

As between one worker and four, sums may be taken in another order, and dropout may hide other units.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """`workers` processes of `cpus` cores and `gpus` devices each; the rest is heeded by steps that train.

    `micro` halves by itself where memory does not suffice. Tensor cores prefer channels last. Networks that cannot be
    compiled run as they are, with a warning. Checkpointing computes activations again in the backward pass instead of
    keeping them.

    Args:
        workers: processes.
        cpus: cores of each.
        gpus: devices of each.
        micro: images that a device takes at once.
        channels_last: weights lie channels last.
        compile: compile the networks.
        checkpointing: less memory, more time.
        deterministic: repeat to the bit; slower.
    """

    workers: int = 1
    cpus: float = 1
    gpus: float = 0
    micro: int | None = None
    channels_last: bool = False
    compile: bool = False
    checkpointing: bool = False
    deterministic: bool = False

    def __post_init__(self) -> None:
        if self.workers < 1 or not 0 < self.cpus < math.inf or not 0 <= self.gpus < math.inf:
            raise ValueError(f"{self.workers} workers of {self.cpus:g} CPUs and {self.gpus:g} GPUs: give at least one")
        if self.micro is not None and self.micro < 1:
            raise ValueError(f"micro is {self.micro}: give at least 1 image, or leave it out")

    @property
    def total(self) -> tuple[float, float]:
        """(cores, devices) that all workers take together."""
        return self.workers * self.cpus, self.workers * self.gpus
