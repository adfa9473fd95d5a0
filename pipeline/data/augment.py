"""Augmentation of rows that are noisy or not seen whole: pixels change their places, never their values.

A turned or mirrored image (the dihedral group of the square, of a rectangle its half) and one moved by whole pixels
have the noise that the original had: white stays white, and what was hidden stays hidden, because the mask moves along.
Interpolation would average noise away and mix hidden pixels into seen ones, so there is none. What moves in from
outside was never seen and is masked. The draw for image number p is keyed by (seed, p), whatever the batches are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.keys import Key

DRAWN = 1024  # positions that share a key, because making one takes longer than drawing


@dataclass(frozen=True)
class Augment:
    """Turns and mirrors (each of the 8, or 4, equally often), then moves of up to `shift` pixels each way."""

    dihedral: bool = True
    shift: int = 0

    def __post_init__(self) -> None:
        if self.shift < 0:
            raise ValueError(f"shift is {self.shift}: give the number of pixels, from 0.")

    def __call__(self, columns: Mapping[str, Tensor], seed: int, first: int) -> dict[str, Tensor]:
        """The columns of images number first .. first + B − 1, all moved alike.

        Args:
            columns: "x" (B, *, H, W), perhaps "mask" bools (B, *, H, W), True where seen, and whatever else lies on the
                same pixels; columns (B,) stay as they are.
            seed: of the draws.
            first: images seen before the first of these.

        Returns:
            the same columns, 0 where there was no pixel. With a `shift` there is always a "mask", False there.

        Raises:
            ValueError: a column is neither (B,) nor on the pixels of x, so that moving x would falsify it.
        """
        x = columns["x"]
        height, width = x.shape[-2:]
        if self.shift >= min(height, width):
            raise ValueError(f"shift is {self.shift} and images are {height}x{width}: give less than their sides.")
        out = dict(columns)
        if self.shift and "mask" not in out:
            out["mask"] = torch.ones(len(x), *[1] * (x.ndim - 3), height, width, dtype=torch.bool, device=x.device)
        source, there = self._moves(seed, first, len(x), height, width)
        for name, column in out.items():
            if column.ndim == 1:
                continue
            if column.ndim < 3 or column.shape[-2:] != x.shape[-2:]:
                raise ValueError(
                    f"The column {name!r} has shape {tuple(column.shape)}, not on the {height}x{width} pixels of the "
                    "images that it would have to move with; turn it into a mask first."
                )
            between = [1] * (column.ndim - 3)
            at = source.to(column.device).view(len(x), *between, -1).expand(*column.shape[:-2], -1)
            moved = column.flatten(-2).gather(-1, at).view(column.shape)
            outside = ~there.to(column.device).view(len(x), *between, height, width)
            out[name] = moved.masked_fill(outside, 0)
        return out

    def _moves(self, seed: int, first: int, count: int, height: int, width: int) -> tuple[Tensor, Tensor]:
        """For each pixel of `count` images the one it comes from (B, H W), and whether that exists (B, H W)."""
        square = height == width
        turn, down, right = torch.from_numpy(self._draw(seed, first, count, 8 if square else 4)).T[..., None]
        i, j = torch.arange(height) - down, torch.arange(width) - right
        there = ((i >= 0) & (i < height))[:, :, None] & ((j >= 0) & (j < width))[:, None, :]
        flat = i.clamp(0, height - 1)[:, :, None] * width + j.clamp(0, width - 1)[:, None, :]
        return _turns(height, width)[turn, flat.flatten(1)], there.flatten(1)

    def _draw(self, seed: int, first: int, count: int, turns: int) -> np.ndarray:
        """(turn, down, right) int64 (count, 3) of images number first .. first + count − 1."""
        chunks = range(first // DRAWN, (first + count - 1) // DRAWN + 1)
        raw = [Key(seed).fold("augment", k).numpy().bit_generator.random_raw(3 * DRAWN) for k in chunks]
        words = np.concatenate(raw).reshape(-1, 3)[first % DRAWN : first % DRAWN + count]
        sizes = np.array([turns if self.dihedral else 1, 2 * self.shift + 1, 2 * self.shift + 1], dtype=np.uint64)
        return (words % sizes).astype(np.int64) - np.array([0, self.shift, self.shift])


def _turns(height: int, width: int) -> Tensor:
    """Where each pixel of a turned image comes from: (8, H W), or (4, H W) of those that leave a rectangle's sides."""
    pixels = torch.arange(height * width).view(height, width)
    half = [torch.rot90(each, k) for each in (pixels, pixels.flip(1)) for k in (0, 2)]
    quarter = [torch.rot90(each, 1) for each in half] if height == width else []
    return torch.stack([each.flatten() for each in (*half, *quarter)])
