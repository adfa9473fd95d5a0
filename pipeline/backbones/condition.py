"""What a network is told beside the image: a class or an embedding, as features of about unit variance.

`cond` is one tensor a batch: integers (B,), −1 where nothing is told, or embeddings (B, E), zeros where nothing is
told; None tells no row anything. A row that is told nothing lights a feature of its own, so that one network is
conditional and unconditional at once (Ho and Salimans, "Classifier-free diffusion guidance", arXiv 2207.12598). It is
made of one column of the rows: their labels, their embeddings, or (captions.py) their captions.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional


class Condition(ABC):
    """The kind of condition that a network takes; subclasses are frozen dataclasses.

    `column` is the rows' column that it is made of, by the name that readers have for it.
    """

    column: ClassVar[str]

    @property
    @abstractmethod
    def features(self) -> int:
        """How many features an example has."""

    @abstractmethod
    def __call__(self, cond: Tensor | None, rows: int, device: torch.device) -> Tensor:
        """The features (rows, features) in float32. Raises ValueError when `cond` is not of this kind."""

    @abstractmethod
    def told(self, values: np.ndarray) -> Tensor:
        """`cond` of rows whose `column` has these values (B, *). Raises ValueError when they are not of this kind."""

    @abstractmethod
    def untold(self, cond: Tensor) -> Tensor:
        """Which rows (B,) are told nothing."""

    def without(self, cond: Tensor, rows: Tensor) -> Tensor:
        """`cond` with nothing told to these rows (B,) of bools."""
        return cond.masked_fill(rows.reshape(-1, *(1,) * (cond.ndim - 1)), 0 if cond.is_floating_point() else -1)


@dataclass(frozen=True)
class Labels(Condition):
    """One of `classes`, by its number from 0; −1 is none of them."""

    column: ClassVar[str] = "label"

    classes: int

    def __post_init__(self) -> None:
        if self.classes < 1:
            raise ValueError(f"classes is {self.classes}: give the number of classes, at least 1")

    @property
    def features(self) -> int:
        return self.classes + 1

    def __call__(self, cond: Tensor | None, rows: int, device: torch.device) -> Tensor:
        """One feature a class, and the first for none; away from the CPU a label out of range makes its row NaN."""
        if cond is None:
            cond = torch.full((rows,), -1, device=device)
        if cond.shape != (rows,) or cond.dtype.is_floating_point or cond.dtype in (torch.bool, torch.complex64):
            raise ValueError(f"cond is {_told(cond)}: give {rows} integer labels, one per image, -1 for none")
        wrong = (cond < -1) | (cond >= self.classes)
        # Elsewhere the host would have to wait for the device; a NaN is found by the loop, which names the example.
        if cond.device.type == "cpu" and not torch.compiler.is_compiling() and bool(wrong.any()):
            raise ValueError(f"cond has label {int(cond[wrong][0])}: give labels from 0 to {self.classes - 1}, or -1")
        numbers = cond.new_ones(self.features).cumsum(0) - 2  # arange would tie an exported network to one device
        hot = cond[:, None] == numbers
        return (hot.float() * math.sqrt(self.features)).masked_fill(wrong[:, None], math.nan)

    def told(self, values: np.ndarray) -> Tensor:
        """The labels (B,) as they are."""
        return torch.tensor(values)

    def untold(self, cond: Tensor) -> Tensor:
        """Where the label is −1."""
        return cond < 0


@dataclass(frozen=True)
class Embedded(Condition):
    """An embedding of `size` numbers, as of a text, from whoever made the rows; all zeros is none.

    Times `scale` it should be of about unit variance: √size for embeddings of length 1, as CLIP's are.
    """

    column: ClassVar[str] = "operator.embedding"

    size: int
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.size < 1 or not 0 < self.scale < math.inf:
            raise ValueError(
                f"size is {self.size} and scale {self.scale}: give how many numbers an embedding has, at least 1, and "
                "what to multiply them by, above 0"
            )

    @property
    def features(self) -> int:
        return self.size + 1

    def __call__(self, cond: Tensor | None, rows: int, device: torch.device) -> Tensor:
        """The embedding, and one more feature for none."""
        if cond is None:
            cond = torch.zeros(rows, self.size, device=device)
        if cond.shape != (rows, self.size) or not cond.dtype.is_floating_point:
            raise ValueError(f"cond is {_told(cond)}: give {rows} embeddings of {self.size} numbers, zeros for none")
        none = self.untold(cond)[:, None]
        return torch.cat([cond.float() * self.scale, none.float() * math.sqrt(self.features)], 1)

    def told(self, values: np.ndarray) -> Tensor:
        """The embeddings (B, size) in float32."""
        if values.ndim != 2 or values.shape[1] != self.size:
            raise ValueError(f"embeddings are {values.shape[1:]} and the network's ({self.size},): make them agree")
        return torch.from_numpy(values.astype(np.float32))

    def untold(self, cond: Tensor) -> Tensor:
        """Where all numbers are zero."""
        return (cond == 0).all(1)


def features(condition: Condition | None, cond: Tensor | None, x: Tensor) -> Tensor | None:
    """The features of the rows of x; None of a network without a condition, which refuses to be told one."""
    if condition is None:
        if cond is not None:
            raise ValueError(f"cond is {_told(cond)} but the network has no condition: give its backbone one, or None")
        return None
    return condition(cond, x.shape[0], x.device)


class Embedding(nn.Module):
    """The noise level, c_noise = ln(σ)/4, and the condition in one vector (B, width)."""

    def __init__(self, width: int, condition: Condition | None) -> None:
        super().__init__()
        self.condition = condition
        self.frequencies: Tensor
        self.register_buffer("frequencies", torch.logspace(-2, 4, 32, base=2), persistent=False)
        self.level = nn.Sequential(nn.Linear(64, width), nn.SiLU(), nn.Linear(width, width))
        self.told = None if condition is None else nn.Linear(condition.features, width, bias=False)

    def forward(self, c_noise: Tensor, cond: Tensor | None, x: Tensor) -> Tensor:
        """The vector for the rows of x."""
        angles = c_noise[:, None] * self.frequencies
        e = self.level(torch.cat([angles.sin(), angles.cos()], 1))
        told = features(self.condition, cond, x)
        return functional.silu(e if self.told is None or told is None else e + self.told(told))


def _told(cond: Tensor) -> str:
    return f"{cond.dtype} of shape {tuple(cond.shape)}".removeprefix("torch.")
