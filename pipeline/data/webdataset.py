"""WebDataset: tar archives whose members are grouped into samples by the name up to its first dot.

The sample "a/7" is made of neighbours such as a/7.jpg, a/7.cls, a/7.json and a/7.txt: one image, a label (.cls, or
"label" of .json), a caption (.txt, or "caption" or "text" of .json), and of what is damaged a/7.mask.png and a/7.sigma
(or "sigma" of .json). Archives are streamed; a piece is a range of samples of one of them. In a plain .tar it begins
where its first sample begins. A .tar.gz has to be inflated from its beginning: n samples of one archive are inflated
n / 2,048 times over, so pack many archives of some thousand samples, or plain ones (images hardly compress).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import PurePosixPath
from typing import Any

from pipeline.data.folders import MASK, OTHER_MASKS, SIGMA, SUFFIXES, number
from pipeline.data.listing import commonest, inside, listing, locate, others_in, shown
from pipeline.data.source import PIECE, Piece, Raw, Source, checked_id, checked_label, spans
from pipeline.data.splits import chosen
from pipeline.data.tars import TARS, members, packed

MAX_TEXT = 1 << 20  # of a label, a caption or a .json
ODD = re.compile(r"[\d.\s-]+\.\w+$")  # "5.png" of img_1.5.png is no kind of image, as "seg.png" is
READ = (*SUFFIXES, ".cls", ".json", ".txt", MASK, SIGMA)


@dataclass(frozen=True)
class WebDataset(Source):
    """Samples of the archives under `url`, a .tar, .tar.gz or .tgz or a folder of them; ids "<archive>/<sample>".

    `captions` takes captions ("" where a sample has none); `damage` names what every sample must have of "mask" and
    "sigma". Both are off unless asked for; `source_of` asks for what the first sample has, and a sample that has more
    than was asked for is refused. `glob` and `split` choose archives as they do files of `Parquet`.
    """

    url: str
    captions: bool = False
    damage: tuple[str, ...] = ()
    glob: str = ""
    split: str = ""

    def cut(self) -> Iterator[Piece]:
        """Ranges of samples; every header of every archive is checked on the way."""
        count, others = 0, Counter[str]()
        for file in self._files():
            here, begins = 0, []
            for here, (_, _, begin) in enumerate(self._samples(file, 0, others=others), 1):
                if here % PIECE == 1:
                    begins.append(-1 if packed(file) else begin)
            count += here
            yield from (Piece((file,), start=a, stop=b, at=begins[a // PIECE]) for a, b in spans([here]))
        if not count:
            raise ValueError(f"{shown(self.url)} has no samples; give archives with at least one image.")
        vars(self)["others"] = others

    @cached_property
    def others(self) -> Counter[str]:
        """The suffixes of members of kinds that are not read: found by `cut`, which passes all of them, or anew."""
        found = Counter[str]()
        for file in self._files():
            for _ in self._samples(file, 0, others=found):
                pass
        return found

    def read(self, piece: Piece) -> Iterator[Raw]:
        """The samples start .. stop − 1 of one archive."""
        (file,) = piece.files
        stem = file[: -next(len(end) for end in TARS if file.lower().endswith(end))]
        start, stop = (piece.start, piece.stop) if piece.at < 0 else (0, piece.stop - piece.start)
        for key, parts, _ in islice(self._samples(file, start, stop, max(0, piece.at)), start, stop):
            yield self._raw(checked_id(f"{stem}/{key}", shown(key)), parts, f"{shown(key)} in {shown(file)}")

    def unread(self) -> dict[str, int]:
        """Members of other kinds, and what is no archive in the folder, where it is one and all was asked for."""
        fs, root = locate(self.url)
        beside = Counter[str]()
        if fs.isdir(root) and not self.glob:
            beside = others_in(fs, root, lambda name: name.lower().endswith(TARS))
        return commonest(self.others + beside)

    def has(self) -> tuple[bool, tuple[str, ...]]:
        """Whether the first sample has a caption, if a null in its .json, and what it says of damage."""
        for file in self._files():
            for _, parts, _ in self._samples(file, 0, 1):
                told = _told(parts, shown(file))
                damage = {"mask": MASK in parts, "sigma": told.get("sigma") is not None}
                return "caption" in told, tuple(name for name in damage if damage[name])
        return False, ()

    def _raw(self, id: str, parts: dict[str, bytes], name: str) -> Raw:
        image = next((data for end, data in parts.items() if end in SUFFIXES), b"")
        told = _told(parts, name)
        label = told.get("label")
        if label is not None and (not isinstance(label, int) or isinstance(label, bool)):
            raise ValueError(f"{name} has the label {shown(str(label))!r}; labels are integers that count from 0.")
        caption = told.get("caption")
        if caption is not None and not isinstance(caption, str):
            raise ValueError(f"{name} has a caption that is no text.")
        found = {"mask": parts.get(MASK), "sigma": told.get("sigma")}
        more = [key for key in found if found[key] is not None and key not in self.damage]
        more += ["caption"] * bool(caption and not self.captions)
        if more:
            every = "the first sample one too, if an empty one" if more == ["caption"] else "every sample one"
            raise ValueError(
                f"{name} has a {more[0]}, and the first sample of the set has none: give {every}, or none."
            )
        caption = (caption or "") if self.captions else None
        damage = {key: found[key] for key in self.damage}
        return Raw(id, image, None if label is None else checked_label(label, name), name, caption, damage)

    def _files(self) -> list[str]:
        fs, root = locate(self.url)
        if not fs.isdir(root):
            return chosen([PurePosixPath(root).name], self.url, self.glob, self.split)
        files = listing(fs, root, lambda name: name.lower().endswith(TARS))
        if not files:
            raise ValueError(f"{shown(self.url)} has no archives; looked for {', '.join(TARS)}.")
        return chosen(files, self.url, self.glob, self.split)

    def _samples(
        self, file: str, start: int, stop: int = 0, at: int = 0, others: Counter[str] | None = None
    ) -> Iterator[tuple[str, dict[str, bytes], int]]:
        """(key, {extension: bytes}, first byte) of every sample from the byte `at` on, where one begins.

        The bytes only of those numbered start .. stop − 1, from there. Members that are neither read nor hidden are
        counted in `others`, by suffix.
        """
        fs, root = locate(self.url)
        path = inside(fs, root, file) if fs.isdir(root) else root
        key, parts, number, begin = "", {}, -1, at
        for member in members(fs, path, shown(file), at):
            folder, _, base = member.name.rpartition("/")
            stem, dot, rest = base.partition(".")
            extension = f".{rest.lower()}"
            if stem and extension in OTHER_MASKS and extension != MASK:
                raise ValueError(
                    f"{shown(member.name)} in {shown(file)} is named as a mask, which is read from {MASK} only: save "
                    "it so, or rename it."
                )
            if stem and rest.lower().endswith(SUFFIXES) and ODD.match(rest):
                raise ValueError(
                    f"{shown(member.name)} in {shown(file)} has a dot in its name, after which WebDataset looks for "
                    "the kind of file: name it without."
                )
            if not (stem and dot and extension in READ):
                if stem and others is not None:
                    others[PurePosixPath(base).suffix.lower()] += 1
                continue
            here = f"{folder}/{stem}".removeprefix("/")
            if here != key or number < 0 or extension in parts:
                if parts:
                    yield key, parts, begin
                key, parts, number, begin = here, {}, number + 1, member.begin
            if start <= number < stop:
                parts[extension] = member.read() if extension in (*SUFFIXES, MASK) else member.read(MAX_TEXT)
            else:
                parts[extension] = b""
        if parts:
            yield key, parts, begin


def _told(parts: dict[str, bytes], name: str) -> dict[str, Any]:
    """What the small members of a sample say: "label", "caption", "sigma"; ValueError where they cannot be read."""
    found: dict[str, Any] = {}
    try:
        if ".json" in parts:
            told = json.loads(parts[".json"])
            if not isinstance(told, dict):
                raise ValueError("its .json is no object")
            usual = {"label": ("label", "cls"), "caption": ("caption", "text"), "sigma": ("sigma",)}
            for field, names in usual.items():
                values = [told[name] for name in names if name in told]
                if values:
                    found[field] = next((value for value in values if value is not None), None)
        if ".txt" in parts:
            found["caption"] = parts[".txt"].decode().strip()
        if SIGMA in parts:
            found["sigma"] = number(parts[SIGMA])
        if ".cls" in parts:
            found["label"] = int(parts[".cls"][:100])
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ValueError(f"{name} has a label, caption or .json that cannot be read: {shown(reason)}.") from error
    return found
