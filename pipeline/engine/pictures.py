"""Pictures as PNG bytes: grids of images and curves over noise levels."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def grid(images: np.ndarray, columns: int = 16, scale: int | None = None) -> bytes:
    """Images (N, C, H, W) uint8 side by side on white, each pixel `scale` wide (None: about 48 in all).

    Three channels are RGB; of any other number the first is shown, in grey.
    """
    from PIL import Image

    count, channels, height, width = images.shape
    scale = scale or max(1, round(48 / max(height, width)))
    columns = min(columns, count)
    rows, gap = -(-count // columns), max(1, scale // 2)
    size = np.array([height, width]) * scale + gap
    canvas = np.full((rows * size[0] + gap, columns * size[1] + gap, 3), 255, dtype=np.uint8)
    for i, image in enumerate(images):
        big = image.transpose(1, 2, 0).repeat(scale, 0).repeat(scale, 1)
        top, left = gap + (i // columns) * size[0], gap + (i % columns) * size[1]
        colours = big if channels == 3 else big[..., :1].repeat(3, 2)
        canvas[top : top + height * scale, left : left + width * scale] = colours
    buffer = io.BytesIO()
    Image.fromarray(canvas).save(buffer, "PNG")
    return buffer.getvalue()


def lines(images: np.ndarray, labels: np.ndarray, most: int = 16) -> bytes:
    """Images (N, C, H, W) uint8, a line for each of their labels (N,) in ascending order, which stand before them.

    The first `most` labels are shown, and the first `most` images of each.
    """
    from PIL import Image, ImageDraw, ImageFont

    kinds = np.unique(labels)[:most]
    rows = [images[labels == kind][:most] for kind in kinds]
    columns = max(map(len, rows))
    white = np.full((1, *images.shape[1:]), 255, np.uint8)
    filled = [np.concatenate([row, white.repeat(columns - len(row), 0)]) for row in rows]
    plain = Image.open(io.BytesIO(grid(np.concatenate(filled), columns)))
    font, each = ImageFont.load_default(16), plain.height / len(rows)
    margin = 12 + max(round(font.getlength(str(kind))) for kind in kinds)
    canvas = Image.new("RGB", (plain.width + margin, plain.height), "white")
    canvas.paste(plain, (margin, 0))
    draw = ImageDraw.Draw(canvas)
    for i, kind in enumerate(kinds):
        draw.text((margin - 6, (i + 0.5) * each), str(kind), "black", font, anchor="rm")
    buffer = io.BytesIO()
    canvas.save(buffer, "PNG")
    return buffer.getvalue()


def curves(
    x: Sequence[float], lines: Mapping[str, Sequence[float]], x_label: str, y_label: str, log_y: bool = False
) -> bytes:
    """Lines over a logarithmic axis, labelled at their ends rather than by colour alone."""
    figure = _figure()
    axes = figure.add_subplot()
    for (name, y), marker in zip(lines.items(), "osD^vPX*<>" * 4):
        axes.plot(x, y, marker=marker, markersize=4, linewidth=1.4, label=name)
    axes.set_xscale("log")
    if log_y:
        axes.set_yscale("log")
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=9)
    return _png(figure)


def bars(values: Mapping[str, float], x_label: str) -> bytes:
    """One horizontal bar a name, with its number."""
    figure = _figure(height=0.6 + 0.42 * len(values))
    axes = figure.add_subplot()
    drawn = axes.barh(list(values), list(values.values()), color="#4477aa")
    axes.bar_label(drawn, fmt="%.3f", padding=3, fontsize=9)
    axes.margins(x=0.12)
    axes.invert_yaxis()
    axes.set_xlabel(x_label)
    axes.spines[["top", "right"]].set_visible(False)
    return _png(figure)


def _figure(height: float = 4.2) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, height), layout="constrained")
    FigureCanvasAgg(figure)  # no pyplot: its global state is not for threads
    return figure


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
