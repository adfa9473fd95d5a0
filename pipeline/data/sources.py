"""Sources: every kind of collection in one place, and the one function that tells them apart by looking."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import PurePosixPath

from pipeline.data.arrays import Arrays
from pipeline.data.clips import ANIMATIONS, Clips
from pipeline.data.digits import Digits
from pipeline.data.folders import MASK, SIGMA, SUFFIXES, Folder
from pipeline.data.frames import Frames
from pipeline.data.idx import Idx, is_idx
from pipeline.data.listing import listing, locate, parted, shown
from pipeline.data.parquet import Parquet
from pipeline.data.source import Piece, Raw, Source
from pipeline.data.splits import chosen, folder_of
from pipeline.data.tars import TARS
from pipeline.data.videos import VIDEOS
from pipeline.data.webdataset import WebDataset

__all__ = [
    "Arrays",
    "Clips",
    "Digits",
    "Folder",
    "Frames",
    "Idx",
    "Parquet",
    "Piece",
    "Raw",
    "Source",
    "WebDataset",
    "source_of",
]

KINDS = (".parquet", *TARS, ".npy", ".npz", *VIDEOS, *ANIMATIONS)
OPTIONS = {
    "split": "--split",
    "image": "--image-column",
    "label": "--label-column",
    "caption": "--caption-column",
    "embedding": "--embedding",
    "glob": "a glob",
}
CLIP = 16  # frames in a clip of a video, unless another number is asked for


def source_of(
    path: str,
    frames: int | None = None,
    stride: int = 1,
    split: str = "",
    image: str = "",
    label: str = "",
    caption: str = "",
    embedding: str = "",
) -> Source:
    """The source for "digits", a folder, or a file of one of the kinds that can be read, found by looking at it.

    A folder is taken for what it has of the first of these: parquet files, tar archives, images, videos. Captions,
    masks and sigmas are taken where parquet, an .npz, the first sample of an archive or files beside the images have
    them. `frames` asks for clips of so many frames, `stride` apart: of animations, videos, folders of frames, or
    parquet whose rows are frames. Videos are always cut into clips, of 16 frames unless told.

    `path` may be any fsspec URL, and end in a glob of parquet files, archives or images. `split` chooses among their
    files by name (`splits.py`), and has to where they are of several; `image`, `label` and `caption` name columns of
    parquet, `embedding` one of parquet or an array of an .npz. Raises ValueError where there is nothing, or nothing of
    these kinds, or a choice that is not there.
    """
    if frames is None and stride != 1:
        raise ValueError(f"stride={stride} says how far the frames of a clip lie apart; ask for frames as well.")
    if not path:
        raise ValueError("The path of the data is empty; give 'digits', a folder or a file.")
    asked = {name: text for name, text in zip(OPTIONS, (split, image, label, caption, embedding)) if text}
    source = Digits() if path == "digits" and frames is None else _found(path, frames, stride, asked)
    known = vars(source.rows if isinstance(source, Frames) else source).keys()
    if unused := asked.keys() - known - ({"split"} if isinstance(source, Folder) else set()):
        raise ValueError(
            f"{shown(path)} gives {type(source).__name__.lower()}, of which {OPTIONS[min(unused)]} can choose nothing: "
            "leave it out."
        )
    return source


def has_captions(source: Source) -> bool:
    """Whether rows of a source come with captions."""
    return bool(getattr(source, "caption", "") or getattr(source, "captions", False))


def _found(path: str, frames: int | None, stride: int, asked: dict[str, str]) -> Source:
    if "://" not in path and not path.startswith("pipe:"):
        path = os.path.abspath(path)  # workers elsewhere have another working folder
    path, glob = parted(path)
    fs, root = locate(path)
    if not fs.isdir(root):
        return _clips(path, frames, stride, [root], asked) if frames else _file(path, PurePosixPath(root).name, asked)
    files = listing(fs, root, _known)
    named = chosen(files, path, glob) if glob else files
    if glob:
        asked["glob"] = glob
    return _clips(path, frames, stride, named, asked) if frames else _folder(path, files, named, asked)


def _file(path: str, name: str, asked: dict[str, str]) -> Source:
    def is_a(*suffixes: str) -> bool:
        return name.lower().endswith(suffixes)

    kinds: list[tuple[bool, Callable[[], Source]]] = [
        (is_a(".parquet"), lambda: _parquet(path, asked)),
        (is_a(*TARS), lambda: _tars(path, asked)),
        (is_a(".npy", ".npz"), lambda: _arrays(path, asked)),
        (is_idx(name), lambda: Idx(path)),
        (is_a(*VIDEOS, *ANIMATIONS), lambda: Clips(path, frames=CLIP)),
    ]
    for fits, source in kinds:
        if fits:
            return source()
    raise ValueError(
        f"{shown(path)} is a file of unknown kind; {', '.join(KINDS)}, idx3-ubyte or a folder can be read."
    )


def _folder(path: str, files: list[str], named: list[str], asked: dict[str, str]) -> Source:
    """Of a folder with these files, of which those `named` were asked for."""
    named = [name for name in named if not name.lower().endswith(MASK)]
    has = {suffix: any(name.lower().endswith(suffix) for name in named) for suffix in (".parquet", *TARS, *SUFFIXES)}
    images = [name for name in named if is_idx(name)]
    if has[".parquet"]:
        return _parquet(path, asked)
    if any(has[suffix] for suffix in TARS):
        return _tars(path, asked)
    if any(has[suffix] for suffix in SUFFIXES):
        pictures = [name for name in files if name.lower().endswith(SUFFIXES)]
        if "glob" not in asked and (part := folder_of(pictures, path, asked.get("split", ""))):
            return source_of(f"{path.rstrip('/')}/{part}")
        stems = {str(PurePosixPath(name).with_suffix("")) for name in pictures}
        captions = any(name[:-4] in stems for name in files if name.lower().endswith(".txt"))
        return Folder(path, captions=captions, damage=_beside(files), glob=asked.get("glob", ""))
    if any(name.lower().endswith(VIDEOS) for name in named):
        return Clips(path, _beside(files), frames=CLIP)
    if len(images) == 1:
        return Idx(f"{path.rstrip('/')}/{images[0]}")
    known = [name for name in named if not name.lower().endswith((".txt", SIGMA))]
    found = "name one of its .npy, .npz or idx3-ubyte files" if known else "nothing of the kind is in it"
    raise ValueError(
        f"{shown(path)} was searched for images ({', '.join(SUFFIXES)}) and for .parquet files, archives "
        f"({', '.join(TARS)}) and videos ({', '.join(VIDEOS)}): {found}."
    )


def _clips(path: str, frames: int, stride: int, files: list[str], asked: dict[str, str]) -> Source:
    if any(name.lower().endswith(".parquet") for name in files):
        rows = _parquet(path, asked)
        if "clip" not in rows.schema().names:
            raise ValueError(f"{shown(path)} has no column 'clip', which says what film a frame is from; add one.")
        return Frames(rows, frames=frames, stride=stride)
    if any(name.lower().endswith((*VIDEOS, *SUFFIXES)) for name in files):
        return Clips(path, _beside(files), frames=frames, stride=stride)
    raise ValueError(f"{shown(path)} has nothing to cut clips of {frames} frames from; leave out frames.")


def _beside(files: list[str]) -> tuple[str, ...]:
    """What of the damage lies in files of its own."""
    kinds = (("mask", MASK), ("sigma", SIGMA))
    return tuple(kind for kind, end in kinds if any(name.lower().endswith(end) for name in files))


def _arrays(path: str, asked: dict[str, str]) -> Arrays:
    names = Arrays(path).names()
    own = {"embedding": asked.get("embedding", "")}
    return Arrays(path, mask="mask" * ("mask" in names), sigma="sigma" * ("sigma" in names), **own)


def _parquet(path: str, asked: dict[str, str]) -> Parquet:
    return replace(Parquet(path, **asked).noticed(), **asked)


def _tars(path: str, asked: dict[str, str]) -> WebDataset:
    archives = WebDataset(path, glob=asked.get("glob", ""), split=asked.get("split", ""))
    captions, damage = archives.has()
    return replace(archives, captions=captions, damage=damage)


def _known(name: str) -> bool:
    return name.lower().endswith((*SUFFIXES, *KINDS, ".txt", SIGMA)) or is_idx(name)
