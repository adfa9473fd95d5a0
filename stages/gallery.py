"""Gallery: images beside what became of them and what of them is hidden, and what that measures."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.data.declared import Declared, declared
from pipeline.data.ids import ids_of
from pipeline.data.leaks import Damage
from pipeline.data.manifest import Manifest, name
from pipeline.data.records import Examples
from pipeline.data.shards import read_shard
from pipeline.engine.pictures import grid
from pipeline.engine.report import Report, Section
from pipeline.graph import Context, Stage, Step
from pipeline.keys import Key
from pipeline.physics.corruption import Clean, Corruption
from pipeline.physics.linear import LinearMap
from pipeline.physics.masks import PixelMask
from pipeline.store import Artifact
from stages.census_page import summary


@dataclass(frozen=True)
class Gallery(Stage):
    """`report.html` and `metrics.json` of a set that was made from `clean` by a corruption, from its first rows,
    and what a `census` found.

    Measured are the noise, the root mean square of y - A x0, beside its stated one, and the share of an image's
    dimensions that A sees, E |P z|² / |z|² for white z and P = A⁺A; of black boxes only what they change. Of images
    that were seen through A before they arrived nobody has the originals: A⁺ y is shown instead; of those that arrived
    with a sigma each, the noise is stated (the root of the mean of their squares) and not measured.
    """

    clean: Step
    data: Step
    corruption: Corruption
    count: int = 16
    census: Step | None = None

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"count is {self.count}: give the number of rows to show, at least 1")

    def run(self, at: Context) -> None:
        data, clean = at.open(self.data), at.open(self.clean)
        manifest = Manifest.open(data.file)
        first = int(manifest.filled()[0])
        rows = read_shard(data.file(name(first)), name(first))
        rows = rows.take(range(min(self.count, len(rows))))
        before = originals(clean, rows.ids)
        known = declared(manifest.more, rows.shape)
        metrics, pictures = measured(self.corruption, before, rows) if known is None else arrived(rows, known)
        told = {column: manifest.more[column] for column in ("wrong_label", "wrong_caption") if column in manifest.more}
        metrics |= {f"{column}s": said["wrong"] / said["known"] for column, said in told.items()}
        metrics = {"rows": float(manifest.rows), **metrics}
        report = Report("What a corruption did", [f"{manifest.rows} rows of {manifest.shape}, {manifest.dtype}."])
        report.parts.append(Section("Numbers", header=["", ""], rows=[[key, value] for key, value in metrics.items()]))
        report.parts.append(Section("Images", pictures=pictures))
        if told:
            header, lines = (
                ["id", "label", "told", "caption", "told"],
                zip(rows.ids, _said(before), _said(rows), strict=True),
            )
            table = [[text, a, c, b, d] for text, (a, b), (c, d) in lines]
            report.parts.append(Section("What is told of them", header=header, rows=table))
        report.parts += [] if self.census is None else [summary(at.open(self.census))]
        for caption, png in pictures:
            at.tracker.picture(f"{caption}.png", png)
        at.tracker.metrics(metrics, at=0)
        at.out.write("metrics.json", json.dumps(metrics))
        at.out.write("made.json", json.dumps({"set": data.address}))
        at.out.write("report.html", report.html())


def measured(
    corruption: Corruption, before: Examples, rows: Examples
) -> tuple[dict[str, float], list[tuple[str, bytes]]]:
    """Numbers and pictures of originals and of the rows that a corruption made of them."""
    x0, y = before.x(), rows.x()
    metrics: dict[str, float] = {}
    pictures = [("before", _picture(x0))]
    known = PixelMask(0.0) if "mask" in rows.operator and isinstance(corruption, Clean) else corruption
    try:
        A = known.at(rows.operator, before.shape)
    except ValueError:  # a black box, or a mixture with one
        if x0.shape == y.shape:
            metrics["changed_rms"] = float((y - x0).square().mean().sqrt())
            return metrics, [*pictures, ("told", _picture(y)), ("changed", _picture(y - x0))]
        return metrics, [*pictures, ("told", _picture(y))]
    metrics["observed"] = _observed(A, tuple(x0.shape))
    if isinstance(corruption, Clean) and "sigma" in rows.operator:  # it came with them; nobody has the x0
        metrics["noise_stated"] = float(np.sqrt((rows.operator["sigma"].astype(np.float64) ** 2).mean()))
    else:
        metrics["noise_rms"] = float((y - A(x0)).square().mean().sqrt())
        metrics["noise_stated"] = float(known.variance(A(x0), rows.operator).mean().sqrt())
    shown = y if y.ndim == x0.ndim else A.pinv(y)
    return metrics, [*pictures, ("told", _picture(shown)), ("hidden", _picture(x0 - A.project(x0)))]


def arrived(rows: Examples, known: Declared) -> tuple[dict[str, float], list[tuple[str, bytes]]]:
    """Numbers and pictures of rows that were seen through a known operator before they arrived."""
    A, y = known.corruption.at({}, known.whole), rows.x()
    sigma = Damage(known.corruption, known.whole).sigmas(rows)
    metrics = {"observed": _observed(A, (len(rows), *known.whole)), "noise_stated": float(np.sqrt((sigma**2).mean()))}
    return metrics, [("told", _picture(y)), ("pseudo-inverse", _picture(A.pinv(y)))]


def _observed(A: LinearMap, shape: tuple[int, ...]) -> float:
    z = torch.from_numpy(Key(0).fold("gallery").numpy().standard_normal(shape, dtype=np.float32))
    return float(A.project(z).square().sum() / z.square().sum())


def originals(clean: Artifact, ids: tuple[str, ...], shards: int | None = None) -> Examples:
    """The rows with these ids, in their order: the shards are searched from the first, where those of a part begin.

    Raises: LookupError: they are not in the first so many `shards`.
    """
    missing, parts = set(ids), []
    for i in Manifest.open(clean.file).filled()[:shards].tolist():
        (here,) = ids_of(clean.place.open, [i])
        if places := [k for k, text in enumerate(here) if text in missing]:
            parts.append(read_shard(clean.file(name(i)), name(i)).take(places))
            missing -= set(here)
        if not missing:
            break
    if missing:
        raise LookupError(f"{len(missing)} of {len(ids)} rows are not in {clean.address}, as far as it was read")
    found = Examples.concat(parts)
    where = {text: k for k, text in enumerate(found.ids)}
    return found.take([where[text] for text in ids])


def _said(rows: Examples) -> list[tuple[Any, str]]:
    captions = rows.caption or ("",) * len(rows)
    return [("" if label < 0 else int(label), text[:200]) for label, text in zip(rows.label, captions, strict=True)]


def _picture(x: Tensor) -> bytes:
    """Images (B, C, H, W) side by side, or a few clips (B, C, T, H, W) in a line each, brought into [-1, 1]."""
    if x.ndim not in (4, 5):
        x = x.flatten(1)[:, None, None]
    columns = 16 if x.ndim == 4 else x.shape[2]
    x = x / x.flatten(1).abs().amax(1).clamp(min=1).reshape(-1, *[1] * (x.ndim - 1))
    if x.ndim == 5:
        x = x[:4].transpose(1, 2).flatten(0, 1)
    return grid(((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy(), columns)
