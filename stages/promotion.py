"""The winner of a search in MLflow's registry, under an alias that those who use it need not change."""

from __future__ import annotations

import dataclasses
import shlex

from pipeline.config import ConfigError
from pipeline.store import Store
from stages.failures import explain
from stages.sought import Sought
from stages.sweep import Found


class Unregistered(RuntimeError):
    """The winner did not come into the registry; `found` is what the search came to all the same."""

    def __init__(self, sentence: str, found: Found):
        super().__init__(sentence)
        self.found = found


def check_promotion(store: Store, sought: Sought, name: str, alias: str) -> None:
    """Look before a weekend's work whether its winner could be registered.

    The size of its images is not known before there is a model.

    Raises:
        ConfigError: the metric is of no model.
        ValueError: the registry would not have these names, has the name from elsewhere, or does not answer.
    """
    from pipeline.engine.preflight import check_tracking
    from pipeline.engine.registry import check_names, check_owner

    check_names(name, alias)
    if not sought.models:
        raise ConfigError(f"--register {name}: {sought.metric} is of no model that could be registered")
    check_tracking(store)
    check_owner(store, name)


def promoted(store: Store, found: Found, name: str, alias: str) -> Found:
    """What was found, once the registry has it. Raises: Unregistered: the registry refuses it, or does not answer."""
    from pipeline.engine.preflight import check_tracking
    from pipeline.engine.registry import register
    from stages.verb_register import drawing

    try:
        check_tracking(store)  # it says best what a server lacks that was there before the trials
        made = register(store, drawing(store, store.artifact(found.address)), name, alias, move=True)
    except Exception as error:  # whatever MLflow raises, what was found is not to be lost for it
        words = ["kintsugi", "register", found.name, "--name", name, "--alias", alias, "--move", "--store", store.url]
        raise Unregistered(
            f"the winner is not in MLflow's registry ({explain(error)[0]}), where `{shlex.join(words)}` puts it later",
            found,
        ) from error
    return dataclasses.replace(found, registered=f"models:/{made.name}@{alias}")
