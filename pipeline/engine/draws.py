"""How a sweep is done, and what the library draws and stops: random, grid, Optuna; successive halving."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from pipeline.config import ConfigError
from pipeline.engine.ledger import FAILED, FINISHED, RUNNING, STOPPED, Ledger, Trial
from pipeline.engine.spaces import Space

if TYPE_CHECKING:
    from ray.tune.search import Searcher

SEARCHERS = ("random", "grid", "optuna")
SCHEDULERS = ("none", "asha")
FIRST_RUNG, KEPT = 10, 3  # percent of the watched training; one of so many goes on from each rung
MANY = 1 << 30
UNGUIDED = 8  # trials that Optuna draws at random before it models any


@dataclass(frozen=True)
class Plan:
    """How a sweep is done.

    Args:
        spaces: by path.
        trials: how many, or None: all of a grid.
        searcher: random, grid (each combination of choices once) or optuna (tree-structured Parzen estimators of all
            options together, as in BOHB).
        scheduler: none, or asha (asynchronous successive halving on the watched training's loss).
        mode: min or max, of the metric.
        seed: of what is drawn.
        at_once: trials side by side.
        hours: after which no trial begins, and one that the scheduler may stop is interrupted; None: no end.

    Raises:
        ConfigError: these do not go together.
    """

    spaces: Mapping[str, Space]
    trials: int | None = 20
    searcher: str = "random"
    scheduler: str = "none"
    mode: str = "min"
    seed: int = 0
    at_once: int = 1
    hours: float | None = None

    def __post_init__(self) -> None:
        for name, known in (("searcher", SEARCHERS), ("scheduler", SCHEDULERS), ("mode", ("min", "max"))):
            if getattr(self, name) not in known:
                raise ConfigError(f"--{name} is {getattr(self, name)}: give {' or '.join(known)}")
        if self.trials is not None and self.trials < 1:
            raise ConfigError(f"--trials is {self.trials}: give at least 1")
        if self.hours is not None and not 0 < self.hours < math.inf:
            raise ConfigError(f"--hours is {self.hours:g}: give more than 0, or leave it out")
        for path, space in self.spaces.items():
            if self.searcher == "grid" and not space.finite:
                raise ConfigError(f"--over {path}: a grid needs listed values, not {space}: write choice(...)")
            if self.searcher != "grid" and space.kind == "grid":
                raise ConfigError(f"--over {path}: grid(...) needs --searcher grid: write choice(...) or say so")
        if self.searcher == "optuna":
            if nested := [path for path, space in self.spaces.items() if _nested(space)]:
                raise ConfigError(f"--over {nested[0]}: Optuna chooses among numbers and texts: use --searcher random")
            try:
                import optuna  # noqa: F401
            except ImportError as error:
                raise ImportError("--searcher optuna needs a package: pip install 'kintsugi[search]'") from error

    @property
    def count(self) -> int:
        """How many trials there are in all."""
        if self.searcher != "grid":
            return 20 if self.trials is None else self.trials
        whole = 1
        for space in self.spaces.values():
            whole *= len(space.arguments)
        return whole if self.trials is None else min(whole, self.trials)


def searcher(
    plan: Plan, ledger: Ledger, share: Callable[[], int] = lambda: MANY, late: Callable[[], bool] = lambda: False
) -> Searcher:
    """Gives Tune the trials, and the library's searcher what came of them.

    `share` says how many may be going now (at least one is), `late` whether no other may begin.
    """
    from ray.tune.search import Searcher

    class Source(Searcher):
        """First what was interrupted or failed, then what the library draws."""

        def __init__(self) -> None:
            super().__init__(metric="value", mode=plan.mode)
            self.again = [trial for trial in ledger.of(RUNNING, FAILED) if trial.number < plan.count]
            self.next = max(ledger.trials, default=-1) + 1
            self.given: dict[str, Trial] = {}
            self.going: set[str] = set()
            self.asked: set[str] = set()
            self.optuna = _optuna(plan, ledger) if plan.searcher == "optuna" else None
            self.listed = [] if self.optuna else _listed(plan)

        def suggest(self, trial_id: str) -> dict[str, Any] | None:
            if late():
                return Searcher.FINISHED  # pyright: ignore[reportReturnType]
            if self.going and len(self.going) >= share():
                return None  # Tune asks again
            if self.again:
                old = self.again.pop(0)
                trial = Trial(old.number, old.options, address=old.address, made=old.made)
            elif self.next >= plan.count:
                return Searcher.FINISHED  # pyright: ignore[reportReturnType]
            else:
                trial = Trial(self.next, self._draw(trial_id))
                self.next += 1
            ledger.write(trial)
            self.given[trial_id] = trial
            self.going.add(trial_id)
            return {"number": trial.number, "topic": f"trial {trial.number} {trial_id}"}

        def _draw(self, trial_id: str) -> dict[str, Any]:
            if self.optuna is None:
                return self.listed[self.next]
            self.asked.add(trial_id)
            return _plain(self.optuna.suggest(trial_id) or {})

        def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
            value = (result or {}).get("value")
            self.going.discard(trial_id)
            if self.optuna is None:
                return
            if trial_id in self.asked:  # no value: it was stopped early, or failed
                self.optuna.on_trial_complete(trial_id, None if value is None else {"value": value}, error)
            elif value is not None:
                self.optuna.add_evaluated_point(self.given[trial_id].options, value)

        def save(self, checkpoint_path: str) -> None:
            return

        restore = save

        def __reduce__(self):
            return Searcher, ()

    return Source()


def _listed(plan: Plan) -> list[dict[str, Any]]:
    """The options of every trial, those of a smaller number of trials among them."""
    import numpy as np
    from ray import tune
    from ray.tune.search.variant_generator import generate_variants

    state, found, paths = np.random.RandomState(plan.seed), [], list(plan.spaces)
    spaces = [space.domain() for space in plan.spaces.values()]
    if plan.searcher == "grid":
        spaces = [tune.grid_search(list(space.arguments)) for space in plan.spaces.values()]
    names = {f"option{i}": space for i, space in enumerate(spaces)}  # Tune would read dots and slashes in a path
    while len(found) < plan.count:
        for _, drawn in generate_variants(names, random_state=state):  # pyright: ignore[reportArgumentType]
            found.append(_plain({path: drawn[name] for path, name in zip(paths, names, strict=True)}))
    return found[: plan.count]


def _optuna(plan: Plan, ledger: Ledger) -> Any:
    import optuna
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    known = ledger.of(FINISHED)
    # A sampler begins anew when the sweep does: with the old seed it would draw again what was drawn.
    seed = plan.seed * 100_003 + len(ledger.trials)
    sampler = optuna.samplers.TPESampler(seed=seed % 2**32, multivariate=True, n_startup_trials=UNGUIDED)
    space = {path: space.domain() for path, space in plan.spaces.items()}
    found = OptunaSearch(space=space, metric="value", mode=plan.mode, sampler=sampler)
    for trial in known:
        found.add_evaluated_point(trial.options, trial.value or 0.0)
    return found


def scheduler(plan: Plan, ledger: Ledger) -> Any:
    """Tune's scheduler, which knows what became of the trials of earlier runs."""
    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

    if plan.scheduler == "none":
        return FIFOScheduler()
    # No rung at the end: what came so far is measured.
    asha = ASHAScheduler("percent", "stream", "min", max_t=101, grace_period=FIRST_RUNG, reduction_factor=KEPT)
    for trial in ledger.of(FINISHED, STOPPED):
        known: Any = SimpleNamespace(trial_id=f"known {trial.number}")
        asha.on_trial_add(None, known)  # pyright: ignore[reportArgumentType]
        for percent, loss in trial.history:
            asha.on_trial_result(None, known, {"percent": percent, "stream": loss})  # pyright: ignore[reportArgumentType]
    return asha


def _nested(space: Space) -> bool:
    return any(isinstance(value, list | dict) for value in space.arguments)


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """The same without NumPy's types, as JSON has them."""
    return {path: value.item() if hasattr(value, "item") else value for path, value in options.items()}
