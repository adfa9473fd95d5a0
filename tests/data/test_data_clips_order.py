"""The frames of a folder are a film in the order in which people count."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.data.sources import source_of


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


ORDERS = {
    "numbers": [f"{t}.png" for t in range(1, 13)],
    "words and numbers": [f"cam2-{t}.PNG" if t % 2 else f"cam2-{t}.jpg" for t in (0, 3, 9, 10, 11, 99, 100, 1000)],
    "padded": [f"f{t:04d}.png" for t in (1, 9, 10, 100, 1000)],
    "padded and not": ["01.png", "1.png", "2.png", "003.png", "10.png"],
    "two numbers": ["1_2.png", "1_10.png", "2_1.png", "10_0.png"],
    "words": ["a.png", "b.png", "c.png"],
}


@pytest.mark.parametrize("case", ORDERS)
def test_frames_come_in_the_order_in_which_they_are_counted(case: str, tmp_path: Path, ingested) -> None:
    names = ORDERS[case]
    for t, name in enumerate(names):
        shade = np.full((4, 4), 9 * t, np.uint8)
        (tmp_path / name).write_bytes(png(shade))
        (tmp_path / f"{name.rpartition('.')[0]}.mask.png").write_bytes(
            png(np.where(np.arange(16) == t, 0, 255).astype(np.uint8).reshape(4, 4))
        )
    rows = ingested(source_of(str(tmp_path), frames=len(names)), (1, len(names), 4, 4))
    assert rows.ids == (".-0",)
    assert rows.images[0, 0].reshape(-1, 16)[:, 15].tolist() == [9 * t for t in range(len(names))]
    hidden = np.unpackbits(rows.operator["mask"][0], count=16 * len(names)).reshape(-1, 16)
    assert [int(one.argmin()) for one in hidden] == list(range(len(names)))  # each frame's own mask went with it
