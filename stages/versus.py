"""Versus: several methods over several seeds, one table with intervals and one picture."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from pipeline.data.manifest import Manifest, name
from pipeline.data.shards import read_shard
from pipeline.engine.pictures import bars, grid
from pipeline.engine.report import Report, Section
from pipeline.graph import Context, Stage, Step
from pipeline.metrics.interval import Estimate, mean
from pipeline.store import Artifact
from stages.census_page import summary
from stages.judgement_page import between

JUDGED = ("frechet", "kernel", "precision", "recall")


@dataclass(frozen=True)
class Trial:
    """A method's model of one seed: how it was measured, what it drew, how many images it saw."""

    method: str
    seed: int
    evaluation: Step
    samples: Step
    judgement: Step
    images: int


@dataclass(frozen=True)
class Versus(Stage):
    """`versus.json` and `report.html`: every method's numbers over the seeds, with 95% intervals of their mean.

    Args:
        title: the report's heading.
        trials: the models; the same seeds for every method.
        against: the methods that others are compared with: the best of them, by the mean of the denoising error.
        ceiling: the method that saw all images clean, if there is one.
        censuses: what the sets of each seed hold; what is wrong with them is said first.
    """

    title: str
    trials: tuple[Trial, ...]
    against: tuple[str, ...]
    ceiling: str | None = None
    censuses: tuple[Step, ...] = ()

    def __post_init__(self) -> None:
        methods = {trial.method for trial in self.trials}
        seeds = {method: sorted(t.seed for t in self.trials if t.method == method) for method in methods}
        if not self.against or not {*self.against} <= methods or len({tuple(found) for found in seeds.values()}) > 1:
            raise ValueError(f"every method needs the same seeds, and {', '.join(self.against)} must be known: {seeds}")

    def run(self, at: Context) -> None:
        found: dict[str, dict[str, list[float]]] = {}
        for trial in self.trials:
            numbers = found.setdefault(trial.method, {})
            for metric, value in _numbers(at.open(trial.evaluation), at.open(trial.judgement), trial.method).items():
                numbers.setdefault(metric, []).append(value)
        base = min(self.against, key=lambda name: mean(found[name]["denoising_error"]).value)
        self._gaps(found, base)
        table = {m: {metric: mean(values) for metric, values in numbers.items()} for m, numbers in found.items()}
        said = {
            method: {
                metric: {"mean": e.value, "low": e.low, "high": e.high, "seeds": found[method][metric]}
                for metric, e in numbers.items()
            }
            for method, numbers in table.items()
        }
        at.out.write("versus.json", json.dumps(said, indent=1))
        flat = {f"{metric}/{m}": e.value for m, numbers in table.items() for metric, e in numbers.items()}
        at.out.write("metrics.json", json.dumps(flat))
        at.tracker.metrics(flat, at=0)
        report = self._report(table, base, at)
        for part in report.parts:
            for caption, png in part.pictures:
                at.tracker.picture(f"{caption}.png", png)
        at.out.write("report.html", report.html())

    def _gaps(self, found: dict[str, dict[str, list[float]]], against: str) -> None:
        """Adds, seed by seed, how much of the way from one method to the ceiling each other goes."""
        if self.ceiling is None:
            return
        base, best = (found[name]["denoising_error"] for name in (against, self.ceiling))
        for method, numbers in found.items():
            if method not in (against, self.ceiling):
                mine = numbers["denoising_error"]
                numbers["gap_closed"] = [(b - m) / (b - c) for b, m, c in zip(base, mine, best, strict=True)]

    def _report(self, table: dict[str, dict[str, Estimate]], against: str, at: Context) -> Report:
        seeds = len(self.trials) // len(table)
        shown = dict(sorted(table.items(), key=lambda item: item[1]["denoising_error"].value))
        columns = ["denoising_error", *(["gap_closed"] if self.ceiling else []), *JUDGED]
        images = {trial.method: trial.images for trial in self.trials}
        rows = [[m, images[m], *(_cell(numbers.get(column)) for column in columns)] for m, numbers in shown.items()]
        errors = {m: numbers["denoising_error"] for m, numbers in shown.items()}
        ends = {m: (e.low, e.high) for m, e in errors.items()}
        picture = bars({m: e.value for m, e in errors.items()}, "weighted denoising error, held out", ends)
        best = next(m for m in shown if m != self.ceiling)
        lead = f"Over {seeds} seeds {best} has the lowest held-out denoising error: {_cell(errors[best])}"
        lead += "." if best == against else f", where {against} has {_cell(errors[against])}."
        first = {trial.method: trial for trial in reversed(self.trials)}
        drawn = [(f"{m}: samples", _first(at.open(first[m].samples))) for m in shown]
        head = ["method", "images seen", *columns]
        text = "In brackets: 95% intervals of the mean over the seeds (Student's t), each with a split of its own."
        found = [at.open(census) for census in self.censuses]
        wrong = dict.fromkeys(text for census in found for text in census.json("census.json")["warnings"])
        return Report(
            self.title,
            [lead, *wrong],
            [
                Section("Numbers", [text], head, rows, [("denoising error", picture)]),
                Section("Samples", ["Of the first seed, from the same starting noise."], pictures=drawn),
                *(summary(census) for census in found[:1]),
            ],
        )


def _numbers(evaluation: Artifact, judgement: Artifact, method: str) -> dict[str, float]:
    judged: dict[str, Any] = judgement.json("judgement.json")["numbers"].get(method, {})
    found = {"denoising_error": evaluation.json("metrics.json")["denoising_error"]}
    return found | {metric: judged[metric]["value"] for metric in JUDGED if metric in judged}


def _cell(found: Estimate | None) -> str:
    return "" if found is None else between(found.value, found.low, found.high)


def _first(data: Artifact) -> bytes:
    """Up to 32 of a set's rows."""
    shard = name(int(Manifest.open(data.file).filled()[0]))
    return grid(read_shard(data.file(shard), shard).images[:32])
