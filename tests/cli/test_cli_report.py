"""Pictures of any number of channels and of few rows; a report in which nothing of a stranger's is markup."""

from __future__ import annotations

import base64
import io
import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from doubles import pixels
from PIL import Image

from pipeline.data.manifest import Manifest, name
from pipeline.data.records import Examples
from pipeline.data.shards import write_shard
from pipeline.engine import pictures
from pipeline.engine.pictures import bars, curves, grid
from pipeline.engine.report import Report, Section
from pipeline.place import Place
from stages.census_page import _pixels
from stages.compare import _first


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_grid_shows_every_pixel_where_it_belongs(channels):
    images = np.stack([pixels(i, (channels, 5, 4)) for i in range(7)])
    shown = np.asarray(Image.open(io.BytesIO(grid(images, columns=3, scale=2))))
    assert shown.shape == (3 * 11 + 1, 3 * 9 + 1, 3)
    for i, image in enumerate(images):
        tile = shown[1 + 11 * (i // 3) :, 1 + 9 * (i % 3) :][:10:2, :8:2]
        colours = image if channels == 3 else image[:1].repeat(3, 0)
        np.testing.assert_array_equal(tile, colours.transpose(1, 2, 0))
    assert (shown[-11:, -18:] == 255).all()  # two places are left empty


@pytest.mark.parametrize("count", [1, 31, 40])
def test_a_set_is_shown_by_its_first_rows_however_few(count, tmp_path):
    rows = Examples(tuple(map(str, range(count))), np.stack([pixels(i, (1, 4, 4)) for i in range(count)]))
    buffer = io.BytesIO()
    write_shard(buffer, rows)
    place = Place(str(tmp_path))
    place.write(name(0), buffer.getvalue())
    Manifest.of([count], (1, 4, 4), "uint8").write(place)
    data = SimpleNamespace(file=place.open)
    assert _first(data) == grid(rows.images[:32])


def test_values_beyond_the_range_are_brought_into_it():
    x = np.array([-2.0, 0.0, 2.0])
    assert pictures.pixels(x).tolist() == [0, 128, 255]
    assert pictures.pixels(x / 4).tolist() == [64, 128, 191]


def test_a_report_is_one_file_that_escapes_what_it_is_given():
    evil = "<script>alert(1)</script>"
    png = grid(np.zeros((1, 1, 2, 2), np.uint8))
    page = Report(evil, [evil], [Section(evil, [evil], [evil], [[evil, 0.123456, 3]], [(evil, png)], evil)]).html()
    assert "<script" not in page
    assert page.count("&lt;script&gt;") == 10
    assert base64.b64encode(png).decode() in page
    assert "0.1235" in page
    assert "http" not in page


@pytest.mark.slow
@pytest.mark.parametrize(
    ("value", "text"),
    [
        (30_000.0, "30000"),
        (1234567.0, "1234567"),
        (1234.4, "1234"),
        (-20_000.0, "-20000"),
        (999.96, "1000"),
        (0.123456, "0.1235"),
        (3.0, "3"),
        (0.0, "0"),
        (1e20, "1e+20"),
        (float("nan"), "nan"),
        (float("inf"), "inf"),
    ],
)
def test_numbers_have_four_digits_or_all_before_the_point(value, text):
    assert f">{text}</td>" in Report("x", [], [Section("y", rows=[["rows", value]])]).html()


def test_a_clean_image_looks_the_same_beside_noisy_ones():
    x = torch.from_numpy(pixels(1, (3, 1, 8, 8))).float() / 127.5 - 1
    x[1] *= 5
    shown = _pixels(x)
    np.testing.assert_array_equal(shown[[0, 2]], pixels(1, (3, 1, 8, 8))[[0, 2]])
    assert shown[1].std() > 60, "and of a noisy one is seen what there is"
    clip = _pixels(x[:, :, None].expand(-1, -1, 3, -1, -1))
    np.testing.assert_array_equal(clip, shown)


@pytest.mark.slow
def test_plots_are_pictures_and_the_same_twice():
    def plots():
        return curves([0.1, 1], {"a": [1, 2]}, "σ", "error", log_y=True), bars({"a": 1.0, "b": 2.0}, "error")

    assert all(Image.open(io.BytesIO(png)).format == "PNG" for png in plots())
    assert plots() == plots()


@pytest.mark.parametrize("y", [[0.2, 0.9], [0.05, 3.0], [1e-3, 20.0]])
def test_logarithmic_axes_have_plain_numbers(monkeypatch, y):
    monkeypatch.setattr(pictures, "as_png", lambda figure: figure)
    figure: Any = curves([0.02, 80], {"a": y}, "σ", "error", log_y=True)
    figure.canvas.draw()
    for axis in (figure.axes[0].xaxis, figure.axes[0].yaxis):
        low, high = axis.get_view_interval()
        seen = [
            t.label1.get_text()
            for t in (*axis.get_major_ticks(), *axis.get_minor_ticks())
            if low <= t.get_loc() <= high
        ]
        seen = [text for text in seen if text]
        assert len(seen) >= 2
        assert all(low <= float(text) <= high for text in seen), seen


def test_what_is_zero_is_left_out_of_a_logarithmic_plot_rather_than_drawn_as_a_fall(monkeypatch):
    monkeypatch.setattr(pictures, "as_png", lambda figure: figure)
    figure: Any = curves([0.1, 1, 10], {"a": [0.0, 2, 3]}, "σ", "energy", log_y=True)
    assert np.isfinite(figure.axes[0].lines[0].get_ydata()).tolist() == [False, True, True]
    plain: Any = curves([0.1, 1, 10], {"a": [0.0, 2, 3]}, "σ", "gate")
    assert plain.axes[0].lines[0].get_ydata()[0] == 0


def test_a_wide_table_scrolls_by_itself_and_breaks_no_words():
    page = Report("x", [], [Section("y", header=["a", "b"], rows=[["composed", 1.0]])]).html()
    table = page.index("<table>")
    assert page[:table].endswith('<div class="wide">')
    assert ".wide { overflow-x: auto; }" in page
    assert "anywhere" not in page


def test_plots_keep_their_size_on_a_narrow_screen_and_images_shrink_to_it():
    plot, images = bars({"a": 1.0}, "error"), grid(np.zeros((2, 1, 8, 8), np.uint8))
    page = Report("x", [], [Section("y", pictures=[("plot", plot), ("images", images)])]).html()
    assert re.findall(r'<figure( class="wide")?>\n<img alt="(\w+)"', page) == [
        (' class="wide"', "plot"),
        ("", "images"),
    ]
    assert "figure.wide img { max-width: none; }" in page
    assert "img { max-width: 100%; }" in page
