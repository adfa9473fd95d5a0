"""`kintsugi data PATH [--against OTHER ...]`: what images hold, before anything is made of them.

What needs torch is imported when the sets were found to be there and to be of a kind that can be read.
"""

from __future__ import annotations

import glob
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from tyro.conf import Positional

from pipeline import config, graph
from pipeline.config import ConfigError
from pipeline.data.sources import Source, source_of
from pipeline.graph import Given, Scale
from pipeline.store import Store, StoreError
from stages.arguments import JsonOption, StoreOption, parse
from stages.ingest import snapshot
from stages.recipe import read_yaml
from stages.verbs import make

if TYPE_CHECKING:
    from pipeline.physics.corruption import Corruption
    from stages.sets import Set


@dataclass(frozen=True)
class Data:
    """Say what sets of images hold, and which images are in two of them: a leak, where one is clean and one damaged.

    A set is a folder, a parquet, npy, npz or tar file, any fsspec URL, a glob, 'digits', or the name of a set in the
    store.
    """

    path: Annotated[Positional[str], tyro.conf.arg(help="a set of images")]
    against: Annotated[
        tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(help="another set; may be repeated")
    ] = ()
    split: Annotated[str, tyro.conf.arg(help="which of the files at PATH to take, such as train")] = ""
    image_column: Annotated[str, tyro.conf.arg(help="the column of parquet at PATH that has the images")] = ""
    sigma: Annotated[
        float | None, tyro.conf.arg(help="std of the noise that the --against sets have, in units of [-1, 1] images")
    ] = None
    seen_through: Annotated[
        str | None,
        tyro.conf.arg(metavar="YAML", help="what the --against sets went through, as for `kintsugi run corrupted`"),
    ] = None
    out: Annotated[Path | None, tyro.conf.arg(help="also write the report there, as one HTML file")] = None
    readers: Annotated[int, tyro.conf.arg(help="how many processes read images at a time")] = 1
    seed: int = 0
    store: StoreOption = "runs"
    json: JsonOption = False


def data(words: list[str]) -> int:
    """`kintsugi data PATH`."""
    asked = parse(Data, words, "kintsugi data", Data.__doc__ or "")
    if asked.sigma is not None and not 0 < asked.sigma < float("inf"):
        raise ConfigError(f"--sigma is {asked.sigma}: give a number above 0, or leave it out")
    if asked.readers < 1:
        raise ConfigError(f"--readers is {asked.readers}: give at least 1")
    store = Store(asked.store)
    store.check_writable()
    names = [asked.path, *asked.against]
    if twice := next((name for i, name in enumerate(names) if name in names[:i]), None):
        raise ConfigError(f"{twice} is named twice: give two different sets")
    if asked.seen_through is not None and not asked.against:
        raise ConfigError("--seen-through says what the --against sets went through: name one, or leave it out")
    first = _found(store, asked.path, asked.split, asked.image_column)
    others = [(name, _found(store, name)) for name in asked.against]
    from stages.census import Census

    through = None if asked.seen_through is None else _through(asked.seen_through)
    sets = (_set(asked.path, first), *(_set(name, found, asked.sigma, through) for name, found in others))
    made = make(store, graph.step(Census(sets, asked.seed), "data", Scale(workers=asked.readers)))
    told = made.json("census.json")
    page = asked.out
    if page is not None:
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_bytes(made.read("report.html"))
    for name, one in told["sets"].items():
        print(_line(name, one))
    for text in told["warnings"] or ["no image was found to be in two sets, and nothing else to be wrong"]:
        print(text)
    where = str(page) if page else f"{made.address}/report.html in {store.url}"
    print(f"report: {where}")
    if asked.json:
        print(json.dumps({"artifact": made.address, "report": str(page) if page else None, **told}))
    return 0


def _through(text: str) -> Corruption:
    from pipeline.physics.corruption import Corruption, Through
    from pipeline.physics.linear import LinearMap

    said = config.from_json(Corruption | LinearMap, read_yaml(text, "--seen-through"), "--seen-through")
    return Through(said) if isinstance(said, LinearMap) else said


def _found(store: Store, name: str, split: str = "", image: str = "") -> Source | Given:
    """What a person called a set: something that can be read, or, if there is nothing of that name, an artifact."""
    if name != "digits" and "://" not in name and not name.startswith("pipe:") and not _on_disk(name):
        try:
            given = Given.find(store, name)
        except StoreError as error:
            raise ConfigError(f"{name} is neither a file or folder nor in the store ({error})") from error
        if "shards.npy" not in store.artifact(given.address).names():
            raise ConfigError(f"{name} is {given.address}, which holds no images: name a set of rows")
        if split or image:
            raise ConfigError(
                f"{name} is a set in the store, all of which is taken: leave out --split and --image-column"
            )
        return given
    source = source_of(name, split=split, image=image)
    next(source.cut(), None)  # what is malformed is said before Ray is started
    return source


def _set(name: str, found: Source | Given, sigma: float | None = None, through: Corruption | None = None) -> Set:
    from stages.sets import Found, Stored

    if isinstance(found, Source):
        return Found(name, found, sigma, snapshot(found), through)
    if through is not None:
        raise ConfigError(f"{name} is a set in the store, which says itself what it went through")
    return Stored(name, found)


def _on_disk(name: str) -> bool:
    return os.path.exists(name) or glob.has_magic(name)


def _line(name: str, one: dict) -> str:
    sizes, noise = ", ".join(one["size"]), one["noise"]
    found = "" if noise["at most"] is None else f", σ found {noise['at least']:.3f} to {noise['at most']:.3f}"
    return f"{name}: {one['rows']} images of {sizes}; noise: σ declared {noise['declared']:.3g}{found}"
