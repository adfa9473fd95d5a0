"""What a search is after: the step behind a metric for any choice of options, and what all choices have in common."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline import config, graph
from pipeline.config import ConfigError, nearest
from pipeline.engine.draws import Plan
from pipeline.graph import Step
from pipeline.identity import dumps
from pipeline.store import Store
from stages import recipe as recipes
from stages.train import Trains


@dataclass(frozen=True)
class Goal:
    """The step whose `metrics.json` has the metric, under `name`."""

    step: Step
    name: str

    @property
    def winner(self) -> Step:
        """What the metric is of: the model that the step measures, or the step."""
        model = getattr(self.step.stage, "model", None)
        return model if isinstance(model, Step) else self.step


@dataclass(frozen=True, eq=False)
class Sought:
    """A recipe, the options that are not searched, and a metric.

    Args:
        recipe: the function.
        base: its options.
        metric: what trials are compared by.
        shared: steps that every trial needs.
        steps: all steps of one trial.
        needs: the most (cores, devices) that a step takes which trials do not share.
        watched: the label of the training whose loss may stop a trial.
        identity: 20 digits that only this search has.
        models: whether the winner is a model.
    """

    recipe: recipes.Recipe
    base: Any
    metric: str
    shared: tuple[Step, ...] = ()
    steps: tuple[Step, ...] = ()
    needs: tuple[float, float] = (0.0, 0.0)
    watched: str = ""
    identity: str = ""
    models: bool = False

    def options(self, chosen: Mapping[str, Any]) -> Any:
        """The recipe's options with those chosen. Raises: ConfigError: no such path, or a value does not fit."""
        return functools.reduce(lambda tree, item: config.replace(tree, *item), chosen.items(), self.base)

    def goal(self, chosen: Mapping[str, Any]) -> Goal:
        """What a trial has to make. Raises: ValueError: the recipe refuses the options, or has no such metric."""
        target = recipes.build(self.recipe, self.options(chosen))
        behind = getattr(target.stage, "behind", None)
        if behind is None:
            return Goal(target, self.metric)
        step, name = behind(self.metric)
        return Goal(target if step is None else step, name)

    def described(self, plan: Plan) -> dict[str, Any]:
        """The search as JSON values."""
        over = {path: str(space) for path, space in plan.spaces.items()}
        said = {"metric": self.metric, "mode": plan.mode, "searcher": plan.searcher, "scheduler": plan.scheduler}
        return {"over": over, **said, "seed": plan.seed, "watched": self.watched}


def survey(recipe: recipes.Recipe, base: Any, plan: Plan, metric: str, watched: str | None, store: Store) -> Sought:
    """Try a few values of every searched option on paper, to see what depends on it.

    Raises:
        ConfigError: a path that the recipe does not have, a value that it refuses, an option that changes nothing; a
            metric that it does not report; nothing to watch.
    """
    plain = Sought(recipe, base, metric)
    some = {path: space.some() for path, space in plan.spaces.items()}
    first = {path: values[0] for path, values in some.items()}
    goals = [_tried(plain, first, "")]
    for path, values in some.items():
        moved = [_tried(plain, first | {path: value}, path) for value in values[1:]]
        if moved and {goal.step.address for goal in moved} == {goals[0].step.address}:
            raise ConfigError(f"--over {path} changes nothing that {metric} depends on: search another option")
        goals += moved
    walks = [{step.address: step for step in graph.walk(goal.step)} for goal in goals]
    common = set.intersection(*({*walk} for walk in walks)) if len(walks) > 1 else set[str]()
    steps = tuple(walks[0].values())
    own = [step for walk in walks for step in walk.values() if step.address not in common]
    for step in own:
        step.stage.suits(step.scale, store)
    trained = list(dict.fromkeys(step.label for step in own if isinstance(step.stage, Trains)))
    if watched is not None and watched not in trained:
        raise ConfigError(
            f"--watch {watched} is no training that depends on what is searched{nearest(watched, trained)}"
        )
    if plan.scheduler != "none" and not trained:
        raise ConfigError(
            "nothing that is searched is trained, so no trial can be stopped early: leave out --scheduler"
        )
    last = [step.label for step in steps if isinstance(step.stage, Trains) and step.address not in common]
    cores = max((step.scale.total[0] for step in own), default=0.0)
    devices = max((step.scale.occupied for step in own), default=0.0)
    winner = goals[0].winner
    models = winner is not goals[0].step or isinstance(winner.stage, Trains)
    chosen = watched or (last[-1] if last else "")
    shared = tuple(step for step in steps if step.address in common)
    found = Sought(recipe, base, metric, shared, steps, (cores, devices), chosen, models=models)
    # The base's own values of what is searched do not matter; scale and paths never do.
    known = {"goal": goals[0].step.address, "recipe": recipe.__name__, **found.described(plan)}
    return dataclasses.replace(found, identity=hashlib.sha256(dumps(known).encode()).hexdigest()[:20])


def _tried(sought: Sought, chosen: Mapping[str, Any], path: str) -> Goal:
    try:
        return sought.goal(chosen)
    except ConfigError:
        raise
    except ValueError as error:
        said = f"--over {path} with {chosen[path]}: " if path else ""
        raise ConfigError(f"{said}{error}") from error
