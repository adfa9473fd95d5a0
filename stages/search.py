"""Search: options of a recipe tried by Ray Tune, each trial the recipe's own steps, the best one kept under a name.

A trial is the recipe with the searched options replaced, as far as its metric needs it: what all trials share is made
once, before they start, and what is searched by is measured on images that are not the test images. These are looked at
once, for the winner alone, when somebody runs its configuration.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline import config
from pipeline.config import ConfigError
from pipeline.engine.draws import Plan
from pipeline.engine.spaces import Space, read_all
from pipeline.lease import Lease
from pipeline.store import Store, slug
from stages import recipe as recipes
from stages.progress import watch
from stages.promotion import check_promotion, promoted
from stages.report_index import index
from stages.sought import survey
from stages.sweep import Found, Sweep

__all__ = ["Found", "search"]


def search(
    recipe: str,
    over: Mapping[str, str | Space] | Sequence[str],
    trials: int | None = None,
    *,
    options: Any = None,
    store: Store | str = "runs",
    metric: str = "selection",
    mode: str = "min",
    searcher: str = "random",
    scheduler: str = "none",
    seed: int = 0,
    at_once: int | None = None,
    watched: str | None = None,
    name: str = "best",
    hours: float | None = None,
    register: str | None = None,
    alias: str = "best",
) -> Found:
    """Try options of a recipe and keep the best; called again, it goes on where it stopped.

    Finished trials are not done again, and one that was interrupted goes on from its checkpoints. A trial that fails
    costs itself alone, and is tried again when the same search is.

    Args:
        recipe: its name, such as "partial_views".
        over: {"residual.output_l2": "loguniform(1e-4, 10)"}, or a list of "path=space"; any path of its options.
        trials: how many (20; of a grid: all).
        options: what is not searched: the recipe's options, or some of them as {path: value}.
        store: where results are kept.
        metric: one that the recipe reports.
        mode: "min" or "max" of it.
        searcher: "random", "grid" or "optuna".
        scheduler: "none", or "asha", which stops trials whose watched training lags behind.
        seed: of what is drawn.
        at_once: trials side by side; as many as the cluster has room for if not given.
        watched: the label of the training whose loss decides what is stopped; the last one if not given.
        name: of the winner, which becomes `<recipe>/<name>` in the store.
        hours: from now, after which no trial begins; trials that "asha" may stop are interrupted then. Called again,
            it goes on, for as long again.
        register: what MLflow's registry calls the winner's model, if it is to have it.
        alias: which leads to the winner there; it is taken from the version that has it.

    Raises:
        ConfigError: a path or a metric that the recipe does not have, a space that cannot be read, what does not go
            together; said before anything starts.
        ImportError: the searcher needs a package.
        RuntimeError: no trial finished.
        Unregistered: the registry did not take the winner; its `found` is what this would have returned.
    """
    function = recipes.find(recipe)
    declared = recipes.options_of(function)
    base = declared() if options is None else options
    if isinstance(options, Mapping):
        base = declared()
        for path, value in options.items():
            base = config.replace(base, path, value)
    plan = Plan(read_all(over), trials, searcher, scheduler, mode, seed, hours=hours)
    kept = Store(store) if isinstance(store, str) else store
    sought = survey(function, base, plan, metric, watched, kept)
    if slug(name) in {slug(step.label) for step in sought.steps} or slug(name).split("/")[0] == "search":
        raise ConfigError(f"--name {name} is what a step of the recipe is called: choose another")
    kept.check_writable()
    if register is not None:
        check_promotion(kept, sought, register, alias)
    home = kept.place / f"results/{recipe}/search/{sought.identity}"
    lease = Lease.claim(home / "lease")
    if not lease.ours:
        raise ConfigError(f"this search is being done by another process since {lease.since()}: wait, or end that one")
    progress = watch()
    try:
        with lease:
            found = Sweep(recipe, plan, sought, kept, home, name, at_once, progress).run()
    finally:
        progress.close()
    index(kept)
    return found if register is None else promoted(kept, found, register, alias)
