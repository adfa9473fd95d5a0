"""Refresh: some of the noisy rows are denoised anew and take the place of what was made of them before."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from pipeline.data.hiding import check_whole
from pipeline.data.ids import ids_of
from pipeline.data.manifest import Manifest, name
from pipeline.data.ranks import Between
from pipeline.data.records import Examples
from pipeline.data.shards import read_shard
from pipeline.diffusion.denoiser import Network
from pipeline.engine import cluster
from pipeline.engine.shards import Report, map_shards
from pipeline.engine.tasks import sweep
from pipeline.graph import Context, Step
from pipeline.keys import Key
from pipeline.metrics.kernel import mmd2
from pipeline.store import Artifact
from stages.ambient import told_noise
from stages.corrupt import Part, load
from stages.denoise import Denoise, denoised, loaded
from stages.layers import KEPT, TURN, Layer, in_front, known, layers

LEAST = 8  # at least one of so many rows tried takes its place, however little better they are
JUDGED = 1024  # rows a side that are compared, at most
HELD = 1024.0  # GiB: rows that are judged were held by those who trained on them


@dataclass(frozen=True)
class Refresh(Layer):
    """Rows that are next in an order of all, denoised as `asked` says; the others stay as they are in `before`.

    The order is keyed by the rows' ids and gone through again and again, so that between two turns of a row every other
    has one: what is oldest goes first. `refresh.json` says which ranks had their turn.

    Args:
        asked: of which rows, by which model and how.
        before: what was made of all rows so far; None: all of them have their turn.
        part: of the rows, that are tried in a turn.
        adaptive: whether fewer of them take their place where they are little nearer to the noisy rows, noise added
            again, than what they would replace: the share by which the kernel distance of pixels falls, an eighth of
            those tried at least. The others are tried again in the next turn.
        order: seed of the order, the same for a whole chain.
    """

    asked: Denoise
    before: Step | None = None
    part: float = 0.25
    adaptive: bool = False
    order: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.part <= 1:
            raise ValueError(f"part is {self.part}: give the share of the rows that have their turn, within (0, 1]")
        if self.adaptive and self.asked.noise is None:
            raise ValueError("each noisy image has a noise of its own, so none can judge: leave out adaptive")

    @property
    def shape(self) -> tuple[int, ...]:
        return self.asked.shape

    def run(self, at: Context) -> None:
        data = at.open(self.asked.data)
        told = Manifest.open(data.file)
        check_whole(told, data)
        told_noise(told, data, self.asked.noise)
        first, count = 0, told.rows
        if self.before is not None:
            first, count = turn(at.open(self.before).json(TURN)["next"], told.rows, self.part)
        bare = replace(self.asked, model=known(self.asked.model), data=known(self.asked.data))
        load_model = partial(loaded, at.open(self.asked.model), tuple(told.shape))
        tried = self._ranks(first, count, told, data, at)
        counts = map_shards(partial(_some, bare, data, tried), told.filled().tolist(), at, load=load_model)
        made, said = Manifest.of(counts, told.shape, "float16"), {}
        if self.before is not None and self.adaptive:
            new = [read_shard(at.out.open(name(i)), name(i)) for i in made.filled().tolist()]
            old = [at.open(layer) for layer in layers(self.before)]
            said = cluster.call(at.scale, _compared, bare, Examples.concat(new), old, data)
            count = worth(said["old"], said["new"], count)
            at.out.write(KEPT, self._kept(self._ranks(first, count, told, data, at), made, at))
        end = first + count
        turned = {"first": first, "count": count, "tried": made.rows, "next": end % told.rows, **said}
        at.out.write(TURN, json.dumps(turned))
        made.write(at.out)
        at.tracker.metrics({"refreshed": count}, at=end)

    def _ranks(self, first: int, count: int, told: Manifest, data: Artifact, at: Context) -> Between:
        return Part(first, count, self.order).of(told, data, partial(sweep, at=at))

    def _kept(self, those: Between, made: Manifest, at: Context) -> bytes:
        kept, packed = [], io.BytesIO()
        for ids in ids_of(at.out.open, made.filled().tolist()):
            kept.append(np.isin(np.arange(len(ids)), those.places(ids)))
        np.save(packed, np.concatenate(kept))
        return packed.getvalue()


def turn(first: int, rows: int, part: float) -> tuple[int, int]:
    """(first rank, how many) of the next turn: as many as the part has, or what is left of the order."""
    return first, min(max(1, round(part * rows)), rows - first)


def worth(old: float, new: float, tried: int) -> int:
    """How many of the rows tried take their place, given the distances of those there and of those tried."""
    gain = (old - new) / old if old > 0 else 0.0
    return max(-(-tried // LEAST), min(tried, round(gain * tried)))


def _some(
    asked: Denoise, data: Artifact, chosen: Between, piece: int, model: Callable[[], Network]
) -> tuple[Examples | None, Report]:
    (ids,) = ids_of(data.place.open, [piece])
    places = chosen.places(ids)
    if not len(places):
        return None, {}
    return denoised(asked, read_shard(data.file(name(piece)), name(piece)).take(places), model(), data), {}


def _compared(asked: Denoise, new: Examples, old: list[Artifact], data: Artifact) -> dict[str, Any]:
    """Kernel distances in pixels from noisy rows, of rows tried and of those there, the same noise added to both."""
    noisy, key = load(data), Key(asked.seed).fold("refresh")
    there = in_front(old, HELD)
    index = {text: k for k, text in enumerate(there.ids)}
    chosen = np.sort(key.fold("new").numpy().permutation(len(new))[:JUDGED])
    others = np.sort(key.fold("noisy").numpy().permutation(len(noisy))[:JUDGED])
    z = torch.stack([torch.randn(new.shape, generator=key.fold(new.ids[k]).torch()) for k in chosen])
    want = noisy.x(others).flatten(1).double()
    said = {}
    for called, x in (("new", new.x(chosen)), ("old", there.x([index[new.ids[k]] for k in chosen]))):
        said[called] = float(mmd2((x + (asked.noise or 0.0) * z).flatten(1).double(), want))
    return said
