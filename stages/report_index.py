"""The pages over a store: an index of all runs and sweeps, and the story of each run."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from pipeline.engine.report import Link, Report, Section
from pipeline.store import Artifact, Store, StoreError
from stages.story import numbers, story, upstream, whole

INDEX, STORY, PAGE = "index.html", "story.html", "report.html"
THUMBNAILS = 12  # pictures on the index
HEADLINES = 4  # numbers of a run on the index


@dataclass(frozen=True)
class Result:
    """What a run left for people: `results/<recipe>/<fingerprint>/`."""

    recipe: str
    fingerprint: str
    files: tuple[str, ...]

    @property
    def folder(self) -> str:
        """Below the store."""
        return f"results/{self.recipe}/{self.fingerprint}"


def results(store: Store) -> list[Result]:
    """Every run that somebody asked for, by recipe."""
    found: dict[tuple[str, str], list[str]] = {}
    for path in (store.place / "results").names():
        if match := re.fullmatch(r"(\w+)/([0-9a-f]{20})/([^/]+)", path):
            found.setdefault((match[1], match[2]), []).append(match[3])
    return [Result(*key, tuple(sorted(files))) for key, files in sorted(found.items())]


def tell(store: Store, target: Artifact, result: Result) -> str:
    """Write the story of a run beside its report; where that is, below the store."""
    links = [("the recipe's report", PAGE)] if PAGE in result.files else []
    page = story(
        store,
        target.address,
        f"{result.recipe}: the story of a run",
        [*links, ("all runs of this store", f"../../../{INDEX}")],
    )
    (store.place / result.folder).write(STORY, page.html())
    return f"{result.folder}/{STORY}"


def index(store: Store) -> str:
    """Write the page of all runs and sweeps; where it is, below the store."""
    addresses = {address.split("/")[1]: address for address in store.addresses()}
    runs, pictures = [], []
    for result in results(store):
        if result.fingerprint not in addresses:
            continue
        try:
            target = store.artifact(addresses[result.fingerprint])
        except StoreError:  # `kintsugi ls` says what is wrong with it
            continue
        runs.append((target.manifest["created"], result, target))
    runs.sort(key=lambda run: run[0], reverse=True)
    rows = [_row(created, result, target) for created, result, target in runs]
    for created, result, target in runs[:THUMBNAILS]:
        if png := _picture(store, target):
            pictures.append((f"{result.recipe}, {created[:16].replace('T', ' ')}, {result.fingerprint[:8]}", png))
    report = Report(
        f"Runs: {store.url.rsplit('/', 1)[-1]}", [f"Runs: {len(rows)}, artifacts: {len(addresses)}; newest first."]
    )
    head = ["recipe", "numbers", "story", "report", "when (UTC)", "fingerprint"]
    report.parts.append(Section("Runs", header=head, rows=rows))
    if sweeps := _sweeps(store):
        head = ["recipe", "best trial", "value", "metric", "finished", "report", "sweep"]
        report.parts.append(Section("Sweeps", header=head, rows=sweeps))
    if pictures:
        report.parts.append(Section("What the latest runs drew", pictures=pictures))
    store.place.write(INDEX, report.html())
    return INDEX


def _row(created: str, result: Result, target: Artifact) -> list[str | float | int | Link]:
    pages = [
        Link(name, f"{result.folder}/{file}") if file in result.files else ""
        for name, file in (("story", STORY), ("report", PAGE))
    ]
    said = ", ".join(f"{key} {value:.4g}" for key, value in list(numbers(target).items())[:HEADLINES])
    return [result.recipe, said, *pages, created[:16].replace("T", " "), result.fingerprint]


def _picture(store: Store, target: Artifact) -> bytes | None:
    """What the run's own model drew: its first samples, or those of the report's first picture."""
    drawn = [one for one in upstream(store, target.address).values() if "samples.png" in one.names()]
    return whole(drawn[0], "samples.png") if drawn else None


def _sweeps(store: Store) -> list[list[str | float | int | Link]]:
    rows: list[list[str | float | int | Link]] = []
    names = (store.place / "results").names()
    for path in names:
        if re.fullmatch(r"\w+/search/[0-9a-f]{20}/sweep\.json", path):
            home = path.rpartition("/")[0]
            said = json.loads(store.place.read(f"results/{path}"))
            page = Link("report", f"results/{home}/{PAGE}") if f"{home}/{PAGE}" in names else ""
            done = f"{said['finished']} of {said['trials']}"
            rows.append([said["recipe"], said["best"], said["value"], said["metric"], done, page, home[-20:]])
    return rows
