"""The page of a census: what each set holds, what its damage hides, and the images that are in two sets."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from itertools import islice

import numpy as np
import torch

from pipeline.data.similar import ALIKE, RADIUS
from pipeline.engine.pictures import GROUND, grid
from pipeline.engine.report import Report, Section
from pipeline.graph import Context
from pipeline.physics.linear import Identity
from pipeline.store import Artifact
from stages.duplicates import Row
from stages.findings import Findings, Found
from stages.looking import Item, kept_rows

SHOWN = 8
READ = 64  # batches of a piece in which a row that is to be shown is looked for
HOW = (
    f"Equal: the same pixels in 8 bits. Near: of the 64 lowest frequencies of the grey image at most {RADIUS} differ "
    f"in sign, and their cosine is at least {ALIKE}: re-encoded, resized and re-lit copies, not shifted or cropped "
    "ones. Through the damage: the low frequencies of y differ from those of A x by no more than the noise would make "
    "them in 99.9% of all copies. Recognised and by chance are measured on clean images of the set, damaged anew."
)
NOTHING = "No image was found to be in two sets, and nothing else to be wrong."
Pair = tuple[np.ndarray | None, np.ndarray | None]
NOISE = (
    "σ is in units of [-1, 1] images. Found: the spread of differences of neighbours that smooth images do not have; "
    "texture adds to it, so σ lies between the two numbers. Seen: the mean share of the image that the operator shows."
)


def page(findings: Findings, items: Sequence[Item], at: Context) -> tuple[dict[str, tuple[str, bytes]], Report]:
    """The pictures by name, with their captions, and the report that shows them."""
    report = Report("What the data hold", findings.warnings() or [NOTHING])
    report.parts += [_table(findings.found), _noise(findings.found), _between(findings, items, at)]
    pictures = {f"duplicates-{i}": shown for i, shown in enumerate(report.parts[-1].pictures)}
    for s, one in enumerate(findings.found):
        own = {f"set-{s}": _gallery(one, at)} | ({} if one.never is None else {f"unseen-{s}": _unseen(one)})
        pictures |= own
        report.parts.append(Section(one.name, pictures=list(own.values())))
    report.parts.append(Section("All numbers", code=json.dumps(findings.json(), indent=1, ensure_ascii=False)))
    return pictures, report


def summary(made: Artifact) -> Section:
    """A finished census as one section of another report."""
    told = made.json("census.json")
    rows = []
    for name, one in told["sets"].items():
        noise, seen = one["noise"], one["observed share"]["mean"]
        found = "" if noise["at most"] is None else f"{noise['at least']:.3f} to {noise['at most']:.3f}"
        share = "" if seen is None else f"{seen:.0%}"
        rows.append([name, one["rows"], ", ".join(one["size"]), share, f"{noise['declared']:.3g}", found])
    pictures = [(caption, made.read(f"{name}.png")) for name, caption in told["pictures"].items()]
    header = ["set", "images", "size", "seen", "declared σ", "found σ"]
    return Section("What the data hold", told["warnings"] or [NOTHING], header, rows, pictures)


def _table(found: Sequence[Found]) -> Section:
    rows = []
    for one in found:
        pixels = [m for name, m in one.census.moments.items() if name.startswith("pixels")]
        low, high = min(m.range[0] for m in pixels), max(m.range[1] for m in pixels)
        mean = sum(m.mean for m in pixels) / len(pixels)
        std = math.sqrt(max(0.0, sum(m.std**2 + m.mean**2 for m in pixels) / len(pixels) - mean**2))
        label, sizes = one.census.tally("label"), one.census.tally("size")
        more = f" and {len(sizes.counts) - 1} other sizes" if len(sizes.counts) > 1 else ""
        kind = ", ".join(one.census.tally("format").most(3)) or ", ".join(one.census.tally("stored as").most(2))
        modes = ", ".join(one.census.tally("mode").most(3)) or ", ".join(
            {"1": "grey", "3": "RGB"}.get(n, f"{n} channels") for n in one.census.tally("channels").most(3)
        )
        rows.append(
            [
                one.name,
                one.census.rows,
                f"{next(iter(sizes.most(1)))}{more}",
                f"{kind}, {modes}",
                f"{mean:.3f} ± {std:.3f}",
                f"{low:.2f} to {high:.2f}",
                f"{label.total} in {len(label.counts)} classes" if label.total else "none",
                one.census.tally("captions").total,
                one.census.tally("constant").total,
                one.census.tally("unreadable").total,
            ]
        )
    header = ["set", "images", "size", "kept as", "mean ± std", "range", "labels", "captions", "constant", "unreadable"]
    return Section("What each set holds", header=header, rows=rows)


def _noise(found: Sequence[Found]) -> Section:
    rows = []
    for one in found:
        low, high = one.noise.bounds
        text = "too few differences" if math.isnan(high) else f"{low:.3f} to {high:.3f}"
        seen = one.census.numbers("observed share")
        share = "not known" if math.isnan(seen.mean) else f"{seen.mean:.1%}" if one.own_maps else f"{seen.mean:.0%}"
        least = "" if math.isnan(seen.mean) or not one.own_maps else f"{max(0.0, seen.range[0]):.1%}"
        kind = "not known" if one.damage is None else type(one.damage.corruption).__name__
        rows.append([one.name, kind, share, least, f"{one.noise.declared:.3g}", text, f"{one.clipped:.1%}"])
    header = ["set", "corruption", "seen", "least seen", "declared σ", "found σ", "values at an end of 8 bits"]
    return Section("What is seen, and the noise on it", [NOISE], header, rows)


def _between(findings: Findings, items: Sequence[Item], at: Context) -> Section:
    rows, shown = [], []
    names = [one.name for one in findings.found]
    for s, name in enumerate(names):
        own = findings.duplicates.pairs[s, s]
        rows.append([name, "itself", own.same_ids, own.exact, own.near, "", "", "", ""])
        shown += _pairs(f"twice in {name}", [_both(*pair[1:], findings, items, at) for pair in own.shown])
    for a, b in findings.pairs():
        twice, seen = findings.duplicates.pairs[a, b], findings.between.get((a, b))
        row = [names[a], names[b], twice.same_ids, twice.exact, twice.near]
        caption = f"{names[a]} above, {names[b]} below"
        shown += _pairs(caption, [_both(*pair[1:], findings, items, at) for pair in twice.shown])
        if seen is None:
            rows.append([*row, "", "", "", ""])
            continue
        made = seen.copies
        compared = f"{len(made.damaged)} with {len(made.clean)}"
        chance = f"{made.chance * len(made.damaged):.1f}"
        rows.append([*row, len(made.pairs), chance, f"{made.recall:.1%}", compared])
        if made.likely:
            clean, damaged = findings.found[seen.clean], findings.found[seen.damaged]
            caption = f"recognised through the damage: {clean.name} above, {damaged.name} below"
            shown += _pairs(caption, [(_kept(clean, j, at), _kept(damaged, i, at)) for i, j in seen.shown])
    header = ["set", "and", "same ids", "equal", "near pairs", "through the damage", "by chance", "recognised"]
    share = [f"Near ones were looked for among {findings.duplicates.nearly:.1%} of all images."]
    texts = [HOW, *(share if findings.duplicates.nearly < 1 else [])]
    return Section("Images that are there twice", texts, [*header, "compared"], rows, shown)


def _pairs(caption: str, found: Sequence[Pair]) -> list[tuple[str, bytes]]:
    """One picture of pairs, one image above the other, or none."""
    pairs = [pair for pair in found[:SHOWN] if pair[0] is not None and pair[1] is not None]
    tiles = _tiles([image for side in (0, 1) for pair in pairs if (image := pair[side]) is not None])
    return [(caption, grid(tiles, len(pairs)))] if pairs else []


def _both(first: Row, second: Row, findings: Findings, items: Sequence[Item], at: Context) -> Pair:
    return _fetched(first, findings, items, at), _fetched(second, findings, items, at)


def _fetched(row: Row, findings: Findings, items: Sequence[Item], at: Context) -> np.ndarray | None:
    """The pixels of a row, read once more; None where it lies too deep in its piece."""
    item, start = next(item for item in items if item.k == row.k), 0
    for batch in islice(findings.found[item.s].set.read(at.store, item.piece), READ):
        if row.row < start + len(batch.rows):
            return _pixels(batch.rows.take([row.row - start]).x())[0]
        start += len(batch.rows)
    return None


def _kept(one: Found, name: str, at: Context) -> np.ndarray | None:
    k = int(name.split("/", 1)[0])
    files = tuple(file for file in one.files if f"/{k:06d}-" in file)
    rows = kept_rows(at.out, files)
    return _pixels(rows.take([rows.ids.index(name)]).x())[0]


def _gallery(one: Found, at: Context) -> tuple[str, bytes]:
    """A set's first images; of damaged ones also what is seen, A⁺ y, and the original where it may be shown."""
    rows = kept_rows(at.out, one.files[:1])
    rows = rows.take(np.arange(min(SHOWN if not one.plain else 4 * SHOWN, len(rows))))
    if one.plain or one.damage is None:
        return f"{one.name}: the first {len(rows)} images", grid(_pixels(rows.x()), 2 * SHOWN)
    lines, told = [_pixels(rows.x())], ["as it is kept"]
    A = one.damage.map(rows.operator if one.own_maps else {})
    if A is not None and not isinstance(A, Identity):
        seen = A.project(torch.ones(len(rows), *one.damage.shape))
        lines += [_pixels(2 * seen - 1), _pixels(A.pinv(rows.x()))]
        told += ["what of it is seen, in white", "A⁺ y"]
    before = one.set.originals(at.store, [name.split("/", 2)[2] for name in rows.ids])
    if before is not None:
        lines.append(_pixels(before.x()))
        told.append("the original")
    return f"{one.name}, from above: {'; '.join(told)}.", grid(
        _tiles([image for line in lines for image in line]), len(rows), ground=GROUND
    )


def _unseen(one: Found) -> tuple[str, bytes]:
    """Where no row shows anything, of clips frame by frame, where channels differ one after the other."""
    maps = one.unseen.reshape(-1, 1, *one.unseen.shape[-2:])[: 4 * SHOWN]
    scale = max(1, 128 // max(maps.shape[-2:]))
    return f"{one.name}: in black what no row shows.", grid(np.where(maps, 0, 220).astype(np.uint8), SHOWN, scale)


def _pixels(x: torch.Tensor) -> np.ndarray:
    """Images (N, C, H, W), or the middle frames of clips, as uint8; each with a range wider than [-1, 1] in its own."""
    v = x.numpy()
    v = v[:, :, v.shape[2] // 2] if v.ndim == 5 else v[:, :, None] if v.ndim == 3 else v  # numbers are one line high
    wide = np.quantile(np.abs(v), 0.99, axis=tuple(range(1, v.ndim)), keepdims=True) if v.size else 1.0
    return ((v / np.maximum(1.0, wide) + 1) * 127.5).round().clip(0, 255).astype(np.uint8)


def _tiles(images: Sequence[np.ndarray]) -> np.ndarray:
    """Images (C, H, W) of any sizes in colour, on ground of one size: (N, 3, H, W)."""
    height, width = (max((image.shape[axis] for image in images), default=1) for axis in (1, 2))
    out = np.tile(np.array(GROUND, np.uint8)[:, None, None], (len(images), 1, height, width))
    for place, image in zip(out, images):
        place[:, : image.shape[1], : image.shape[2]] = image if len(image) == 3 else image[:1]
    return out
