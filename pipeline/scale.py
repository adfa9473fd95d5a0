"""Where, how wide and how fast a step runs: nothing that says what it makes, so none of it bears identity.

As between one worker and four, sums may be taken in another order, and dropout may hide other units.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """`workers` processes of `cpus` cores and `gpus` devices each; the rest is heeded by steps that train.

    With `most`, a step that trains takes as many workers, from `workers` to `most`, as there is room for and can share
    a batch, and goes on with what is left when machines go. Where no step ends for `hang_after` seconds, or ten times
    the slowest, training starts again from its last checkpoint. `micro` halves by itself where memory does not suffice.
    Tensor cores prefer channels last. Networks that cannot be compiled run as they are, with a warning. Checkpointing
    computes activations again in the backward pass instead of keeping them. With `shard`, weights, gradients, moments
    and averages are divided among a step's workers, for networks of which a device cannot hold all that. Beside the
    checkpoints that a training has by images seen, one is written whenever the last is `save` seconds old; the newest
    `keep` are kept, as one of them may be found damaged.

    Args:
        workers: processes; with `most`, the fewest.
        cpus: cores of each.
        gpus: devices of each.
        micro: images that a device takes at once.
        channels_last: weights lie channels last.
        compile: compile networks and losses.
        checkpointing: less memory, more time.
        deterministic: repeat to the bit; slower.
        shard: tensors divided among workers.
        most: the most processes, to train with.
        hang_after: seconds without a step: begin again.
        save: seconds between checkpoints.
        keep: checkpoints that are kept.
    """

    workers: int = 1
    cpus: float = 1
    gpus: float = 0
    micro: int | None = None
    channels_last: bool = False
    compile: bool = False
    checkpointing: bool = False
    deterministic: bool = False
    shard: bool = False
    most: int | None = None
    hang_after: float = 600
    save: float = 300
    keep: int = 2

    def __post_init__(self) -> None:
        if self.workers < 1 or not 0 < self.cpus < math.inf or not 0 <= self.gpus < math.inf:
            raise ValueError(f"{self.workers} workers of {self.cpus:g} CPUs and {self.gpus:g} GPUs: give at least one")
        if self.gpus > 1 and self.gpus % 1:
            raise ValueError(f"gpus is {self.gpus:g}: give a part of one device, or whole ones (--scale.gpus)")
        if self.micro is not None and self.micro < 1:
            raise ValueError(f"micro is {self.micro}: give at least 1 image, or leave it out")
        if self.most is not None and self.most < self.workers:
            raise ValueError(f"most is {self.most}: give no fewer than the {self.workers} workers, or leave it out")
        if self.shard and self.channels_last:
            raise ValueError("shard cuts weights along an axis that channels_last would move: leave one of them out")
        if not self.save > 0 or self.keep < 1:
            raise ValueError(f"save is {self.save:g} and keep {self.keep}: give seconds, or inf, and at least 1")
        if not self.hang_after > 0:
            raise ValueError(f"hang_after is {self.hang_after:g}: give seconds, or inf to wait for ever")

    @property
    def total(self) -> tuple[float, float]:
        """(cores, devices) that all workers take together, where there are no more than must be."""
        return self.workers * self.cpus, self.workers * self.gpus

    @property
    def occupied(self) -> float:
        """The devices that they leave to nobody of their kind: of 0.4 of one, two fit, and each takes half."""
        return self.workers * (1 / math.floor(1 / self.gpus + 1e-9) if 0 < self.gpus < 1 else self.gpus)

    @property
    def reach(self) -> tuple[float, float]:
        """(cores, devices) that it takes where there are enough."""
        workers = self.most or self.workers
        return workers * self.cpus, workers * self.gpus

    def worlds(self, batch: int, examples: int | None = None) -> list[int]:
        """The numbers of workers, ascending, that share a global batch evenly and have no more than the examples.

        Raises:
            ValueError: there is none.
        """
        asked = f"{self.workers} workers" if self.most is None else f"{self.workers} to {self.most} workers"
        for there, what in ((batch, "images in a batch"), (examples, "examples")):
            if there is not None and self.workers > there:
                raise ValueError(f"{asked} cannot share {there} {what}: give at most {there} (--scale.workers)")
        most = min(self.most or self.workers, batch if examples is None else examples)
        even = [n for n in range(1, batch + 1) if batch % n == 0]
        found = [n for n in even if self.workers <= n <= most]
        if not found:
            near = [n for n in even if n < self.workers][-1:] + [n for n in even if n > self.workers][:1]
            give = " or ".join(map(str, near))
            raise ValueError(f"{asked} cannot share a batch of {batch} evenly: give {give} (--scale.workers)")
        return found
