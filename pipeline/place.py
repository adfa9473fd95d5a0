"""A folder at any URL: files that appear whole or not at all, and names that stay inside."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from fsspec.core import url_to_fs

PASSWORD = re.compile(r"//[^/@]*:[^/@]*@")
SIGNED = re.compile(r"[?&](?:[\w-]*signature|sig|[\w-]*token|[\w-]*key|[\w-]*secret|[\w-]*password)=", re.IGNORECASE)
TEMPORARY = re.compile(r"\.\d+-\d+\.tmp$")


class PlaceError(ValueError):
    """A name or a place that cannot be used: one sentence that says what to do."""


def secret_in(url: str) -> str:
    """What a URL has that results, which keep it, must not: "a password", "a signature", or "" if it has nothing."""
    if "://" not in url:
        return ""
    return "a password" if PASSWORD.search(url) else "a signature" if SIGNED.search(url) else ""


class Place:
    """A folder at any URL: what a stage writes to and an artifact is read from."""

    def __init__(self, url: str):
        try:
            self.fs, self.root = url_to_fs(url)
        except (ValueError, ImportError) as error:
            raise PlaceError(f"{url.split('://')[0]}:// cannot be opened: {error}") from error
        self.url = self.fs.unstrip_protocol(self.root)

    def __reduce__(self):
        return Place, (self.url,)

    @property
    def is_local(self) -> bool:
        """Whether the files lie on this machine's own file system."""
        return "file" in (self.fs.protocol if isinstance(self.fs.protocol, tuple) else (self.fs.protocol,))

    def at(self, name: str) -> str:
        """The path of `name`, which must stay inside."""
        if name.startswith("/") or ".." in name.split("/"):
            raise PlaceError(f"{name!r} is not a name inside {self.url}: use a relative name without '..'")
        return f"{self.root}/{name}"

    def __truediv__(self, name: str) -> Place:
        self.at(name)
        return Place(f"{self.url}/{name}")

    def open(self, name: str) -> BinaryIO:
        """A file to read."""
        return self.fs.open(self.at(name), "rb")

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[BinaryIO]:
        """A file to write in pieces; it appears, whole, when the context ends without an exception."""
        self.fs.makedirs(self.fs._parent(self.at(name)), exist_ok=True)
        path = self.at(name)
        target = _temporary(path) if self.is_local else path
        try:
            with self.fs.open(target, "wb") as file:
                yield file
            if target != path:
                os.replace(target, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                self.fs.rm(target)
            raise

    def read(self, name: str) -> bytes:
        """A file's bytes."""
        return self.fs.cat_file(self.at(name))

    def write(self, name: str, data: bytes | str) -> None:
        """Write a file so that a reader sees all of it or none of it."""
        self.fs.makedirs(self.fs._parent(self.at(name)), exist_ok=True)
        data = data.encode() if isinstance(data, str) else data
        if not self.is_local:
            self.fs.pipe_file(self.at(name), data)
            return
        _with_temporary(self.at(name), data, os.replace)

    def create(self, name: str, data: bytes) -> bool:
        """Write a file unless it exists already; False then. Whole or not at all, and once."""
        self.fs.makedirs(self.fs._parent(self.at(name)), exist_ok=True)
        try:
            if self.is_local:
                _with_temporary(self.at(name), data, _publish_once)
            else:
                self.fs.pipe_file(self.at(name), data, mode="create")
        except FileExistsError:
            return False
        return True

    def exists(self, name: str = "") -> bool:
        """Whether there is such a file or folder."""
        return bool(self.fs.exists(self.at(name) if name else self.root))

    def names(self) -> list[str]:
        """Every file below, by relative name, sorted; none that is still being written or was left half-written."""
        self.fs.invalidate_cache()
        if not self.exists():
            return []
        found = (path[len(self.root.rstrip("/")) + 1 :] for path in self.fs.find(self.root))
        return sorted(name for name in found if not TEMPORARY.search(name))

    def remove(self, name: str = "") -> None:
        """Delete a file or folder, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            self.fs.rm(self.at(name) if name else self.root, recursive=True)

    def folder(self, name: str) -> Path:
        """A local folder of that name, for libraries that write files themselves. Local places only."""
        if not self.is_local:
            raise PlaceError(f"{self.url} is not on this machine: write through open() instead")
        path = Path(self.at(name))
        path.mkdir(parents=True, exist_ok=True)
        return path


def _with_temporary(path: str, data: bytes, publish: Callable[[str, str], None]) -> None:
    temporary = _temporary(path)
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        publish(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def _publish_once(temporary: str, path: str) -> None:
    """Give the file its name unless the name is taken; by a hard link, or, where there are none, by a copy."""
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        with open(path, "xb") as file:
            file.write(Path(temporary).read_bytes())


def _temporary(path: str) -> str:
    return f"{path}.{os.getpid()}-{threading.get_ident()}.tmp"
