"""The winner of a search in MLflow's registry, under an alias that those who use it need not change."""

from __future__ import annotations

import dataclasses

from pipeline.config import ConfigError
from pipeline.store import Store
from stages.sought import Sought
from stages.sweep import Found


def check_promotion(store: Store, sought: Sought, name: str, alias: str) -> None:
    """Look before a weekend's work whether its winner could be registered.

    Raises:
        ConfigError: the metric is of no model.
        ValueError: the registry would not have these names, or does not answer.
    """
    from pipeline.engine.preflight import check_tracking
    from pipeline.engine.registry import check_names

    check_names(name, alias)
    if not sought.models:
        raise ConfigError(f"--register {name}: {sought.metric} is of no model that could be registered")
    check_tracking(store)


def promoted(store: Store, found: Found, name: str, alias: str) -> Found:
    """What was found, once the registry has it. Raises: ValueError: the registry refuses it, or does not answer."""
    from pipeline.engine.registry import register
    from stages.verb_register import drawing

    made = register(store, drawing(store, store.artifact(found.address)), name, alias, move=True)
    return dataclasses.replace(found, registered=f"models:/{made.name}@{alias}")
