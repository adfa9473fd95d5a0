"""`kintsugi ls`: what a store has, or how its runs and trials rank."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import dataclass
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline import config
from pipeline.engine.track import without_password
from pipeline.store import Damaged, Store, StoreError
from stages.arguments import JsonOption, StoreOption, parse
from stages.verbs import say_empty


@dataclass(frozen=True)
class List:
    """List artifacts, newest last, with the names that lead to them; or, with --sort, rank runs and trials."""

    sort: Annotated[str | None, tyro.conf.arg(help="a number that runs and trials report, smallest first")] = None
    reverse: Annotated[bool, tyro.conf.arg(help="largest first")] = False
    recipe: Annotated[str | None, tyro.conf.arg(help="runs and trials of it alone")] = None
    top: Annotated[int | None, tyro.conf.arg(help="how many of them at most")] = None
    store: StoreOption = "runs"
    json: JsonOption = False


def ls(words: list[str]) -> int:
    """`kintsugi ls`."""
    asked = parse(List, words, "kintsugi ls", List.__doc__ or "")
    store = Store(asked.store)
    if asked.sort is not None:
        return _ranked(store, asked, asked.sort)
    if asked.reverse or asked.recipe is not None or asked.top is not None:
        raise config.ConfigError("--reverse, --recipe and --top are of a ranking: name what to rank by with --sort")
    named: dict[str, list[str]] = {}
    for name, address in store.refs().items():
        named.setdefault(address, []).append(name)
    rows: list[dict[str, Any]] = [
        _row(store, address) | {"names": named.get(address, [])} for address in store.addresses()
    ]
    rows.sort(key=lambda row: row["created"] or "")
    if not rows:
        say_empty(store)
    if asked.json:
        print(json.dumps(rows))
        return 0
    table = Table("address", "created", "size", "names", box=None)
    for row in rows:
        created = row["created"] or ("damaged" if row["damaged"] else "unreadable")
        table.add_row(row["address"], created, _size(row["bytes"]), ", ".join(row["names"]) or row["label"])
    Console(width=None if sys.stdout.isatty() else 250).print(table)
    for row in rows:
        if row["error"]:
            print(f"kintsugi: {without_password(row['error'])}", file=sys.stderr)
    return 0


def _ranked(store: Store, asked: List, metric: str) -> int:
    """Runs and trials, by a number."""
    from stages.leaderboard import ranking

    found = ranking(store, metric, asked.reverse, asked.recipe, asked.top)
    if asked.json:
        rows = [
            {
                "place": place,
                "recipe": entry.recipe,
                "what": entry.what,
                "address": entry.address,
                metric: entry.numbers[metric] if math.isfinite(entry.numbers[metric]) else None,
                "options": entry.differing,
            }
            for place, entry in enumerate(found.entries, 1)
        ]
        print(without_password(json.dumps(rows, default=str)))
    else:
        table = Table("", "recipe", "what", metric, "options that differ", box=None)
        for place, entry in enumerate(found.entries, 1):
            differing = ", ".join(f"{path}={value}" for path, value in entry.differing.items())
            cells = [entry.recipe, entry.what, f"{entry.numbers[metric]:.6g}", without_password(differing)]
            table.add_row(str(place), *map(escape, cells))
        Console(width=None if sys.stdout.isatty() else 250).print(table)
    for sentence in found.damaged:
        print(f"kintsugi: {without_password(sentence)}", file=sys.stderr)
    if found.others:
        print(f"kintsugi: {found.others} others report no {metric}", file=sys.stderr)
    return 0


def _row(store: Store, address: str) -> dict[str, Any]:
    """What `ls` says of an artifact, or of what stands in its place."""
    row = {"address": address, "label": "", "created": None, "bytes": 0, "damaged": False, "error": None}
    try:
        manifest = store.artifact(address).manifest
    except StoreError as error:
        return row | {"damaged": isinstance(error, Damaged), "error": str(error)}
    size = sum(file["bytes"] for file in manifest["files"].values())
    return row | {"label": manifest["label"], "created": manifest["created"], "bytes": size}


def _size(count: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
