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
from pipeline.data.listing import listing, locate, shown
from pipeline.data.parquet import Parquet
from pipeline.data.source import Piece, Raw, Source
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
CLIP = 16  # frames in a clip of a video, unless another number is asked for


def source_of(path: str, frames: int | None = None, stride: int = 1) -> Source:
    """The source for "digits", a folder, or a file of one of the kinds that can be read, found by looking at it.

    A folder is taken for what it has of the first of these: parquet files, tar archives, images, videos. Captions,
    masks and sigmas are taken where parquet, an .npz, the first sample of an archive or files beside the images have
    them. `frames` asks for clips of so many frames, `stride` apart: of animations, videos, folders of frames, or
    parquet whose rows are frames. Videos are always cut into clips, of 16 frames unless told.

    `path` may be any fsspec URL. Raises ValueError where there is nothing, or nothing of these kinds.
    """
    if frames is None and stride != 1:
        raise ValueError(f"stride={stride} says how far the frames of a clip lie apart; ask for frames as well.")
    if path == "digits" and frames is None:
        return Digits()
    if not path:
        raise ValueError("The path of the data is empty; give 'digits', a folder or a file.")
    if "://" not in path and not path.startswith("pipe:"):
        path = os.path.abspath(path)  # workers elsewhere have another working folder
    fs, root = locate(path)
    if not fs.isdir(root):
        return _clips(path, frames, stride, [root]) if frames else _file(path, PurePosixPath(root).name)
    files = listing(fs, root, _known)
    return _clips(path, frames, stride, files) if frames else _folder(path, files)


def _file(path: str, name: str) -> Source:
    def is_a(*suffixes: str) -> bool:
        return name.lower().endswith(suffixes)

    kinds: list[tuple[bool, Callable[[], Source]]] = [
        (is_a(".parquet"), lambda: Parquet(path).noticed()),
        (is_a(*TARS), lambda: _tars(path)),
        (is_a(".npy", ".npz"), lambda: _arrays(path)),
        (is_idx(name), lambda: Idx(path)),
        (is_a(*VIDEOS, *ANIMATIONS), lambda: Clips(path, frames=CLIP)),
    ]
    for fits, source in kinds:
        if fits:
            return source()
    raise ValueError(
        f"{shown(path)} is a file of unknown kind; {', '.join(KINDS)}, idx3-ubyte or a folder can be read."
    )


def _folder(path: str, files: list[str]) -> Source:
    has = {suffix: any(name.lower().endswith(suffix) for name in files) for suffix in (".parquet", *TARS, *SUFFIXES)}
    images = [name for name in files if is_idx(name)]
    if has[".parquet"]:
        return Parquet(path).noticed()
    if any(has[suffix] for suffix in TARS):
        return _tars(path)
    if any(has[suffix] for suffix in SUFFIXES):
        stems = {str(PurePosixPath(name).with_suffix("")) for name in files if name.lower().endswith(SUFFIXES)}
        captions = any(name[:-4] in stems for name in files if name.lower().endswith(".txt"))
        beside = {end: any(name.lower().endswith(end) for name in files) for end in (MASK, SIGMA)}
        damage = tuple(kind for kind, end in (("mask", MASK), ("sigma", SIGMA)) if beside[end])
        return Folder(path, captions=captions, damage=damage)
    if any(name.lower().endswith(VIDEOS) for name in files):
        return Clips(path, frames=CLIP)
    if len(images) == 1:
        return Idx(f"{path.rstrip('/')}/{images[0]}")
    known = [name for name in files if not name.lower().endswith((".txt", SIGMA))]
    found = "name one of its .npy, .npz or idx3-ubyte files" if known else "nothing of the kind is in it"
    raise ValueError(
        f"{shown(path)} was searched for images ({', '.join(SUFFIXES)}) and for .parquet files, archives "
        f"({', '.join(TARS)}) and videos ({', '.join(VIDEOS)}): {found}."
    )


def _clips(path: str, frames: int, stride: int, files: list[str]) -> Source:
    if any(name.lower().endswith(".parquet") for name in files):
        rows = Parquet(path)
        if "clip" not in rows.schema().names:
            raise ValueError(f"{shown(path)} has no column 'clip', which says what film a frame is from; add one.")
        return Frames(rows.noticed(), frames=frames, stride=stride)
    if any(name.lower().endswith((*VIDEOS, *SUFFIXES)) for name in files):
        return Clips(path, frames=frames, stride=stride)
    raise ValueError(f"{shown(path)} has nothing to cut clips of {frames} frames from; leave out frames.")


def _arrays(path: str) -> Arrays:
    names = Arrays(path).names()
    return Arrays(path, mask="mask" * ("mask" in names), sigma="sigma" * ("sigma" in names))


def _tars(path: str) -> WebDataset:
    captions, damage = WebDataset(path).has()
    return replace(WebDataset(path), captions=captions, damage=damage)


def _known(name: str) -> bool:
    return name.lower().endswith((*SUFFIXES, *KINDS, ".txt", SIGMA)) or is_idx(name)
