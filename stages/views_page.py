"""What a report says of views and their residual: who contributed, what is left, and which view was worth it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from pipeline.engine.pictures import curves
from pipeline.engine.report import Section
from pipeline.store import Artifact
from stages.compose import HARM

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
    times = Counter(model.address for model in models)  # one model may be asked for several views
    seconds = [round(model.seconds / times[model.address], 2) for model in models]
    rows = [
        [name, cost, f"{100 * worth:.1f}%", weight]
        for name, cost, worth, weight in zip(names, seconds, views["worth"], map(_mean, views["weight"]), strict=True)
    ]

    def over(table: str, y: str, log_y: bool = True) -> bytes:
        return curves(views["sigma"], dict(zip(names, views[table], strict=True)), "σ", y, log_y=log_y)

    texts = [
        verdict(names, views["worth"], seconds),
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
            ["view", "seconds of training", "error without it", f"mean weight: {weighing}"],
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
    """One plain sentence: which view earned its cost, and which did not."""
    if len(names) < 2:
        return f"There is one view, {names[0]}: there is nothing to compare it with."
    order = sorted(range(len(names)), key=lambda k: -worth[k])
    best, least, every = order[0], order[-1], sum(seconds)

    def cost(k: int) -> str:
        return f"{seconds[k] / every:.0%} of the training time" if every else "an unknown cost"

    text = (
        f"The view that earned its cost is {names[best]}: without it the combination's held-out error would be "
        f"{100 * worth[best]:.1f}% higher, for {cost(best)}."
        if worth[best] > 0
        else f"No view earned its cost: without {names[best]}, the best of them, the error would be no higher."
    )
    says = f"{100 * worth[least]:.1f}% higher" if worth[least] > 0 else f"{-100 * worth[least]:.1f}% lower"
    return f"{text} {names[least]} adds least: without it the error would be {says}, for {cost(least)}."


def _mean(values: Sequence[Any]) -> float:
    return sum(values) / len(values)
