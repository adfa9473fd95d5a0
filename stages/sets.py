"""Sets: rows that a census looks at, whether they lie in the store or still in somebody's folder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import groupby, islice
from typing import Any, ClassVar

import numpy as np

from pipeline import config
from pipeline.data.damaged import operator_row
from pipeline.data.declared import Declared, declared
from pipeline.data.images import BadImage, NotFinite, read_image
from pipeline.data.leaks import Damage
from pipeline.data.manifest import Manifest, name
from pipeline.data.records import Examples
from pipeline.data.shards import read_shard
from pipeline.data.sources import Source
from pipeline.graph import Step
from pipeline.physics.corruption import Clean, Corruption
from pipeline.physics.masks import PixelMask
from pipeline.store import Artifact, Store, StoreError

MOST = 1024  # pieces in a set: what each of them reports is small and held
AT_ONCE = 1 << 24  # numbers of decoded images that are held together, about
LOOKED = 64  # shards in which the originals of shown rows are looked for
SIGNATURES = {
    b"\x89PNG": "PNG",
    b"\xff\xd8": "JPEG",
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"RIFF": "WEBP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
}


@dataclass(frozen=True)
class Batch:
    """Rows of one shape; `kinds` are tallies of how they were stored and of what could not be read."""

    rows: Examples
    names: tuple[str, ...]
    kinds: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Set(ABC):
    """A set under its name."""

    name: str
    same_id_same_image: ClassVar[bool] = False

    @abstractmethod
    def pieces(self, store: Store) -> list[Any]:
        """Bounded pieces of work, `MOST` at most, each of parts that are read one after the other."""

    @abstractmethod
    def read(self, store: Store, piece: Any) -> Iterator[Batch]:
        """The rows of a piece, in its order, a bounded number at a time."""

    @abstractmethod
    def damage(self, store: Store, shape: tuple[int, ...], columns: frozenset[str]) -> Damage | None:
        """How rows of `shape` with these operator columns were seen; None where that is not known."""

    def unread(self) -> Mapping[str, int]:
        """How many files beside the images are of kinds that are not read, by kind."""
        return {}

    def originals(self, store: Store, ids: Sequence[str]) -> Examples | None:
        """What rows were made from, in the order of `ids`, where that is known and may be shown beside them."""
        return None


@dataclass(frozen=True)
class Stored(Set):
    """A set of rows in the store."""

    data: Step
    same_id_same_image: ClassVar[bool] = True

    def pieces(self, store: Store) -> list[Any]:
        shards = Manifest.open(store.artifact(self.data.address).file).filled().tolist()
        return _grouped(shards)

    def read(self, store: Store, piece: Any) -> Iterator[Batch]:
        data = store.artifact(self.data.address)
        for i in piece:
            rows = read_shard(data.file(name(i)), f"{name(i)} of {data.address}")
            yield Batch(rows, rows.ids)

    def damage(self, store: Store, shape: tuple[int, ...], columns: frozenset[str]) -> Damage | None:
        made = self._corrupted(store)
        tree, more = made.manifest["config"], Manifest.open(made.file).more
        try:
            known = declared(more, shape)
            corruption = config.from_json(Corruption, tree["corruption"]) if "corruption" in tree else Clean()
        except ValueError:  # a corruption of somebody's own that is not here
            return None
        if known is not None:
            return Damage(known.corruption, known.whole)
        before = self._before(store, made)
        if isinstance(corruption, Clean):
            return Damage(PixelMask(0.0) if "mask" in columns else corruption, shape)
        return None if before is None else Damage(corruption, Manifest.open(before.file).shape)

    def originals(self, store: Store, ids: Sequence[str]) -> Examples | None:
        made = self._corrupted(store)
        before = self._before(store, made)
        found: dict[str, Examples] = {}
        if before is None or "damage" in Manifest.open(made.file).more:
            return None  # or nobody has the originals
        for i in Manifest.open(before.file).filled().tolist()[:LOOKED]:
            rows = read_shard(before.file(name(i)), name(i))
            found |= {text: rows.take([k]) for k, text in enumerate(rows.ids) if text in ids}
            if len(found) == len(set(ids)):
                return Examples.concat([found[text] for text in ids])
        return None

    def _corrupted(self, store: Store) -> Artifact:
        """What last changed the images: labels and captions may have been told wrong since."""
        made = store.artifact(self.data.address)
        while "condition" in made.manifest["config"] and (before := self._before(store, made)) is not None:
            made = before
        return made

    def _before(self, store: Store, made: Artifact) -> Artifact | None:
        address = made.manifest["needs"].get("data")
        try:
            return None if address is None else store.artifact(address)
        except StoreError:
            return None


@dataclass(frozen=True)
class Arrived(Stored):
    """Rows of another collection than the other sets are of, so that equal ids say nothing."""

    same_id_same_image: ClassVar[bool] = False


@dataclass(frozen=True)
class Found(Set):
    """A collection as it was found, each image in its own size and in colour if it is.

    Args:
        source: where the images are.
        sigma: std of the noise that they are declared to have, in units of [-1, 1] images; None: as they say.
        seen_through: what all of them went through before they arrived.
        snapshot: what `stages.ingest.snapshot(source)` said, so that changed files are counted again.
    """

    source: Source
    sigma: float | None = None
    snapshot: str = ""
    seen_through: Corruption | None = None

    def pieces(self, store: Store) -> list[Any]:
        return _grouped(self.source.pieces())

    def read(self, store: Store, piece: Any) -> Iterator[Batch]:
        found = (self._decoded(raw) for part in piece for raw in self.source.read(part))
        for form, group in groupby(found, key=lambda one: one.get("form")):
            if form is None:
                for one in group:
                    kinds = {"unreadable": {one["why"]: 1}, "not finite": {"images": one["not finite"]}}
                    yield Batch(Examples((), np.empty((0, 1, 1), np.uint8)), (), kinds)
                continue
            while batch := list(islice(group, max(1, min(1024, AT_ONCE // form[0])))):
                yield _batch(batch)

    def damage(self, store: Store, shape: tuple[int, ...], columns: frozenset[str]) -> Damage | None:
        if self.seen_through is not None:
            known = _known(self.seen_through, shape)
            return Damage(known.corruption, known.whole, self.sigma)
        return Damage(PixelMask(0.0) if "mask" in columns else Clean(), shape, self.sigma)

    def unread(self) -> Mapping[str, int]:
        return self.source.unread()

    def _decoded(self, raw: Any) -> dict[str, Any]:
        try:
            pixels, head = read_image(raw.image, raw.name)
            known = None if self.seen_through is None else _known(self.seen_through, pixels.shape)
            row = operator_row(raw.damage, head, pixels.shape, raw.name, known is not None)
            pixels = pixels if known is None else known.y(pixels)
        except BadImage as error:
            return {"why": str(error), "not finite": isinstance(error, NotFinite)}
        form = (pixels.size, pixels.shape, tuple(sorted(row)), raw.caption is None)
        return {"form": form, "raw": raw, "pixels": pixels, "row": row, "mode": head.stored, "turned": head.turned}


_known = lru_cache(16)(Declared)  # probing what an operator sees takes longer than looking at an image through it


def _batch(found: list[dict[str, Any]]) -> Batch:
    raws = [one["raw"] for one in found]
    names = tuple(raw.id for raw in raws)
    kinds = {
        "format": Counter(_format(raw.image) for raw in raws),
        "mode": Counter(one["mode"] for one in found),
        "turned upright": Counter(images=sum(one["turned"] for one in found)),
    }
    operator = {key: np.stack([np.asarray(one["row"][key]) for one in found]) for key in found[0]["row"]}
    label = np.array([-1 if raw.label is None else raw.label for raw in raws], np.int64)
    caption = () if raws[0].caption is None else tuple(raw.caption for raw in raws)
    unique = tuple(f"{i}/{text}" for i, text in enumerate(names))  # two of a stranger's ids may be one
    rows = Examples(unique, np.stack([one["pixels"] for one in found]), label, operator, caption)
    return Batch(rows, names, kinds)


def _format(image: Any) -> str:
    if isinstance(image, tuple):
        return f"{_format(image[0])}, {len(image)} frames" if image else "no frames"
    if isinstance(image, np.ndarray):
        return "array"
    return next((kind for start, kind in SIGNATURES.items() if image.startswith(start)), "PPM")


def _grouped(parts: list[Any]) -> list[Any]:
    width = -(-len(parts) // MOST) if parts else 1
    return [tuple(parts[i : i + width]) for i in range(0, len(parts), width)]
