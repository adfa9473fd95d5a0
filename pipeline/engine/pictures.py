"""Pictures as PNG bytes: grids of images, curves over noise levels, what a sweep's trials chose and came to."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure


CLIPS = 8  # shown of many
WHITE, GROUND = (255, 255, 255), (187, 204, 228)  # what pictures lie on; the other where white says something
WIDE = 780  # pixels of a line of named pictures, about


class Plot(bytes):
    """A PNG that has words in it: a report lets a narrow screen scroll it, where it shrinks other pictures."""


def grid(
    images: np.ndarray, columns: int = 16, scale: int | None = None, ground: tuple[int, int, int] = WHITE
) -> bytes:
    """Images (N, C, H, W) uint8 side by side on `ground`, each pixel `scale` wide (None: about 48 in all).

    Of clips (N, C, T, H, W) there are fewer, a line each. Three channels are RGB; of any other number the first is
    shown, in grey.
    """
    from PIL import Image

    if images.ndim == 5:
        columns = images.shape[2]
        images = images[:CLIPS].swapaxes(1, 2).reshape(-1, images.shape[1], *images.shape[3:])
    count, channels, height, width = images.shape
    scale = scale or max(1, round(48 / max(height, width)))
    columns = min(columns, count)
    rows, gap = -(-count // columns), max(1, scale // 2)
    size = np.array([height, width]) * scale + gap
    canvas = np.full((rows * size[0] + gap, columns * size[1] + gap, 3), ground, dtype=np.uint8)
    for i, image in enumerate(images):
        big = image.transpose(1, 2, 0).repeat(scale, 0).repeat(scale, 1)
        top, left = gap + (i // columns) * size[0], gap + (i % columns) * size[1]
        colours = big if channels == 3 else big[..., :1].repeat(3, 2)
        canvas[top : top + height * scale, left : left + width * scale] = colours
    buffer = io.BytesIO()
    Image.fromarray(canvas).save(buffer, "PNG")
    return buffer.getvalue()


def pixels(x: np.ndarray) -> np.ndarray:
    """Images of any range as uint8: [-1, 1] kept, wider ranges (pooled views) brought into it.

    Measurements (N, C, count), which are no images, become lines one pixel high.
    """
    x = x[:, :, None] if x.ndim == 3 else x
    return ((x / max(1.0, float(np.abs(x).max())) + 1) * 127.5).round().clip(0, 255).astype(np.uint8)


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


def named(images: np.ndarray, names: Sequence[str]) -> bytes:
    """Images (N, C, H, W) or clips uint8, framed, each with its name below it; some in a line, the rest in the next."""
    from PIL import Image, ImageDraw, ImageFont

    font, gap, below = ImageFont.load_default(13), 10, 20
    found = [Image.open(io.BytesIO(grid(image[None], ground=GROUND))) for image in images]
    wide = gap + max(max(one.width, math.ceil(font.getlength(name))) for one, name in zip(found, names, strict=True))
    high, columns = found[0].height + below, min(len(found), max(1, WIDE // wide))
    canvas = Image.new("RGB", (columns * wide, -(-len(found) // columns) * high), WHITE)
    draw = ImageDraw.Draw(canvas)
    for i, (one, name) in enumerate(zip(found, names, strict=True)):
        middle, top = (i % columns) * wide + wide // 2, (i // columns) * high
        canvas.paste(one, (middle - one.width // 2, top))
        draw.text((middle, top + one.height + 2), name, "black", font, anchor="ma")
    buffer = io.BytesIO()
    canvas.save(buffer, "PNG")
    return buffer.getvalue()


def curves(
    x: Sequence[float], lines: Mapping[str, Sequence[float]], x_label: str, y_label: str, log_y: bool = False
) -> bytes:
    """Lines over a logarithmic axis, told apart by markers, not by colour alone; with `log_y` zeros are left out."""
    figure = drawing()
    axes = figure.add_subplot()
    for (name, y), marker in zip(lines.items(), "osD^vPX*<>" * 4):
        shown = [value if value > 0 or not log_y else math.nan for value in y]
        axes.plot(x, shown, marker=marker, markersize=4, linewidth=1.4, label=name)
    axes.set_xscale("log")
    if log_y:
        axes.set_yscale("log")
    for axis in [axes.xaxis, *([axes.yaxis] if log_y else [])]:
        _plain(axis)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=9)
    return as_png(figure)


def courses(lines: Mapping[str, Sequence[tuple[float, float]]], x_label: str, y_label: str) -> bytes:
    """Lines of points (x, y) of their own each, such as losses over images seen; on a logarithmic y where all allow."""
    figure = drawing()
    axes = figure.add_subplot()
    for (name, points), marker in zip(lines.items(), "osD^vPX*<>" * len(lines)):
        axes.plot(*zip(*points, strict=True), marker=marker, markersize=3, linewidth=1.2, label=_label(name))
    if all(y > 0 for points in lines.values() for _, y in points):
        axes.set_yscale("log")
        _plain(axes.yaxis)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(alpha=0.25)
    if len(lines) <= 12:
        axes.legend(frameon=False, fontsize=8)
    return as_png(figure)


def bars(
    values: Mapping[str, float], x_label: str, ends: Mapping[str, tuple[float | None, float | None]] | None = None
) -> bytes:
    """One horizontal bar a name, with its number and, where there are any, the ends of its interval."""
    figure = drawing(height=0.6 + 0.42 * len(values))
    axes = figure.add_subplot()
    axes.barh(list(values), list(values.values()), color="#4477aa")
    for row, (name, value) in enumerate(values.items()):
        low, high = (ends or {}).get(name, (None, None))
        end = value
        if low is not None and high is not None:
            axes.errorbar(value, row, xerr=[[value - low], [high - value]], color="black", capsize=3, linewidth=1)
            end = high if value >= 0 else low
        side, pad = ("left", 4) if value >= 0 else ("right", -4)
        axes.annotate(
            f"{value:.3f}", (end, row), (pad, 0), textcoords="offset points", ha=side, va="center", fontsize=9
        )
    axes.margins(x=0.12)
    axes.invert_yaxis()
    axes.set_xlabel(x_label)
    axes.spines[["top", "right"]].set_visible(False)
    return as_png(figure)


@dataclass(frozen=True)
class Axis:
    """One option of several trials: a value each, on a logarithmic scale, or `listed` one beside the other."""

    name: str
    values: Sequence[Any]
    logarithmic: bool = False
    listed: bool = False

    def places(self) -> tuple[list[float], list[tuple[float, str]]]:
        """Where the values stand between 0 and 1, and (place, label) of ticks."""
        if self.listed or not all(isinstance(value, int | float) for value in self.values):
            unique = {repr(value): value for value in self.values}
            numbers = all(isinstance(value, int | float) for value in unique.values())
            names = sorted(unique, key=lambda name: unique[name] if numbers else name)
            where = {name: (i + 0.5) / len(names) for i, name in enumerate(names)}
            return [where[repr(value)] for value in self.values], [
                (at, _label(unique[name])) for name, at in where.items()
            ]
        scaled = [math.log(value) if self.logarithmic else float(value) for value in self.values]
        low, high = min(scaled), max(scaled)
        spread = high - low or 1.0
        ticks = [low + spread * i / 4 for i in range(5)] if high > low else [low]
        labels = [_label(math.exp(tick) if self.logarithmic else tick) for tick in ticks]
        return [(x - low) / spread for x in scaled], [
            ((tick - low) / spread, label) for tick, label in zip(ticks, labels, strict=True)
        ]


def parallel(axes: Sequence[Axis], scores: Sequence[float], score: str, best: int) -> bytes:
    """Parallel coordinates: a line a trial through its options to its score, dark where that is small; `best` thick."""
    from matplotlib import colormaps

    figure = drawing(width=max(7.2, 1.8 * (len(axes) + 1)))
    plot = figure.add_subplot()
    every = [*axes, Axis(score, scores)]
    places = [axis.places() for axis in every]
    order = np.argsort(np.argsort(scores)) / max(1, len(scores) - 1)
    for i in sorted(range(len(scores)), key=lambda i: i == best):
        heights = [where[i] for where, _ in places]
        colour = "#cc3311" if i == best else colormaps["viridis"](0.9 * order[i])
        plot.plot(range(len(every)), heights, "o-", markersize=3, color=colour, linewidth=2.6 if i == best else 1.1)
    for x, (_, ticks) in enumerate(places):
        plot.axvline(x, color="#888888", linewidth=0.8, zorder=0)
        for height, label in ticks:
            plot.annotate(
                label,
                (x, height),
                (4, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.6},
            )
    plot.set_xticks(range(len(every)), [axis.name for axis in every])
    plot.set_xlim(-0.15, len(every) - 0.55)
    plot.set_yticks([])
    plot.spines[["top", "right", "left", "bottom"]].set_visible(False)
    return as_png(figure)


def effects(axes: Sequence[Axis], scores: Sequence[float], score: str, best: int) -> bytes:
    """A small plot an option: each trial's score against its value; `best` marked."""
    columns = min(3, len(axes))
    rows = -(-len(axes) // columns)
    figure = drawing(width=max(4.2, 3.2 * columns), height=2.8 * rows)
    for i, axis in enumerate(axes):
        plot = figure.add_subplot(rows, columns, i + 1)
        where, ticks = axis.places()
        plot.scatter(where, scores, s=18, color="#4477aa", alpha=0.8, linewidths=0)
        plot.scatter([where[best]], [scores[best]], s=70, marker="*", color="#cc3311", zorder=3)
        plot.set_xticks([at for at, _ in ticks], [label for _, label in ticks], fontsize=8)
        plot.tick_params(axis="y", labelsize=8)
        plot.set_xlim(-0.08, 1.08)
        plot.set_xlabel(axis.name, fontsize=9)
        if i % columns == 0:
            plot.set_ylabel(score, fontsize=9)
        plot.grid(alpha=0.25)
        plot.spines[["top", "right"]].set_visible(False)
    return as_png(figure)


def _plain(axis: Any) -> None:
    """Labels of a logarithmic axis as plain numbers: of powers of ten, over two decades or fewer of some between."""
    from matplotlib.ticker import FuncFormatter

    def between(value: float, _: int) -> str:
        low, high = axis.get_view_interval()
        decades = math.log10(high / low)
        shown = () if decades > 2 else (2, 5) if decades > 0.7 else range(2, 10)
        return f"{value:g}" if round(value / 10 ** math.floor(math.log10(value) + 1e-9)) in shown else ""

    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(FuncFormatter(between))


def _label(value: Any) -> str:
    text = f"{value:.3g}" if isinstance(value, float) else str(value)
    return (text if len(text) <= 18 else f"{text[:17]}…").replace("$", r"\$")  # matplotlib would set formulas


def drawing(height: float = 4.2, width: float = 7.2) -> Figure:
    """A blank figure of so many inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)  # no pyplot: its global state is not for threads
    return figure


def as_png(figure: Figure) -> Plot:
    """A figure as a PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return Plot(buffer.getvalue())
