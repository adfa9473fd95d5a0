"""Judge: sets of samples against held-out images in one feature space, and against what was learned from.

Every piece of every set is turned into features once, on the cluster; what is found of each adds up (moments by group)
or is a bounded choice of rows by their rank under a key (see `pipeline/metrics/judging.py`). Then the learned images
are gone through, each against the kept rows of every set: no more than a piece of them is ever held.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch

from pipeline.data.manifest import Manifest, name
from pipeline.data.permute import Permutation
from pipeline.data.shards import read_shard
from pipeline.engine import tasks
from pipeline.engine.pictures import grid, pixels
from pipeline.graph import Context, Stage, Step
from pipeline.metrics.features import DESCRIPTION, Extract, Features, finite, undescribed
from pipeline.metrics.interval import Estimate
from pipeline.metrics.judging import Described, Judging, joined, memorised
from pipeline.metrics.memorisation import Nearest
from pipeline.metrics.moments import Moments
from pipeline.place import Place
from pipeline.store import Artifact
from stages.extractors import told

PIECES = 32  # of a set, at most: each answers with its moments
AT_ONCE = 256
QUERIES = "_work/queries.npy"
HELD_OUT = "held out"
SHOWN = 12  # rows of a set, beside the learned images that they lie closest to


@dataclass(frozen=True)
class Drawn:
    """Samples under the name of what drew them."""

    name: str
    samples: Step


@dataclass(frozen=True)
class Judge(Stage):
    """`judgement.json`: {"numbers", "cards", "lacking"} of each set of samples; every number has interval and card.

    Where there are learned images, "nearest" names a picture of each set, and of the held-out images: the rows that lie
    closest to a learned image, for how close the next one is, above that image.

    Args:
        drawn: the samples.
        reference: held-out images.
        learned: images that the models learned from, in which copies are looked for.
        judging: in which features, and how.
        extractor: the step that makes the features, if they are not those of `judging`.
    """

    version: ClassVar[int] = 2  # 2: pictures of the nearest learned images

    drawn: tuple[Drawn, ...]
    reference: Step
    learned: Step | None = None
    judging: Judging = Judging()
    extractor: Step | None = None

    def __post_init__(self) -> None:
        names = [one.name for one in self.drawn]
        if not names or len({HELD_OUT, *names}) <= len(names):
            raise ValueError(f"give samples under different names, none of which is '{HELD_OUT}': {', '.join(names)}")

    def run(self, at: Context) -> None:
        made = None if self.extractor is None else at.open(self.extractor)
        eye = Eye(self.judging, made)
        reference, samples = at.open(self.reference), [at.open(one.samples) for one in self.drawn]
        for one, data in zip(self.drawn, samples, strict=True):
            here, there = (tuple(Manifest.open(d.file).shape) for d in (data, reference))
            if here != there:
                raise ValueError(f"{one.name} drew images {here}, those held out are {there}: name others")
        found, rows = _describe(eye, [reference, *samples], at)
        near, learned = self._nearest(eye, found, at)
        compared = tasks.each(partial(_compared, self.judging, found[0]), found[1:], at)
        said: dict[str, Any] = {"numbers": {}, "cards": {}, "lacking": {}}
        if near and self.learned is not None:
            said["held_out"] = _shown(memorised(near[0])[0])
            names = [HELD_OUT, *(one.name for one in self.drawn)]
            said["nearest"] = _pictures(at.open(self.learned), [reference, *samples], rows, near, names, at)
        card = told(made, self.judging.features)
        for i, (numbers, lacking) in enumerate(compared):
            who, mine = self.drawn[i].name, near[i + 1] if near else None
            if mine is not None:
                shares, too_few = memorised(mine)
                numbers, lacking = numbers | shares, lacking | too_few
            more = {"reference": reference.address, "samples_of": samples[i].address, **_seed(samples[i])}
            cards = self.judging.cards(found[i + 1], found[0], learned, mine)
            said["numbers"][who], said["lacking"][who] = _shown(numbers), lacking
            said["cards"][who] = {
                metric: {**cards[metric], **card, **more, "interval": estimate.interval}
                | ({"learned": self.learned.address} if self.learned and "learned_images" in cards[metric] else {})
                for metric, estimate in numbers.items()
            }
        at.out.write("judgement.json", json.dumps(said, indent=1, ensure_ascii=False))
        at.tracker.metrics(flat(said), at=0)
        at.tracker.card("judgement", said)

    def _nearest(self, eye: Eye, found: Sequence[Described], at: Context) -> tuple[list[Nearest], int | None]:
        """Of the kept rows of each set among all learned images, and how many those are."""
        if self.learned is None:
            return [], None
        learned, buffer = at.open(self.learned), io.BytesIO()
        queries, sizes = torch.cat([one.kept for one in found]), [len(one.kept) for one in found]
        np.save(buffer, queries.numpy())
        at.out.write(QUERIES, buffer.getvalue())
        near = Nearest.none(len(queries))
        for part in tasks.each(partial(_near, eye, learned, at.out), _pieces(learned), at):
            near += part
        parts = [near.similarity.split(sizes), near.distances.split(sizes), near.row.split(sizes)]
        return [Nearest(*one) for one in zip(*parts, strict=True)], Manifest.open(learned.file).rows


def _pictures(
    learned: Artifact, sets: list[Artifact], rows: list[np.ndarray], near: list[Nearest], names: list[str], at: Context
) -> dict[str, Any]:
    """{"file", "ratios"} of each set by name: the rows closest to a learned image, and that image below each."""
    told = {}
    closest = [one.ratio.argsort(stable=True)[:SHOWN] for one in near]
    items = [(data, mine[k.numpy()], one.row[k].numpy()) for data, mine, one, k in zip(sets, rows, near, closest)]
    for i, png in tasks.each(partial(_picture, learned), list(enumerate(items)), at):
        at.out.write(f"nearest-{i:02d}.png", png)
        ratios = near[i].ratio[closest[i]].tolist()
        told[names[i]] = {"file": f"nearest-{i:02d}.png", "ratios": ratios}
    return {name: told[name] for name in names}


def flat(judgement: dict[str, Any]) -> dict[str, float]:
    """{"frechet/<name>", ...} of all numbers in a `judgement.json`."""
    numbers = judgement["numbers"]
    return {f"{metric}/{who}": one["value"] for who, found in numbers.items() for metric, one in found.items()}


@dataclass(frozen=True)
class Eye:
    """What turns images into features, wherever it is."""

    judging: Judging
    made: Artifact | None

    def open(self) -> tuple[Features, Extract]:
        """The features and the map."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        made = self.made
        if made is None:
            features = self.judging.features
            return features, features.open(lambda file: b"", device)
        features = undescribed(made.read(DESCRIPTION))
        return features, features.open(made.read, device)

    def over(self, data: Artifact, shards: Sequence[int]) -> Any:
        """(number of the first row, features (B, n)) of the rows in these shards, a bounded number at a time."""
        features, extract = self.open()
        ends = Manifest.open(data.file).ends
        for i in shards:
            rows, first = read_shard(data.file(name(i)), f"{name(i)} of {data.address}"), int(ends[i - 1]) if i else 0
            for k in range(0, len(rows), AT_ONCE):
                at = np.arange(k, min(k + AT_ONCE, len(rows)))
                yield first + k, finite(extract(rows.x(at)), rows.ids[k : k + AT_ONCE], features.card)


def _describe(eye: Eye, sets: Sequence[Artifact], at: Context) -> tuple[list[Described], list[np.ndarray]]:
    """Each set's description, and which of its rows those are that it kept."""
    items = [(s, piece) for s, data in enumerate(sets) for piece in _pieces(data)]
    moments: list[tuple[Moments, ...]] = [() for _ in sets]
    ranks, numbers, kept = ([[] for _ in sets] for _ in range(3))
    for done, (s, parts, rank, number, rows) in enumerate(tasks.each(partial(_seen, eye, tuple(sets)), items, at), 1):
        moments[s] = joined([moments[s], parts]) if moments[s] else parts
        ranks[s].append(rank)
        numbers[s].append(number)
        kept[s].append(rows)
        at.tracker.metrics({"done": 0.5 * done / len(items)}, at=done)
    found, which = [], []
    for s in range(len(sets)):
        rank, rows = np.concatenate(ranks[s]), np.concatenate(kept[s])
        order = np.argsort(rank)
        which.append(np.concatenate(numbers[s])[order])
        group = torch.from_numpy(rank[order] % len(moments[s]))
        count = sum(part.count for part in moments[s])
        found.append(Described(count, moments[s], torch.from_numpy(rows[order]), group))
    return found, which


def _seen(
    eye: Eye, sets: tuple[Artifact, ...], item: tuple[int, tuple[int, ...]]
) -> tuple[int, tuple[Moments, ...], np.ndarray, np.ndarray, np.ndarray]:
    """(set, moments by group, ranks and numbers of the kept rows, their features float32) of a piece."""
    s, shards = item
    count = Manifest.open(sets[s].file).rows
    rank_of = Permutation(count, eye.judging.key.fold("order"))
    parts: tuple[Moments, ...] = ()
    ranks, numbers, kept = [], [], []
    for first, features in eye.over(sets[s], shards):
        rank, groups = rank_of(np.arange(first, first + len(features))), eye.judging.groups_of(count, features.shape[1])
        new = tuple(Moments.of(features[torch.from_numpy(rank % groups == g)]) for g in range(groups))
        parts = joined([parts, new]) if parts else new
        few = rank < eye.judging.most
        ranks.append(rank[few])
        numbers.append(first + np.flatnonzero(few))
        kept.append(features.numpy()[few].astype(np.float32))
    return s, parts, np.concatenate(ranks), np.concatenate(numbers), np.concatenate(kept)


def _near(eye: Eye, learned: Artifact, out: Place, shards: tuple[int, ...]) -> Nearest:
    queries = torch.from_numpy(np.load(io.BytesIO(out.read(QUERIES)), allow_pickle=False))
    near = Nearest.none(len(queries))
    for first, features in eye.over(learned, shards):
        near += Nearest.of(queries, features.float(), first)
    return near


def _picture(learned: Artifact, item: tuple[int, tuple[Artifact, np.ndarray, np.ndarray]]) -> tuple[int, bytes]:
    """Rows of a set, and below each the row of `learned` that is nearest; of clips a line each."""
    i, (data, mine, theirs) = item
    above, below = _rows(data, mine), _rows(learned, theirs)
    clips = above.ndim == 5
    rows = np.stack([above, below], 1).reshape(-1, *above.shape[1:]) if clips else np.concatenate([above, below])
    return i, grid(pixels(rows), columns=len(mine))


def _rows(data: Artifact, numbers: np.ndarray) -> np.ndarray:
    """The images (N, *) of these rows; a shard is opened once."""
    ends = Manifest.open(data.file).ends
    shards = np.searchsorted(ends, numbers, side="right")
    found: dict[int, np.ndarray] = {}
    for i in np.unique(shards).tolist():
        first, rows = int(ends[i - 1]) if i else 0, read_shard(data.file(name(i)), f"{name(i)} of {data.address}")
        there = numbers[shards == i]
        found |= dict(zip(there.tolist(), rows.x(there - first).numpy(), strict=True))
    return np.stack([found[number] for number in numbers.tolist()])


def _compared(judging: Judging, real: Described, made: Described) -> tuple[dict[str, Estimate], dict[str, str]]:
    return judging.compare(made, real)


def _pieces(data: Artifact) -> list[tuple[int, ...]]:
    shards = Manifest.open(data.file).filled().tolist()
    width = -(-len(shards) // PIECES) if shards else 1
    return [tuple(shards[i : i + width]) for i in range(0, len(shards), width)]


def _shown(numbers: dict[str, Estimate]) -> dict[str, dict[str, Any]]:
    return {name: asdict(one) for name, one in numbers.items()}


def _seed(samples: Artifact) -> dict[str, Any]:
    """That of the samples, where they say it."""
    return {"sample_seed": samples.json("card.json")["seed"]} if "card.json" in samples.names() else {}
