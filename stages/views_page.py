"""What a report says of views and their residual: who contributed, what is left, and which view was worth it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.engine.pictures import curves
from pipeline.engine.report import Section
from pipeline.store import Artifact
from stages.compose import HARM

LITTLE = 5e-4  # share of an error that is told as none
BY_SQUARES = ("bethe", "blue")  # modes whose weights are those of all views
WEIGHING = {
    "blue": "each view's share of the weights",
    "sum": "counting numbers",
    "bethe": "counting numbers",
    "stack": "a scalar on each lift",
}


def sections(base: Artifact, composed: Artifact, models: Sequence[Artifact], names: Sequence[str]) -> list[Section]:
    """The sections on views and on the residual; `names` and `models` are those of the base's parts, in its order."""
    views, residual = base.json("calibration.json"), composed.json("calibration.json")
    groups: list[list[int]] = views["groups"]
    whole = [names[g[0]] if len(g) == 1 else names[g[0]].rpartition(" ")[0] for g in groups]
    seconds = [round(models[g[0]].seconds, 2) for g in groups]
    rows: list[list[str | float | int]] = [
        [name, cost, f"{100 * worth:+.1f}%", len(g), sum(_mean(views["weight"][k]) for k in g) / len(g)]
        for name, cost, worth, g in zip(whole, seconds, views["worth"], groups, strict=True)
    ]

    def over(table: str, y: str, log_y: bool = True) -> bytes:
        return curves(views["sigma"], dict(zip(names, views[table], strict=True)), "σ", y, log_y=log_y)

    texts = [
        verdict(whole, views["worth"], seconds),
        f"{views['unseen_share']:.1%} of the variance is seen by no view. The views are combined by {views['mode']}.",
    ]
    if views["mode"] in BY_SQUARES:
        texts.append("Without a view: the others, and all of them to compare with, combined by least squares.")
    if views["harm"] > HARM:
        why = ": a sum counts twice what two views see" if views["mode"] == "sum" else ""
        texts.append(f"That has {views['harm']:.1f} times the error of least squares{why}. Leave --combine auto.")
    weighing = WEIGHING.get(views["mode"], "each view's share of the precision")
    known = "what it adds, after its gate"
    sigma, squares = residual["sigma"], [value**2 for value in residual["scale"]]
    return [
        Section(
            "Views",
            texts,
            ["view", "seconds of training", "change of the error without it", "asked at", f"mean weight: {weighing}"],
            rows,
            [
                ("view errors", over("view_error", "mean-square error per entry")),
                ("how far each view moves the image", over("lift", "energy of the lift per entry")),
                (f"weights: {weighing}", over("weight", "weight", log_y=False)),
            ],
        ),
        Section(
            "Residual",
            [
                f"What the residual adds is worth {residual['nats']:.3g} nats an image. Of views that divide an image "
                "among them, with models that know them exactly, that would be how much they miss of one another, from "
                "below; of others it also has the errors of the models and of their combination, which it mends.",
                f"It took {composed.seconds:.0f} s to train.",
            ],
            pictures=[
                ("error left by the views", curves(sigma, {"c_r²": squares}, "σ", "per entry", log_y=True)),
                ("energy of the residual", curves(sigma, {known: residual["energy"]}, "σ", "E|ρ|² an image")),
                ("gates of the residual", curves(sigma, {"gate": residual["gate"]}, "σ", "gate")),
            ],
        ),
    ]


def verdict(names: Sequence[str], worth: Sequence[float], seconds: Sequence[float]) -> str:
    """In plain sentences: which view earned its cost, which is worth most if that is another, and which adds least."""
    if len(names) < 2:
        return f"There is one view, {names[0]}: there is nothing to compare it with."
    every, views = sum(seconds), range(len(names))
    most, least = max(views, key=lambda k: worth[k]), min(views, key=lambda k: worth[k])
    best = max(views, key=lambda k: (worth[k] / seconds[k], worth[k])) if min(seconds) > 0 else most

    def without(k: int) -> str:
        percent = f"{100 * abs(worth[k]):.1f}%"
        change = "the same" if percent == "0.0%" else f"{percent} {'higher' if worth[k] > 0 else 'lower'}"
        return f"without it {{}} would be {change}, for " + (
            f"{seconds[k] / every:.0%} of the training time" if every else "an unknown cost"
        )

    if worth[most] < LITTLE:
        text = f"No view earned its cost: without {names[most]}, the best of them, the error would be no higher."
    else:
        text = f"The view that earned its cost is {names[best]}: "
        text += without(best).format("the combination's held-out error") + "."
        if most != best:
            text += f" {names[most]} is worth most: {without(most).format('the error')}."
    return f"{text} {names[least]} adds least: {without(least).format('the error')}."


def _mean(values: Sequence[Any]) -> float:
    return sum(values) / len(values)
