"""Pixels that no row of a set shows are told and shown by `kintsugi data`, whatever the set was cut into."""

from __future__ import annotations

import io

import numpy as np
from doubles import png
from PIL import Image

from pipeline.data.sources import source_of
from pipeline.graph import step
from pipeline.physics.boxes import FixedBox
from pipeline.physics.masks import PixelMask
from pipeline.store import Store
from stages.census import Census
from stages.census_page import summary
from stages.corrupt import Corrupt, Part
from stages.ingest import Ingest
from stages.sets import Stored

IMAGES = np.random.default_rng(0).integers(0, 256, (60, 16, 16)).astype(np.uint8)


def test_pixels_that_no_row_shows_are_told_and_shown(alone, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.data.arrays.PIECE", 7)
    monkeypatch.setattr("stages.sets.MOST", 4)
    monkeypatch.setattr("stages.looking.AT_ONCE", 4 * 256)
    seen = np.random.default_rng(0).random((60, 16, 16)) < 0.5
    seen[:, 3:6, 4:8] = False
    seen[1, 4, 5] = seen[57, 3, 4] = True  # one row alone shows them, in the first piece and in the last
    np.savez(tmp_path / "x.npz", images=IMAGES[:60], mask=seen)
    said = alone("data", "x.npz", "--json")
    assert said.json["warnings"] == [
        "10 of 256 pixels of x.npz are never shown by any row: nothing can be learnt there."
    ]
    assert said.json["sets"]["x.npz"]["never shown"] == [10, 256]
    made = Store("runs").artifact(said.json["artifact"])
    black = np.asarray(Image.open(io.BytesIO(made.read("unseen-0.png"))).convert("L")) == 0
    scale = 8  # 128 pixels in all
    np.testing.assert_array_equal(black[scale // 2 :: scale, scale // 2 :: scale][:16, :16], ~seen.any(0))
    assert [caption for caption, _ in summary(made).pictures][-1] == "x.npz: in black what no row shows."
    seen[0] = True
    np.savez(tmp_path / "x.npz", images=IMAGES[:60], mask=seen)
    assert "never shown" not in alone("data", "x.npz", "--json").json["sets"]["x.npz"]


def test_pixels_are_missed_where_all_images_have_one_size_and_channel_by_channel(alone, here, tmp_path):
    (tmp_path / "f").mkdir()
    for i in range(2):
        (tmp_path / "f" / f"{i}.png").write_bytes(png(IMAGES[i]))
        (tmp_path / "f" / f"{i}.mask.png").write_bytes(png(np.eye(16, dtype=np.uint8) * 255))
    assert "never shown" in alone("data", "f", "--json").json["sets"]["f"]
    (tmp_path / "f" / "small.png").write_bytes(png(IMAGES[2][:8, :8]))
    (tmp_path / "f" / "small.mask.png").write_bytes(png(np.full((8, 8), 255, np.uint8)))
    assert "never shown" not in alone("data", "f", "--json").json["sets"]["f"]
    np.save(tmp_path / "x.npy", IMAGES[:9].reshape(3, 16, 16, 3)[:, :4, :4])
    full = step(Ingest(source_of(str(tmp_path / "x.npy")), (3, 4, 4)))
    store = Store("runs")
    for corruption, told in ((PixelMask(0.9, per_channel=True), "values"), (FixedBox(0, 0, 1, 1), "1 of 16 pixels")):
        census = step(Census((Stored("x", step(Corrupt(full, Part(), corruption))),)))
        here(census, store)
        assert any(
            told in text and "never shown" in text
            for text in store.artifact(census.address).json("census.json")["warnings"]
        )
