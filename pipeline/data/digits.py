"""Digits: the 1,797 handwritten digits (8 x 8, grey) that come with scikit-learn, so that a first run needs no data.

Test set of Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits" (UCI, 1998): values 0..16, labels 0..9.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.data.source import Piece, Raw, Source, spans

COUNT = 1797


@dataclass(frozen=True)
class Digits(Source):
    """Ids "digits-0000" to "digits-1796", pixels round(255 v / 16)."""

    def count(self) -> int:
        """All of them."""
        return COUNT

    def cut(self) -> Iterator[Piece]:
        """Two ranges of rows."""
        return (Piece(start=start, stop=stop) for start, stop in spans([COUNT]))

    def read(self, piece: Piece) -> Iterator[Raw]:
        """The rows of one range, (8, 8) uint8 each."""
        from sklearn.datasets import load_digits

        values, labels = load_digits(return_X_y=True)
        pixels = np.rint(np.asarray(values).reshape(COUNT, 8, 8) * (255 / 16)).astype(np.uint8)
        for row in range(piece.start, piece.stop):
            name = f"digits-{row:04d}"
            yield Raw(name, pixels[row], int(np.asarray(labels)[row]), name)
