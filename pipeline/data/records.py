"""Rows: an example is an id, an array in [-1, 1], perhaps a label, and what is known of its operator.

N examples are an `Examples`: columns of numpy, checked once, where they are made. Eight bits keep clean images,
u ↔ x = u/127.5 − 1; half precision keeps what leaves [-1, 1], such as a measurement y = A x₀ + noise.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class Examples:
    """N examples, column by column.

    `ids`: N different texts. `images`: (N, *) uint8 or finite float16, usually (N, C, H, W). `label`: (N,) int64, -1
    where there is none; left out, nobody has one. `operator`: arrays (N, *) of bools or finite numbers. `caption`: N
    texts, or none at all.

    Raises ValueError where a column breaks these rules.
    """

    ids: tuple[str, ...]
    images: np.ndarray
    label: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    operator: dict[str, np.ndarray] = field(default_factory=dict)
    caption: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        count = len(self.ids)
        object.__setattr__(self, "ids", tuple(self.ids))
        if count and not self.label.size:
            object.__setattr__(self, "label", np.full(count, -1, dtype=np.int64))
        if not all(isinstance(text, str) and text for text in self.ids):
            raise ValueError("Every id must be a text of at least one character.")
        if len(set(self.ids)) != count:
            twice = next(text for text in self.ids if self.ids.count(text) > 1)
            raise ValueError(f"The ids must differ, and {twice!r} occurs more than once.")
        if self.images.dtype not in (np.uint8, np.float16):
            raise ValueError(f"The images are {self.images.dtype}; convert them to uint8 or float16.")
        if self.images.ndim < 2 or 0 in self.shape:
            raise ValueError(f"The images have shape {self.images.shape}; it must be (N, C, H, W) without empty axes.")
        if self.label.dtype != np.int64 or self.label.ndim != 1 or (self.label < -1).any():
            raise ValueError("The labels must be one int64 axis of numbers from 0, or -1 where there is none.")
        for name, column in self.operator.items():
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.]*", name):
                raise ValueError(f"{name!r} cannot name an operator column; use letters, digits, '_' and '.'.")
            if column.dtype.kind not in "biuf" or column.dtype.itemsize > 8 or column.ndim < 1 or 0 in column.shape[1:]:
                raise ValueError(f"The operator column {name!r} must be an array (N, *) of bools or numbers.")
        object.__setattr__(self, "caption", tuple(self.caption))
        if self.caption and (len(self.caption) != count or not all(isinstance(text, str) for text in self.caption)):
            raise ValueError(
                f"There are {count} ids and {len(self.caption)} captions; give one text for each, or none."
            )
        columns = {"image": self.images, "label": self.label, **self.operator}
        for name, column in columns.items():
            if len(column) != count:
                raise ValueError(f"There are {count} ids and {len(column)} rows in {name!r}; give one row for each id.")
            if column.dtype.kind == "f" and not np.isfinite(column).all():
                raise ValueError(f"The column {name!r} has values that are not finite; remove those examples.")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one image, without the batch."""
        return self.images.shape[1:]

    @property
    def form(self) -> tuple[tuple[str, tuple[int, ...], str], ...]:
        """(name, shape without the batch, dtype) of the image and of every operator column, by name."""
        columns = [("image", self.images), *sorted(self.operator.items())]
        return tuple((name, column.shape[1:], column.dtype.newbyteorder("<").str) for name, column in columns)

    def take(self, indices: Sequence[int] | np.ndarray) -> Examples:
        """The examples at `indices` (each at most once, because ids stay unique), in that order."""
        at = np.asarray(indices, dtype=np.int64)
        ids = tuple(self.ids[i] for i in at)
        caption = tuple(self.caption[i] for i in at) if self.caption else ()
        operator = {name: a[at] for name, a in self.operator.items()}
        return Examples(ids, self.images[at], self.label[at], operator, caption)

    @classmethod
    def concat(cls, parts: Sequence[Examples]) -> Examples:
        """One after the other; all parts agree in shape, dtype and operator columns, or a ValueError says so."""
        if not parts:
            raise ValueError("There is nothing to concatenate; give at least one set of examples.")
        if len({part.form for part in parts}) > 1:
            raise ValueError("These examples differ in shape, dtype or operator columns; bring them to one form first.")
        if len({bool(part.caption) for part in parts if part.ids}) > 1:
            raise ValueError("Some of these examples have captions and some have none; give all of them, or drop them.")
        ids, caption = (tuple(text for part in parts for text in getattr(part, name)) for name in ("ids", "caption"))
        operator = {name: np.concatenate([part.operator[name] for part in parts]) for name in parts[0].operator}
        images, label = (np.concatenate([getattr(part, name) for part in parts]) for name in ("images", "label"))
        return cls(ids, images, label, operator, caption)

    def x(self, indices: Sequence[int] | np.ndarray | None = None) -> torch.Tensor:
        """The images at `indices` (repeats allowed), or all: (B, *) float32, u/127.5 − 1 of uint8, float16 as it is."""
        import torch

        images = self.images if indices is None else self.images[np.asarray(indices, dtype=np.int64)]
        x = torch.from_numpy(images.astype(np.float32))
        return x.div_(127.5).sub_(1) if self.images.dtype == np.uint8 else x

    @classmethod
    def from_x(
        cls,
        ids: Sequence[str],
        x: torch.Tensor,
        label: np.ndarray | None = None,
        operator: Mapping[str, np.ndarray] | None = None,
        uint8: bool = False,
        caption: Sequence[str] = (),
    ) -> Examples:
        """Packs x (N, *) as float16, or as round((x + 1) 127.5) clamped to 0..255 when `uint8` is asked for."""
        values = x.detach().cpu().float().numpy()
        if not (np.abs(values) <= np.finfo(np.float16).max).all():
            raise ValueError("Some pixels are not finite in half precision; look for a division by zero or a blow-up.")
        images = np.clip(np.rint((values + 1) * 127.5), 0, 255).astype(np.uint8) if uint8 else values.astype(np.float16)
        label = np.empty(0, np.int64) if label is None else label
        return cls(tuple(ids), images, label, dict(operator or {}), tuple(caption))
