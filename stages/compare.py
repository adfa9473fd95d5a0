"""Compare: several models' evaluations side by side, as one report."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from pipeline.config import nearest
from pipeline.diffusion.combine import visible
from pipeline.engine.pictures import bars, curves, grid, named, pixels
from pipeline.engine.report import Report, Section
from pipeline.graph import Context, Stage, Step, step, walk
from pipeline.metrics.judging import ORDER
from pipeline.store import Artifact
from stages import views_page
from stages.census_page import summary
from stages.compose import Seen
from stages.corrupt import load
from stages.judge import flat
from stages.judgement_page import between, judgements

FAR = 10  # times the baseline's error from which on an axis is logarithmic
COSTLY = 60  # steps whose cost is listed


@dataclass(frozen=True)
class Contestant:
    """A model under its name: how it was measured and what it drew."""

    name: str
    evaluation: Step
    samples: Step


@dataclass(frozen=True)
class Shown:
    """A set of rows under its name, to be shown."""

    name: str
    data: Step


@dataclass(frozen=True)
class Compare(Stage):
    """`report.html` and `metrics.json` of contestants; the first is judged against the one named `against`.

    If there is none, there is no baseline, or all are samples of one model, which then has one evaluation.

    Args:
        title: the report's heading.
        contestants: the models.
        data: the sets they learned from, shown as pictures.
        against: the baseline's name.
        ceiling: the name of the model that saw everything unharmed, if there is one.
        calibration: the composed model, whose scale and gates are plotted.
        base: the combined views, whose errors are plotted.
        names: those of the base's parts, in its order.
        census: what the sets hold.
        judgement: how the contestants' samples compare with held-out images.
        selection: how the first contestant was measured on other images than the test images, to choose options by.
        aside: further sets that nobody learned from, shown as pictures.
        copies: whether the report begins with who gives images back, not with the errors.
        notes: what is to be known about the errors.
    """

    title: str
    contestants: tuple[Contestant, ...]
    data: tuple[Shown, ...]
    against: str | None
    ceiling: str | None = None
    calibration: Step | None = None
    base: Step | None = None
    names: tuple[str, ...] = ()
    census: Step | None = None
    judgement: Step | None = None
    selection: Step | None = None
    aside: tuple[Shown, ...] = ()
    copies: bool = False
    notes: tuple[str, ...] = ()

    def run(self, at: Context) -> None:
        found = {c.name: at.open(c.evaluation).json("metrics.json") for c in self.contestants}
        judgement = None if self.judgement is None else at.open(self.judgement)
        judged = None if judgement is None else judgement.json("judgement.json")
        metrics = self.metrics(found) | ({} if judged is None else flat(judged))
        if self.selection is not None:
            metrics["selection"] = at.open(self.selection).json("metrics.json")["denoising_error"]
        said = copies(judged) if self.copies and judged is not None else ""
        report = Report(self.title, [said or self.verdict(metrics)])
        report.parts.append(self._numbers(found))
        drawn = [(f"{c.name}: samples", at.open(c.samples).read("samples.png")) for c in self.contestants]
        report.parts += [] if judged is None or judgement is None else judgements(judged, judgement.read)
        report.parts.append(Section("Samples", ["The same starting noise for each model."], pictures=drawn))
        shown = [(s.name, _first(at.open(s.data))) for s in self.data]
        report.parts.append(Section("What they learned from", pictures=shown))
        besides = [(s.name, _first(at.open(s.data))) for s in self.aside]
        report.parts += [Section("What was made of it", pictures=besides)] if besides else []
        report.parts += [] if self.census is None else [summary(at.open(self.census))]
        report.parts += [*self._calibration(at), self._cost(at)]
        cards = {c.name: found[c.name]["cards"] for c in self.contestants}
        report.parts.append(Section("How it was measured", code=json.dumps(cards, indent=1, ensure_ascii=False)))
        for part in report.parts:
            for caption, png in part.pictures:
                at.tracker.picture(f"{caption}.png", png)
        at.tracker.metrics(metrics, at=0)
        at.out.write("metrics.json", json.dumps(metrics))
        at.out.write("report.html", report.html())

    def behind(self, metric: str) -> tuple[Step | None, str]:
        """(the step whose `metrics.json` has a metric, its name there); None: this stage's own has it.

        Raises: ValueError: there is no such metric.
        """
        names = [c.name for c in self.contestants]
        known: dict[str, tuple[Step | None, str]] = {}
        known |= {f"denoising_error/{c.name}": (c.evaluation, "denoising_error") for c in self.contestants}
        if self.judgement is not None:
            known |= {(of := f"{kind}/{name}"): (None, of) for kind in ORDER for name in names}
        known |= {} if self.selection is None else {"selection": (self.selection, "denoising_error")}
        known |= {} if self.against is None else {"ratio": (None, "ratio")}
        known |= {} if self.ceiling is None else {"gap_closed": (None, "gap_closed")}
        if metric not in known:
            raise ValueError(f"this recipe reports no '{metric}'{nearest(metric, known)}")
        return known[metric]

    def metrics(self, found: dict[str, dict[str, Any]]) -> dict[str, float]:
        """{"denoising_error/<name>", "ratio", and "gap_closed" where there is a ceiling}."""
        values = {f"denoising_error/{name}": m["denoising_error"] for name, m in found.items()}
        if self.against is None:
            return values
        best, base = (found[n]["denoising_error"] for n in (self.contestants[0].name, self.against))
        values["ratio"] = best / base
        if self.ceiling is not None:
            values["gap_closed"] = (base - best) / (base - found[self.ceiling]["denoising_error"])
        return values

    def verdict(self, metrics: dict[str, float]) -> str:
        """One plain sentence."""
        name = self.contestants[0].name
        if self.against is None:
            text = f"On held-out images the denoising error of {name} is {metrics[f'denoising_error/{name}']:.4f}"
            if self.ceiling is not None:
                text += f", that of {self.ceiling} {metrics[f'denoising_error/{self.ceiling}']:.4f}"
            return text + "."
        percent = 100 * (1 - metrics["ratio"])
        said = f"{abs(percent):.1f}% {'lower' if percent >= 0 else 'higher'} than {self.against}'s"
        text = f"On held-out images the denoising error of {name} is {said}"
        if self.ceiling is not None:
            text += f", {100 * metrics['gap_closed']:.0f}% of the way to {self.ceiling}"
        return text + "."

    def _numbers(self, found: dict[str, dict[str, Any]]) -> Section:
        rows = [[name, between(m["denoising_error"], *m["ends"]["denoising_error"])] for name, m in found.items()]
        sigma = next(iter(found.values()))["sigma"]
        texts = [
            "In brackets: where 95% of such numbers would lie if the held-out images were drawn anew.",
            *self.notes,
        ]
        texts += [
            f"{name} learned nothing below σ = {least:.3g}: there its score is held to be that at {least:.3g}, and its "
            "samples end there."
            for name, m in found.items()
            if (least := m["cards"]["denoising_error"].get("least"))
        ]
        if self.against is None:  # one model, sampled in several ways, has one error
            found = {c.name: found[c.name] for c in {c.evaluation.address: c for c in self.contestants[::-1]}.values()}
            found = dict(reversed(found.items()))
            shown = curves(sigma, {name: m["mse"] for name, m in found.items()}, "σ", "mean-square error", log_y=True)
            over = ("error over noise levels", shown)
        else:
            base = np.array(found[self.against]["mse"])
            relative = {name: (np.array(m["mse"]) / base).tolist() for name, m in found.items()}
            every = [value for values in relative.values() for value in values]
            far = max(every) > FAR or min(every) < 1 / FAR
            shown = curves(sigma, relative, "σ", f"mean-square error / {self.against}'s", log_y=far)
            over = (f"error over noise levels, relative to {self.against}", shown)
        return Section(
            "Numbers",
            texts,
            ["model", "denoising error"],
            rows,
            [
                (
                    "denoising error",
                    bars({n: m["denoising_error"] for n, m in found.items()}, "weighted error, held out"),
                ),
                over,
            ],
        )

    def _cost(self, at: Context) -> Section:
        """What every step took that this one needs, the longest first."""
        took: dict[str, float] = defaultdict(float)
        for node in walk(*step(self).needs.values()):
            took[node.label] += at.store.artifact(node.address).seconds
        order = sorted(took.items(), key=lambda item: -item[1])
        rows: list[list[str | float | int]] = [[label, round(seconds, 1)] for label, seconds in order[:COSTLY]]
        rest = [seconds for _, seconds in order[COSTLY:]]
        rows += [[f"{len(rest)} shorter ones", round(sum(rest), 1)]] if rest else []
        text = (
            "What each step took by the wall clock when it was made, with the start of its processes: data, views, "
            "calibration (base), residual (composed), comparisons, sampling and evaluation. Steps that ran side by "
            f"side, and took longer for it, count in full: {sum(took.values()):.0f} s in all."
        )
        return Section("Cost of each stage", [text], ["step", "seconds"], rows)

    def _calibration(self, at: Context) -> list[Section]:
        if self.calibration is None or self.base is None:
            return []
        base, needs = at.open(self.base), at.open(self.base).manifest["needs"]
        models = [at.store.artifact(needs[f"views.{k}.model"]) for k in range(len(self.names))]
        views, *others = views_page.sections(base, at.open(self.calibration), models, self.names)
        parts: Sequence[Seen] = self.base.stage.views  # pyright: ignore[reportAttributeAccessIssue]
        picture = ("in white what each sees", seen_by(parts, self.names))
        return [replace(views, pictures=[picture, *views.pictures]), *others]


def copies(judged: dict[str, Any]) -> str:
    """Which shares of what was drawn lie close to a learned image, in a sentence; "" where that was not judged."""
    kind, numbers = "similar_0.90", judged["numbers"] | {"held-out images": judged.get("held_out") or {}}
    each = [f"{name}: {found[kind]['value']:.0%}" for name, found in numbers.items() if kind in found]
    return f"What has a similarity above .90 to a learned image: {'; '.join(each)}." if len(each) > 1 else ""


def seen_by(parts: Sequence[Seen], names: Sequence[str]) -> bytes:
    """A picture for each part of a combination: how much of every pixel it sees, on average over the channels."""
    shares = torch.stack([visible(part.map).mean(0) for part in parts])
    return named((255 * shares).round().clamp(0, 255).to(torch.uint8)[:, None].numpy(), names)


def _first(data: Artifact) -> bytes:
    """Up to 32 rows of a set, as a picture."""
    rows = load(data)
    return grid(pixels(rows.x(range(min(32, len(rows)))).numpy()))
