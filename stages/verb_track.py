"""`kintsugi track`: what MLflow was not told while it was away, and telling it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum
from typing import Annotated

import tyro
from tyro.conf import Positional

from pipeline.engine.spool import FOLDER, waiting
from pipeline.engine.track import default_uri, without_password
from pipeline.store import Store
from stages.arguments import JsonOption, StoreOption, parse


class Act(Enum):
    """What to do with what waits."""

    LIST = "list"
    REPLAY = "replay"


@dataclass(frozen=True)
class Track:
    """List what MLflow was not told while it was away, or with `replay` tell it now; the next run does so, too."""

    act: Annotated[Positional[Act], tyro.conf.arg(help="list, or replay: send it to MLFLOW_TRACKING_URI")] = Act.LIST
    store: StoreOption = "runs"
    json: JsonOption = False


def track(words: list[str]) -> int:
    """`kintsugi track`, `kintsugi track replay`; 1 if something still waits after that."""
    from pipeline.engine.track import Tracking

    asked = parse(Track, words, "kintsugi track", Track.__doc__ or "")
    store = Store(asked.store)
    uri, before = without_password(default_uri(store)), waiting(store.place / FOLDER)
    after = before
    if asked.act == Act.REPLAY and before:
        with Tracking(store, "by hand", patience=None):
            pass
        after = waiting(store.place / FOLDER)
    sent = sum(before.values()) - sum(after.values())
    if asked.json:
        print(json.dumps({"server": uri, "waiting": after, "sent": sent}))
    else:
        for name, count in after.items():
            print(f"{name:<40} {count} messages wait")
        print(f"{sent} sent to {uri}" if asked.act == Act.REPLAY else f"{sum(after.values())} messages wait for {uri}")
    return 1 if asked.act == Act.REPLAY and after else 0
