"""`kintsugi report`: the story of each run of a store as a page, and an index of all of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from pipeline.config import ConfigError
from pipeline.engine.track import without_password
from pipeline.store import Store
from stages.arguments import JsonOption, StoreOption, parse


@dataclass(frozen=True)
class Tell:
    """Write the story of an artifact as a page, or those of all runs and an index of the store."""

    name: Annotated[
        Positional[str], tyro.conf.arg(help="an artifact's name, address or fingerprint; all runs if not given")
    ] = ""
    out: Annotated[Path | None, tyro.conf.arg(help="the page to write, of one artifact: story.html")] = None
    store: StoreOption = "runs"
    json: JsonOption = False


def report(words: list[str]) -> int:
    """`kintsugi report [NAME]`."""
    asked = parse(Tell, words, "kintsugi report", Tell.__doc__ or "")
    store = Store(asked.store)
    from stages.report_index import index, results, tell
    from stages.story import story

    if asked.name:
        path = asked.out or Path("story.html")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(story(store, store.find(asked.name), asked.name).html(), encoding="utf-8")
        told, where = 1, str(path)
    else:
        known = {address.split("/")[1]: address for address in store.addresses()}
        runs = [result for result in results(store) if result.fingerprint in known]
        if not runs:
            raise ConfigError(f"there are no runs in {store.url}: is another store meant by --store?")
        store.check_writable()
        for result in runs:
            tell(store, store.artifact(known[result.fingerprint]), result)
        told, where = len(runs), store.place.at(index(store))
    where = without_password(where)
    print(json.dumps({"stories": told, "page": where}) if asked.json else f"stories written: {told}; page: {where}")
    return 0
