"""Proximal: whether another round is worth it, judged by noisy data alone.

Nobody has clean images to compare samples with, but samples can be given the noise that the data have: they are then to
be told from the noisy set no better than its own rows are ("proximal" distance, Chen et al., "Restoration Score
Distillation", arXiv 2505.13377, which chooses models so). A round that does not bring them nearer is the last.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

from pipeline.graph import Context, Stage, Step
from pipeline.learning.weights import DESCRIPTION, WEIGHTS


@dataclass(frozen=True)
class Proximal(Stage):
    """`proximal.json`: {"distance", "best", "round", "over"} after the rounds so far; `round` is the best one's number.

    Args:
        judged: the distance of this round's samples, noise added, from the noisy set (`stages/judge.py`).
        before: the same after the round before, if there was one.
        metric: which of the judgement's numbers is the distance.
        patience: after so many rounds without a nearer one it is over.
    """

    judged: Step
    before: Step | None = None
    metric: str = "kernel"
    patience: int = 1

    def __post_init__(self) -> None:
        if self.patience < 1:
            raise ValueError(f"patience is {self.patience}: give a number of rounds from 1")

    def run(self, at: Context) -> None:
        (numbers,) = at.open(self.judged).json("judgement.json")["numbers"].values()
        if self.metric not in numbers:
            raise ValueError(f"there is no {self.metric} of these samples, but {', '.join(numbers)}: choose among them")
        distance = numbers[self.metric]["value"]
        if not math.isfinite(distance):
            raise ValueError(f"the {self.metric} of these samples is {distance}: look at what the model draws")
        before = None if self.before is None else at.open(self.before).json("proximal.json")
        said = decide(distance, before, self.patience)
        at.out.write("proximal.json", json.dumps(said))
        at.tracker.metrics({"proximal": distance}, at=said["rounds"])


@dataclass(frozen=True)
class Chosen(Stage):
    """The model of the best round.

    Args:
        models: of all rounds.
        told: what is known after the last.
    """

    models: tuple[Step, ...]
    told: Step

    def run(self, at: Context) -> None:
        best = at.open(self.models[at.open(self.told).json("proximal.json")["round"]])
        for file in (DESCRIPTION, WEIGHTS):
            at.out.write(file, best.read(file))


def decide(distance: float, before: dict | None, patience: int) -> dict:
    """What is known after a round at this distance; once over, it stays so, and the best round stays the best."""
    if before is None:
        return {"distance": distance, "best": distance, "round": 0, "rounds": 1, "over": False}
    if before["over"]:
        return before
    n = before["rounds"]
    if distance < before["best"]:
        return {"distance": distance, "best": distance, "round": n, "rounds": n + 1, "over": False}
    return before | {"distance": distance, "rounds": n + 1, "over": n - before["round"] >= patience}
