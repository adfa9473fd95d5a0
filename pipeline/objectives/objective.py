"""How a denoiser learns: an objective maps a denoiser, a batch and its noise levels to one loss per example.

A batch knows where it stands in the global batch. Randomness is drawn for the global batch and sliced, so two ranks
of eight examples and one of sixteen see the same noise.
"""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor

from pipeline.diffusion.denoiser import Denoiser
from pipeline.keys import Key

Draws = dict[str, Tensor]


@dataclass(frozen=True)
class Batch:
    """Rows offset..offset+B of a global batch of `total` (default: all of it).

    x (B, *) in [-1, 1]; cond (B, ...) or None; index (B,) integers that name the examples, or None. Rows of noisy data
    say with `floor` (B,) how much white noise x holds (None: none), and with `sigma` (B,) the levels, above their
    floors, at which they are to be looked at (None: the loop draws them). `mask` (B, *) of bools is True where x was
    seen (None: everywhere). `beside` (B, *) is a picture that the network sees beside x (None: it sees none).
    """

    x: Tensor
    cond: Tensor | None = None
    index: Tensor | None = None
    offset: int = 0
    total: int | None = None
    floor: Tensor | None = None
    sigma: Tensor | None = None
    mask: Tensor | None = None
    beside: Tensor | None = None

    def __post_init__(self) -> None:
        if self.offset < 0 or self.offset + len(self.x) > self.whole:
            raise ValueError(
                f"a batch of {len(self.x)} rows at offset {self.offset} does not lie within a global batch of "
                f"{self.whole}: check offset and total."
            )

    def __len__(self) -> int:
        return len(self.x)

    @property
    def whole(self) -> int:
        """The rows of the global batch."""
        return len(self.x) if self.total is None else self.total

    def normal(self, key: Key) -> Tensor:
        """White noise shaped as x: this batch's rows of what the key draws for the global batch, on x's device."""
        shape = (self.whole, *self.x.shape[1:])
        z = torch.randn(shape, generator=key.torch(self.x.device), device=self.x.device, dtype=self.x.dtype)
        return z[self.offset : self.offset + len(self)]

    def uniform(self, key: Key, shape: tuple[int, ...] = ()) -> Tensor:
        """Numbers in [0, 1) for each row (B, *shape), drawn for the global batch like `normal`, on x's device."""
        drawn = torch.rand((self.whole, *shape), generator=key.torch(self.x.device), device=self.x.device)
        return drawn[self.offset : self.offset + len(self)]

    def to(self, device: str | torch.device) -> Batch:
        """The same batch on another device."""
        return self._each(lambda rows: rows.to(device, non_blocking=True))

    def pinned(self) -> Batch:
        """The same batch in memory from which a GPU can fetch it by itself."""
        return self._each(Tensor.pin_memory)

    def lent(self, stream: torch.cuda.Stream) -> Batch:
        """This batch, whose memory is not to be used again before `stream` is done with it."""
        for f in fields(self):
            if isinstance(value := getattr(self, f.name), Tensor):
                value.record_stream(stream)
        return self

    def decoded(self) -> Batch:
        """The same batch with x/127.5 − 1 in place of x in uint8, which is a quarter as much to move."""
        return replace(self, x=self.x.float().div_(127.5).sub_(1)) if self.x.dtype == torch.uint8 else self

    def split(self, rows: int | None) -> list[Batch]:
        """The batch in pieces of at most `rows`, each knowing its place (None: one piece)."""
        if rows is None or rows >= len(self):
            return [self]
        cuts = [slice(at, at + rows) for at in range(0, len(self), rows)]
        return [self._each(operator.itemgetter(cut), offset=self.offset + cut.start) for cut in cuts]

    def _each(self, change: Callable[[Tensor], Tensor], **place: int) -> Batch:
        held = {f.name: getattr(self, f.name) for f in fields(self)}
        moved = {name: change(value) for name, value in held.items() if isinstance(value, Tensor)}
        return replace(self, **moved, total=self.whole, **place)


@dataclass(frozen=True)
class Loss:
    """What to minimise for each example (B,), and scalars worth logging (means over the batch, no gradient)."""

    each: Tensor
    scalars: dict[str, Tensor] = field(default_factory=dict)


class Objective(ABC):
    """A frozen dataclass of hyper-parameters; minimised by the true posterior mean E[x₀ | x]."""

    def __call__(self, D: Denoiser, batch: Batch, sigma: Tensor, key: Key) -> Loss:
        """The loss of D on a batch at σ (B,); `key` is this step's."""
        return self.loss(D, batch, sigma, self.draw(batch, key))

    def draw(self, batch: Batch, key: Key) -> Draws:
        """All that is random in the loss, by name: here white noise shaped as x; fold a purpose for each draw."""
        return {"noise": batch.normal(key.fold("noise"))}

    @abstractmethod
    def loss(self, D: Denoiser, batch: Batch, sigma: Tensor, drawn: Draws) -> Loss:
        """The loss of D on a batch at σ (B,): tensors in, tensors out, so that it can be compiled."""
