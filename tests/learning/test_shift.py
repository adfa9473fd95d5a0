"""Random shifts of training images: exact moves, keyed by place in the global batch."""

from __future__ import annotations

import torch

from pipeline.keys import Key
from stages.train import shifted


def test_every_image_is_a_move_of_itself_with_its_edges_repeated():
    x = torch.arange(64 * 36.0).reshape(64, 1, 6, 6)
    moved = shifted(x, 1, Key(0), 0, 64)
    padded = torch.nn.functional.pad(x, (1, 1, 1, 1), mode="replicate")
    kinds = set()
    for image, around in zip(moved, padded, strict=True):
        fits = [(i, j) for i in range(3) for j in range(3) if torch.equal(image, around[:, i : i + 6, j : j + 6])]
        assert len(fits) == 1
        kinds.add(fits[0])
    assert len(kinds) == 9
    still = sum(bool(torch.equal(a, b)) for a, b in zip(x, moved, strict=True))
    assert 20 < still < 52, "about half, and a ninth of the rest, stay"


def test_ranks_together_shift_as_one():
    x = torch.randn(8, 3, 5, 4)
    whole = shifted(x, 2, Key(1), 0, 8)
    parts = [shifted(x[:3], 2, Key(1), 0, 8), shifted(x[3:], 2, Key(1), 3, 8)]
    assert torch.equal(torch.cat(parts), whole)
