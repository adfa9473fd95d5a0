"""Listing: which files lie behind any fsspec URL, and which names among them are not to be trusted.

A file's identity is its path relative to the place that was named, so that path must be plain: no way up, no drive, no
control characters, no link that leaves the place.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import IO, cast

import fsspec
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from pipeline.place import secret_in

MAX_NAME = 1024  # characters in a relative path
KINDS, OTHERS = 16, "of other kinds"
PACKAGES = {"hf": "huggingface_hub", "s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs"}
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # surrogates are what Python makes of undecodable names


def shown(name: str) -> str:
    """`name` as an error may print it: without user and password or query of a URL, printable, at most 200 long."""
    if "://" in name:
        name = re.sub(r"//[^/@]*@", "//", name).split("?")[0]
    text = "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in name)
    return text if len(text) <= 200 else f"{text[:120]}...{text[-60:]}"


def locate(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system and the path on it of something that exists; ValueError where it does not."""
    if "\0" in url:
        raise ValueError(f"{shown(url)} has a zero character in it; give the path without.")
    if url.startswith("pipe:"):
        raise ValueError(f"{shown(url)} would start a program, which no data may do; give a file or a fsspec URL.")
    if kept := secret_in(url):
        raise ValueError(f"{shown(url)} has {kept} in it, which results would keep; give it in the environment.")
    try:
        fs, path = url_to_fs(url)
        exists = fs.exists(path)
    except ImportError as error:
        package = PACKAGES.get(url.split(":")[0])
        how = f"run `pip install {package}` first" if package else " ".join(str(error).split()).rstrip(".")
        raise ValueError(f"{shown(url)} needs a package that is not installed: {how}.") from error
    except ValueError as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ValueError(f"{shown(url)} cannot be opened: {reason}.") from error
    if not exists:
        reached = ", or cannot be reached" if "://" in url else ""
        raise ValueError(f"{shown(url)} does not exist{reached}; check the path.")
    return fs, path.rstrip("/") or path


def parted(url: str) -> tuple[str, str]:
    """The folder before the first *, ? or [ of a URL, and the glob below it; (url, "") where it has none.

    What exists under that very name is no glob.
    """
    found = re.search(r"[*?[]", url)
    if found is None or "\0" in url or url.startswith("pipe:") or secret_in(url):
        return url, ""
    try:
        fs, path = url_to_fs(url)
        if fs.exists(path):
            return url, ""
    except (ImportError, ValueError):
        return url, ""  # which `locate` explains
    cut = url.rfind("/", 0, found.start()) + 1
    return url[:cut] if url[:cut].endswith("://") else url[:cut].rstrip("/") or "/", url[cut:]


def reading(fs: fsspec.AbstractFileSystem, path: str) -> IO[bytes]:
    """The file, open for reading bytes."""
    return cast("IO[bytes]", fs.open(path, "rb"))


def oddity(relative: str) -> str | None:
    """Why this relative path is refused, or None for a plain one."""
    parts = PurePosixPath(relative).parts
    reasons = {
        "is not inside it": not parts or relative.startswith("/") or ".." in parts,
        "has a backslash or a drive letter": "\\" in relative or re.match(r"[A-Za-z]:", relative) is not None,
        "has control characters or is not Unicode": CONTROL.search(relative) is not None,
        f"has more than {MAX_NAME} characters": len(relative) > MAX_NAME,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def inside(fs: fsspec.AbstractFileSystem, root: str, relative: str) -> str:
    """The path of the file `relative` to `root`; ValueError where the name is odd or a link leaves the root."""
    reason = oddity(relative)
    path = f"{root.rstrip('/')}/{relative}"
    if not reason and isinstance(fs, LocalFileSystem):
        home, real = os.path.realpath(root), os.path.realpath(path)
        if os.path.commonpath([home, real]) != home:
            reason = "is a link that leaves it"
    if reason:
        raise ValueError(f"{shown(relative)!r} in {shown(root)} {reason}; rename, copy or remove it.")
    return path


def listing(fs: fsspec.AbstractFileSystem, root: str, wanted: Callable[[str], bool]) -> list[str]:
    """The sorted relative paths of the `wanted` files at any depth; hidden files and folders are passed over.

    Raises ValueError at a wanted file with an odd name or a link out of the root, and at a link to a folder.
    """
    names = [(name, link) for name, link in _every(fs, root) if wanted(name)]
    for name, link in names:
        if link or oddity(name):
            inside(fs, root, name)
    return sorted(name for name, _ in names)


def unread(fs: fsspec.AbstractFileSystem, root: str, read: Callable[[str], bool]) -> dict[str, int]:
    """How many files that are not hidden nor `read` have each suffix, of the `KINDS` commonest; OTHERS for the rest."""
    return commonest(others_in(fs, root, read))


def others_in(fs: fsspec.AbstractFileSystem, root: str, read: Callable[[str], bool]) -> Counter[str]:
    """The same of all kinds, as they are written."""
    return Counter(PurePosixPath(name).suffix.lower() for name, _ in _every(fs, root) if not read(name))


def commonest(found: Counter[str]) -> dict[str, int]:
    """The `KINDS` commonest kinds, as they may be printed; OTHERS for the rest."""
    kinds = sorted(found.items(), key=lambda item: (-item[1], item[0]))
    rest = sum(count for _, count in kinds[KINDS:])
    return {shown(kind): count for kind, count in kinds[:KINDS]} | ({OTHERS: rest} if rest else {})


def listed(kinds: Mapping[str, int]) -> str:
    """What `unread` found, as people say it: "12 .csv, 1 without a suffix"."""
    return ", ".join(f"{count} {kind or 'without a suffix'}" for kind, count in kinds.items())


def _every(fs: fsspec.AbstractFileSystem, root: str) -> list[tuple[str, bool]]:
    """(relative path, is it a link?) of every file that is not hidden."""
    return _local(root) if isinstance(fs, LocalFileSystem) else [(name, False) for name in _remote(fs, root)]


def _local(root: str) -> list[tuple[str, bool]]:
    """(relative path, is it a link?) of every regular file."""
    names, folders = [], [""]
    while folders:
        prefix = folders.pop()
        with os.scandir(os.path.join(root, prefix)) as entries:
            for entry in entries:
                name = prefix + entry.name
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    folders.append(name + "/")
                elif entry.is_dir():
                    raise ValueError(
                        f"{shown(name)!r} in {shown(root)} is a link to a folder; name that folder itself."
                    )
                elif entry.is_file():  # neither pipes nor devices, which would never end
                    names.append((name, entry.is_symlink()))
    return names


def _remote(fs: fsspec.AbstractFileSystem, root: str) -> list[str]:
    start = root.rstrip("/") + "/" if root else ""
    names = [name.removeprefix(start) for name in fs.find(root)]
    return [name for name in names if not any(p.startswith(".") and p != ".." for p in name.split("/"))]
