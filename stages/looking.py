"""Looking: one piece of a set, seen once: its statistics, the prints of its rows, and a few rows that are kept."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pipeline.data import noise
from pipeline.data.census import Census, Moments, Tally, look
from pipeline.data.coverage import shown
from pipeline.data.damaged import NO_MAP
from pipeline.data.leaks import Damage
from pipeline.data.records import Examples
from pipeline.data.shards import read_shard, write_shard
from pipeline.data.similar import Prints
from pipeline.keys import Key
from pipeline.physics.linear import Identity, LinearMap
from pipeline.place import Place
from pipeline.store import Store
from stages.sets import Batch, Set

SAMPLE = 1 << 16  # rows of a set that are kept, at most
NUMBERS = 1 << 27  # in those rows, at most
AT_ONCE = 1 << 22  # numbers that are looked at together, unless one image has more
WIDEST = 512  # pixels along each side that tell the noise
PROBES = 64  # rows of a batch that tell what an operator which is the same for all of them shows


@dataclass(frozen=True)
class Item:
    """Piece number `k` of all, one of the `among` pieces of set number `s`."""

    k: int
    s: int
    piece: Any
    among: int


def looked(sets: tuple[Set, ...], store: Store, out: Place, item: Item) -> dict[str, Any]:
    """{"set", "census", "kept": {form: [file, rows, file of shown pixels]}} of a piece, done once.

    Its prints and kept rows are written, and which pixels its rows show, "" where those are all.
    """
    told = f"_work/census/{item.k:06d}.json"
    if out.exists(told):
        return json.loads(out.read(told))
    one = sets[item.s]
    census, prints, names = Census(), [], []
    kept: dict[str, _Kept] = {}
    seen: dict[str, np.ndarray] = {}
    for batch in one.read(store, item.piece):
        census += look(batch.rows, batch.kinds)
        for rows, called in _slices(batch):
            damage = one.damage(store, rows.shape, frozenset(rows.operator))
            own, form = bool(set(rows.operator) - NO_MAP), json.dumps(rows.form)
            A = None if damage is None else damage.map(rows.operator if own else {})
            census += _damaged(rows, damage, A, own)
            if form not in seen or not seen[form].all():
                seen[form] = seen.get(form, False) | shown(A, damage)
            prints.append(Prints.of(called, rows.images))
            most = max(1, -(-min(SAMPLE, NUMBERS // math.prod(rows.shape)) // item.among))
            ids = tuple(f"{item.k}/{len(names) + i}/{text}" for i, text in enumerate(called))
            rows = Examples(ids, rows.images, rows.label, rows.operator)
            kept.setdefault(form, _Kept(most)).add(rows, prints[-1].id)
            names += called
    if prints:
        out.write(prints_file(item.k), _packed(Prints.concat(prints), names))
    files = {}
    for n, form in enumerate(sorted(kept)):
        rows = kept[form].rows()
        files[form] = [f"_work/kept/{item.k:06d}-{n}.parquet", len(rows), ""]
        if not seen[form].all():
            files[form][2] = f"_work/seen/{item.k:06d}-{n}.bits"
            out.write(files[form][2], np.packbits(seen[form]).tobytes())
        with out.writing(files[form][0]) as file:
            write_shard(file, rows)
    said = {"set": item.s, "census": census.json(), "kept": files}
    out.write(told, json.dumps(said))
    return said


class _Kept:
    """Of rows that are added, the `most` whose ids have the smallest hashes, in the order in which they came."""

    def __init__(self, most: int):
        self.most = most
        self._parts: list[Examples] = []
        self._hashes = np.empty(0, np.uint64)

    def add(self, rows: Examples, hashes: np.ndarray) -> None:
        few = np.sort(np.argsort(hashes, kind="stable")[: self.most])
        self._parts.append(rows.take(few))
        self._hashes = np.append(self._hashes, hashes[few])
        if len(self._hashes) > 4 * self.most:
            self.rows()

    def rows(self) -> Examples:
        few = np.sort(np.argsort(self._hashes, kind="stable")[: self.most])
        self._parts, self._hashes = [Examples.concat(self._parts).take(few)], self._hashes[few]
        return self._parts[0]


def _slices(batch: Batch) -> Iterator[tuple[Examples, tuple[str, ...]]]:
    """A batch, some millions of numbers at a time, with the names of the rows."""
    step = max(1, AT_ONCE // max(1, math.prod(batch.rows.shape)))
    for i in range(0, len(batch.rows), step):
        yield batch.rows.take(np.arange(i, min(i + step, len(batch.rows)))), batch.names[i : i + step]


def prints_file(k: int) -> str:
    """Where the prints of piece k wait."""
    return f"_work/prints/{k:06d}.npz"


def never_shown(out: Place, files: Sequence[str], shape: tuple[int, ...]) -> np.ndarray | None:
    """The pixels that none of these pieces shows, bools of `shape`; None where every one is shown."""
    if not all(files):
        return None
    never = np.ones(shape, bool)
    for name in files:
        bits = np.unpackbits(np.frombuffer(out.read(name), np.uint8), count=never.size)
        never &= ~bits.astype(bool).reshape(shape)
    return never if never.any() else None


def kept_rows(out: Place, files: tuple[str, ...], most: int = SAMPLE) -> Examples:
    """The kept rows in these files, `most` of them at most; their ids are "piece/row/id"."""
    parts, count = [], 0
    for name in files:
        with out.open(name) as file:
            parts.append(read_shard(io.BytesIO(file.read()), name))
        count += len(parts[-1])
        if count >= most:
            break
    rows = Examples.concat(parts)
    return rows.take(np.arange(min(most, len(rows))))


def _damaged(rows: Examples, damage: Damage | None, A: LinearMap | None, own: bool) -> Census:
    """What is known of the operator and of the noise, and what is found of the noise."""
    tallies, moments, seen = dict[str, Tally](), dict[str, Moments](), None
    sigma = np.zeros(len(rows))
    if damage is not None:
        sigma = damage.sigmas(rows)
        moments["declared σ"] = Moments.of(sigma)
        if A is not None:
            moments["observed share"] = _observed(A, damage.shape, len(rows) if own else PROBES)
            if own and A.out_shape == rows.shape == A.in_shape:
                seen = _centre((A(torch.ones(len(rows), *rows.shape)) != 0).numpy())
    y = _centre(rows.images).astype(np.float32)
    y = y / 127.5 - 1 if rows.images.dtype == np.uint8 else y
    seen = None if seen is None or seen.all() else seen
    tallies["differences, fine"] = noise.tally(noise.differences(y, seen))
    if seen is None and min(rows.shape[-2:]) >= 2 * len(noise.LONG):  # so that both sizes are looked at alike
        tallies["differences, coarse"] = noise.tally(noise.differences(noise.halved(y)))
    if (noisy := np.flatnonzero(sigma > 0)).size:
        scaled = y[noisy] / sigma[noisy].reshape(-1, *(1,) * (y.ndim - 1))
        tallies["differences, ratio"] = noise.tally(noise.differences(scaled, None if seen is None else seen[noisy]))
    return Census(tallies, moments)


def _centre(images: np.ndarray) -> np.ndarray:
    """The middle of large images, enough of them to tell the noise."""
    top, left = (max(0, n - WIDEST) // 2 for n in images.shape[-2:])
    return images[..., top : top + WIDEST, left : left + WIDEST]


def _observed(A: LinearMap, shape: tuple[int, ...], rows: int) -> Moments:
    """vᵀ A⁺A v / n of random signs v: its mean is the share of the image that A shows, exactly so for masks."""
    if isinstance(A, Identity):
        return Moments.of(np.ones(1))
    if A.rows == 1:
        rows = max(1, min(rows, AT_ONCE // math.prod(shape)))
    signs = Key(0).fold("probe").numpy().integers(0, 2, (rows, *shape), dtype=np.int8)
    v = torch.from_numpy(signs).float() * 2 - 1
    return Moments.of((v * A.project(v)).flatten(1).double().mean(1).numpy())


def _packed(prints: Prints, names: list[str]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, name=np.array(names), **vars(prints))
    return buffer.getvalue()
