"""Sources: every kind of collection in one place, and the one function that tells them apart by looking."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import PurePosixPath

from pipeline.data.arrays import Arrays
from pipeline.data.digits import Digits
from pipeline.data.folders import SUFFIXES, Folder
from pipeline.data.listing import listing, locate, shown
from pipeline.data.parquet import Parquet
from pipeline.data.source import Piece, Raw, Source

__all__ = ["Arrays", "Digits", "Folder", "Parquet", "Piece", "Raw", "Source", "source_of"]

FILES: dict[str, type[Arrays] | type[Parquet]] = {".parquet": Parquet, ".npy": Arrays, ".npz": Arrays}


def source_of(path: str) -> Source:
    """The source for "digits", a folder of images or of parquet files, or a .parquet, .npy or .npz file.

    `path` may be any fsspec URL. A folder with parquet files is taken for those, whatever pictures lie beside them.
    Raises ValueError where there is nothing, or nothing of these kinds.
    """
    if path == "digits":
        return Digits()
    if not path:
        raise ValueError("The path of the data is empty; give 'digits', a folder or a file.")
    if "://" not in path:
        path = os.path.abspath(path)  # workers elsewhere have another working folder
    fs, root = locate(path)
    if not fs.isdir(root):
        kind = PurePosixPath(root).suffix.lower()
        if kind not in FILES:
            raise ValueError(f"{shown(path)} is a file of unknown kind; {', '.join(FILES)} or a folder can be read.")
        return FILES[kind](path)
    kinds = Counter(PurePosixPath(name).suffix.lower() for name in listing(fs, root, _known))
    if kinds[".parquet"]:
        return Parquet(path)
    if any(kinds[suffix] for suffix in SUFFIXES):
        return Folder(path)
    found = "name one of its .npy or .npz files" if kinds else "nothing of the kind is in it"
    raise ValueError(f"{shown(path)} was searched for images ({', '.join(SUFFIXES)}) and for .parquet files: {found}.")


def _known(name: str) -> bool:
    return name.lower().endswith((*SUFFIXES, *FILES))
