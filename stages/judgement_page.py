"""The part of a report that says how samples compare with held-out images."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from pipeline.engine.report import Section

COLUMNS = {
    "frechet": "Fréchet distance",
    "kernel": "kernel distance",
    "sliced_wasserstein": "sliced Wasserstein",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
}
CLOSE = {
    "similar_0.90": "similarity over .90",
    "similar_0.95": "over .95",
    "similar_0.99": "over .99",
    "copied": "d₁/d₂ under ⅓",
}


def between(value: float, low: float | None, high: float | None) -> str:
    """A number with the ends of its interval."""
    return f"{value:.4g} [{low:.4g}, {high:.4g}]" if low is not None and high is not None else f"{value:.4g}"


def judgements(judged: dict[str, Any], read: Callable[[str], bytes]) -> list[Section]:
    """Tables of numbers with their intervals, how they were made, pictures of what is close, and their cards.

    `read` gives the bytes of a file beside the judgement.
    """
    numbers, cards = judged["numbers"], judged["cards"]
    said = next((card for found in cards.values() for card in found.values()), {})
    texts = [
        f"In the features: {said.get('features')} (resize: {said.get('resize')}), n = {said.get('dimension')}"
        + (f", SHA-256 {said['sha256'][:12]}…" if said.get("sha256") else "")
        + f"; {said.get('samples')} samples against {said.get('reference_images')} held-out images of "
        f"{said.get('reference')}. Comparable only with numbers made in the same way, hence with no paper's FID.",
        f"In brackets: {said.get('interval')}. It tells what chance does, not that few images raise distances.",
        *sorted({f"Not judged: {why}." for found in judged["lacking"].values() for why in found.values()}),
        *sorted(
            {f"Beware: {card['beware']}." for found in cards.values() for card in found.values() if "beware" in card}
        ),
    ]
    parts = [_table("Samples against held-out images", texts, COLUMNS, numbers)]
    if any(name in found for found in numbers.values() for name in CLOSE):
        held = {"held-out images": judged["held_out"]} if judged.get("held_out") else {}
        learned = next(card for found in cards.values() for card in found.values() if "learned" in card)
        texts = [
            f"Shares of the samples that lie close to one of the {learned['learned_images']} images of "
            f"{learned['learned']}. Held-out images have been copied by nobody: what they show is chance. In brackets: "
            f"{learned['interval']}."
        ]
        parts.append(_table("Memorisation", texts, CLOSE, numbers | held))
        if near := judged.get("nearest"):
            parts[-1].texts = [
                *texts,
                "Pictures: above, the rows that most look like copies; below each, what it is nearest to.",
            ]
            parts[-1].pictures = [(_caption(who, one["ratios"]), read(one["file"])) for who, one in near.items()]
    parts[-1].code = json.dumps(cards, indent=1, ensure_ascii=False)
    return parts


def _caption(who: str, ratios: list[float]) -> str:
    return f"{who}: nearest learned images, d₁/d₂ from {ratios[0]:.2f} to {ratios[-1]:.2f}"


def _table(title: str, texts: list[str], columns: dict[str, str], numbers: dict[str, Any]) -> Section:
    there = [name for name in columns if any(name in found for found in numbers.values())]
    rows = [[who, *(_cell(found.get(name)) for name in there)] for who, found in numbers.items()]
    return Section(title, texts, ["", *(columns[name] for name in there)], rows)


def _cell(one: dict[str, Any] | None) -> str:
    return "–" if one is None else between(one["value"], one["low"], one["high"])
