"""The story of a run, read from its artifacts: what went in and what was hidden, how training went, what came of it.

A recipe's own report compares and judges; this one is of any recipe, and of any artifact.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from pipeline import config
from pipeline.data.manifest import Manifest, name
from pipeline.data.shards import read_shard
from pipeline.engine import preview
from pipeline.engine.ancestry import ancestry
from pipeline.engine.histories import Points, histories
from pipeline.engine.pictures import courses, grid, pixels
from pipeline.engine.report import Link, Report, Section
from pipeline.learning.weights import DESCRIPTION
from pipeline.physics.corruption import Clean, Corruption
from pipeline.store import Artifact, Store, StoreError
from stages.gallery import measured, originals
from stages.sets import LOOKED

SHOWN = 16  # rows of a set
HEAD = 12  # numbers that are shown first
PICTURES = 24  # of samples


def story(store: Store, address: str, title: str, links: Sequence[tuple[str, str]] = ()) -> Report:
    """The page of an artifact and of all that it was made from; `links` are (what, relative path) of other pages."""
    made = upstream(store, address)
    target, trained = made[address], {at: one for at, one in made.items() if is_model(one) and trained_on(one)}
    label = target.manifest["label"]
    metrics = numbers(target)
    lead = [
        f"{label}: {address}, made {target.manifest['created'].replace('T', ' ')[:16]} UTC from {len(made) - 1} steps."
    ]
    report = Report(title, lead)
    if links:
        report.parts.append(Section("Pages", header=["", ""], rows=[[what, Link(path, path)] for what, path in links]))
    if metrics:
        shown: list[list[str | float | int | Link]] = [[key, value] for key, value in metrics.items()]
        report.parts.append(Section("What came of it", header=["metric", "value"], rows=shown[:HEAD]))
    needs: dict[str, list[str]] = {}
    for one in made.values():  # the sets of several seeds have one label
        needs.setdefault(one.manifest["label"], []).extend(made[n].manifest["label"] for n in needed(one) if n in made)
    kinds = {one.manifest["label"]: kind(one) for one in made.values()}
    told = ["Yellow: data; blue: models; grey: what was measured. Every step stands below all that it was made from."]
    drawn = [("lineage", ancestry(needs, kinds))]
    report.parts.append(Section("What was made from what", told, pictures=drawn))
    report.parts += went_in(store, made)
    report.parts += training(trained, histories(store, trained, "loss") if trained else {})
    report.parts += samples(made)
    report.parts.append(costs(made))
    cards = {one.manifest["label"]: card for one in made.values() for card in [cards_of(one)] if card}
    if cards:
        text = "Every number's card: extractor, images, seeds, intervals."
        report.parts.append(
            Section("How it was measured", [text], code=json.dumps(cards, indent=1, ensure_ascii=False))
        )
    report.parts.append(
        Section("Its options", code=json.dumps(target.manifest["config"], indent=1, ensure_ascii=False))
    )
    return report


def upstream(store: Store, address: str) -> dict[str, Artifact]:
    """An artifact and all that it was made from, first things first; what was deleted since is passed over."""
    found: dict[str, Artifact] = {}
    seen, stack = set[str](), [(address, False)]
    while stack:
        at, ready = stack.pop()
        if ready:
            found[at] = store.artifact(at)
        elif at not in seen:
            seen.add(at)
            try:
                needs = needed(store.artifact(at))
            except StoreError:
                if at == address:
                    raise
                continue
            stack += [(at, True), *((need, False) for need in reversed(needs))]
    return found


def needed(one: Artifact) -> list[str]:
    """The addresses that an artifact was made from."""
    return list(dict.fromkeys(one.manifest["needs"].values()))


def is_model(one: Artifact) -> bool:
    """Whether it holds a denoiser."""
    return DESCRIPTION in one.names()


def is_set(one: Artifact) -> bool:
    """Whether it holds rows."""
    return "dataset.json" in one.names()


def kind(one: Artifact) -> str:
    """What it is in the picture of all."""
    return "model" if is_model(one) else "data" if is_set(one) and not one.address.startswith("sample/") else "other"


def numbers(one: Artifact) -> dict[str, float]:
    """What it measured."""
    found = one.json("metrics.json") if "metrics.json" in one.names() else {}
    return {key: float(value) for key, value in found.items() if isinstance(value, int | float)}


def trained_on(one: Artifact) -> int:
    """How many images a model saw in its training, 0 where it had none of its own."""
    return int(numbers(one).get("images", 0))


def went_in(store: Store, made: Mapping[str, Artifact]) -> list[Section]:
    """A section for each set that no model had a part in: its rows, what they were, and what of them is hidden."""
    parts, after = [], set[str]()
    for address, one in made.items():
        if is_model(one) or after.intersection(one.manifest["needs"].values()):
            after.add(address)
        elif address.split("/")[0] in ("ingest", "corrupt") and len(Manifest.open(one.file).filled()):
            try:
                parts.append(_looked_at(store, one))
            except StoreError as error:  # rotted, which is no reason to have no story
                parts.append(Section(f"What went in: {one.manifest['label']}", [str(error)]))
    return parts


def _looked_at(store: Store, one: Artifact) -> Section:
    manifest = Manifest.open(one.file)
    shard = name(int(manifest.filled()[0]))
    rows = read_shard(one.file(shard), shard)
    rows = rows.take(range(min(SHOWN, len(rows))))
    said, title = [f"{manifest.rows:,} rows of {manifest.shape}, {manifest.dtype}."], one.manifest["label"]
    drawn = [("first rows", grid(pixels(rows.x().numpy()), SHOWN))] if len(rows.shape) in (3, 4) else []
    known = one.manifest["config"].get("corruption")
    corruption = Clean() if known is None else config.from_json(Corruption, known, "corruption")
    if isinstance(corruption, Clean):
        return Section(f"What went in: {title}", said, pictures=drawn)
    try:
        before = originals(store.artifact(one.manifest["needs"]["data"]), rows.ids, LOOKED)
    except (StoreError, LookupError):
        said.append("What it was made from is not in the store any more, or far into a large set: it is not shown.")
        return Section(f"What went in: {title}", said, pictures=drawn)
    found, drawn = measured(corruption, before, rows)
    if found.get("observed", 0.0) > 1 - 1e-6:  # nothing is hidden
        drawn = drawn[:2]
    said.append(f"Of the first {len(rows)} rows:")
    return Section(f"What went in: {title}", said, ["", ""], [list(item) for item in found.items()], drawn)


def training(trained: Mapping[str, Artifact], told: Mapping[str, Points]) -> list[Section]:
    """How the losses went, and what each training came to."""
    if not trained:
        return []
    rows: list[list[str | float | int | Link]] = []
    for one in trained.values():
        found = numbers(one)
        rows.append([one.manifest["label"], trained_on(one), found.get("loss", ""), round(one.seconds, 1)])
    curves = {trained[at].manifest["label"]: points for at, points in told.items() if len(points) > 1}
    pictures = [("loss while training", courses(curves, "images seen", "loss"))] if curves else []
    for one in trained.values():
        for file in one.names():
            if file.startswith(f"{preview.FOLDER}/"):
                seen = int(file.removeprefix(f"{preview.FOLDER}/").removesuffix(".png"))
                if (png := whole(one, file)) is not None:
                    pictures.append((f"{one.manifest['label']} after {seen:,} images, from the same noise", png))
    missing = [] if curves else ["MLflow has no curves of these trainings."]
    return [Section("Training", missing, ["model", "images seen", "last loss", "seconds"], rows, pictures)]


def samples(made: Mapping[str, Artifact]) -> list[Section]:
    """What models drew, in the order in which they did."""
    found = [one for one in made.values() if "samples.png" in one.names()]
    found.sort(key=lambda one: one.manifest["created"])
    begun = min((when(one) for one in made.values()), default=None)
    pictures = [
        (f"{one.manifest['label']}, {_later(when(one), begun)}", png)
        for one in found[:PICTURES]
        if (png := whole(one, "samples.png")) is not None
    ]
    more = [f"{len(found) - PICTURES} more are in the store."] if len(found) > PICTURES else []
    return [Section("Samples on a timeline", more, pictures=pictures)] if pictures else []


def whole(one: Artifact, file: str) -> bytes | None:
    """A file's bytes, None where they have rotted."""
    try:
        return one.read(file)
    except StoreError:
        return None


def when(one: Artifact) -> datetime:
    """When it was finished."""
    return datetime.fromisoformat(one.manifest["created"])


def _later(at: datetime, begun: datetime | None) -> str:
    seconds = 0 if begun is None else int((at - begun).total_seconds())
    return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d} after the first step"


def costs(made: Mapping[str, Artifact]) -> Section:
    """What each step took, and how much it left."""
    rows: list[list[str | float | int | Link]] = []
    for one in sorted(made.values(), key=lambda one: -one.seconds):
        size = sum(file["bytes"] for file in one.manifest["files"].values())
        rows.append([one.manifest["label"], one.address, round(one.seconds, 1), f"{size / 1e6:.2f}"])
    text = f"{sum(one.seconds for one in made.values()):.0f} s in all, side by side where there was room."
    return Section("What each step cost", [text], ["step", "address", "seconds", "MB"], rows)


def cards_of(one: Artifact) -> Any:
    """How its numbers were measured, None where it has no cards."""
    for file in ("judgement.json", "metrics.json"):
        if file in one.names() and isinstance(card := one.json(file).get("cards"), dict):
            return card
    return None
