"""Splits: which files of a collection are for training and which for tests, told from their names as the hub does.

In the order of its documentation ("File names and splits"): `data/NAME-00000-of-00002.parquet` is of the split NAME;
else a folder's name tells, the innermost first, and then a file's, by one of the `KEYWORDS` between dashes,
underscores, dots, spaces or digits. What the card of a data set (README.md) declares is not read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from fsspec.utils import glob_translate

from pipeline.data.listing import shown

KEYWORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
SPLITS = {word: split for split, words in KEYWORDS.items() for word in words}
SHARD = re.compile(r"(\w+(?:\.\w+)*)-\d{5}-of-\d{5}\b")
BETWEEN = re.compile(r"[-._ 0-9]+")
LISTED = 8  # splits that an error names, at most


def split_of(name: str) -> str | None:
    """The split that a relative path says the file is of, None where it says nothing."""
    *folders, file = name.split("/")
    if (shard := SHARD.match(file)) and (folders[-1:] == ["data"] or shard[1] in SPLITS):
        return SPLITS.get(shard[1], shard[1])
    words = (word for part in (*reversed(folders), file) for word in BETWEEN.split(part.lower()))
    return next((SPLITS[word] for word in words if word in SPLITS), None)


def chosen(files: Sequence[str], url: str, glob: str = "", split: str = "") -> list[str]:
    """Those of the files under `url` that match a glob and are of a split; without either all, if of one split.

    Files whose names say nothing are for training beside others for tests. Raises ValueError where there are none, or
    of several splits: tests are worth nothing once trained on.
    """
    if glob:
        pattern = re.compile(glob_translate(glob))
        files = [name for name in files if pattern.match(name)]
        if not files:
            raise ValueError(f"{shown(url)} has no files that match {shown(glob)}; ** stands for any folders.")
    of = {name: split_of(name) for name in files}
    if not split and glob:
        return list(files)
    if SPLITS.get(split) == "train" and set(of.values()) - {None} and "train" not in of.values():
        of = {name: said or "train" for name, said in of.items()}
    kept = wanted(set(of.values()), url, split)
    return [name for name in files if kept is None or of[name] == kept]


def wanted(there: set[str | None], url: str, split: str) -> str | None:
    """The split to take of those that are there, None: all. Raises ValueError as `chosen` does."""
    known = sorted(name for name in there if name)
    told = ", ".join(map(shown, known[:LISTED])) + ", ..." * (len(known) > LISTED) if known else "none"
    name = SPLITS.get(split, split)
    if split and name not in known:
        raise ValueError(f"{shown(url)} has no split {shown(split)!r}; it has {told}.")
    if not split and (len(known) > 1 or (None in there and set(known) - {"train"})):
        what = f"the splits {told}" if len(known) > 1 else f"the split {told} beside files that name none"
        raise ValueError(
            f"{shown(url)} has {what}: choose one with --split, or files of all of them with a glob such as FOLDER/**."
        )
    return name or None


def folder_of(files: Sequence[str], url: str, split: str) -> str:
    """The one folder of files that is named after the split to take, "" where none is named after a split."""
    found: dict[str, str] = {}
    outside = set[None]()
    for name in files:
        parts = name.split("/")[:-1]
        at = next((i for i, part in enumerate(parts) if part.lower() in SPLITS), None)
        if at is None:
            outside.add(None)
        else:
            found["/".join(parts[: at + 1])] = SPLITS[parts[at].lower()]
    kept = wanted({*found.values(), *outside}, url, split)
    folders = [folder for folder, of in found.items() if split and of == kept]
    if len(folders) > 1:
        told = ", ".join(map(shown, folders[:LISTED]))
        raise ValueError(f"{shown(url)} has several folders of that split ({told}): name one of them.")
    return next(iter(folders), "")
