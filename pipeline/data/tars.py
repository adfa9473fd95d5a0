"""Tars: the members of a .tar or .tar.gz, one after the other, read forwards and never written anywhere.

Nothing that a header says is believed before it is compared with a bound: names must be plain and at most 1,024
characters, a member at most 64 MiB, a compressed archive may not inflate more than 100 times, and only plain files
count. What asks for anything else (links, devices, a way up) is refused, because an archive of images needs none of it.
"""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import fsspec

from pipeline.data.images import MAX_BYTES
from pipeline.data.listing import oddity, reading, shown

BLOCK = 512
MAX_EXTENSION = 1 << 16  # of the header that holds a long name
INFLATION = 100  # times the bytes that were read, beyond the first MAX_BYTES
TARS = (".tar", ".tar.gz", ".tgz")


@dataclass
class Member:
    """A plain file of the archive; `read` is possible until the next member is asked for.

    `begin` is the byte at which its headers begin, where a later reading of a plain .tar may start.
    """

    name: str
    size: int
    begin: int
    stream: Forwards

    def read(self, most: int = MAX_BYTES) -> bytes:
        """Its bytes. Raises: ValueError: there are more than `most`, or the archive ends within."""
        if self.size > most:
            raise ValueError(f"{shown(self.name)!r} in {self.stream.name} takes {self.size} bytes, more than {most}.")
        return self.stream.take(self.size)


class Forwards:
    """Bytes that are only read forwards, counted against what a compressed archive may inflate to."""

    def __init__(self, raw: IO[bytes], packed: bool, name: str, start: int = 0) -> None:
        self.raw, self.packed, self.name, self.at = raw, packed, name, start
        self.stream: Any = gzip.GzipFile(fileobj=raw, mode="rb") if packed else raw
        self.length = raw.seek(0, 2)
        raw.seek(start)

    def take(self, count: int, least: int | None = None) -> bytes:
        """The next `count` bytes; ValueError where fewer than `least` (`count`) are left or they inflate too far."""
        data = self.stream.read(count)
        self.at += len(data)
        if self.packed and self.at > MAX_BYTES + INFLATION * self.raw.tell():
            raise ValueError(f"{self.name} inflates more than {INFLATION} times; it seems to be a bomb, so unpack it.")
        if len(data) < (count if least is None else least):
            raise ValueError(f"{self.name} ends within a member; it seems to be truncated.")
        return data

    def skip_to(self, end: int) -> None:
        """Passes over the bytes before `end`."""
        if not self.packed:
            if end > self.length:
                raise ValueError(f"{self.name} ends within a member; it seems to be truncated.")
            self.at = self.stream.seek(end)
        while self.at < end:
            self.take(min(end - self.at, 1 << 20))


def packed(path: str) -> bool:
    """Whether an archive of this name is compressed, so that it can only be read from its beginning."""
    return not path.lower().endswith(".tar")


def members(fs: fsspec.AbstractFileSystem, path: str, name: str, start: int = 0) -> Iterator[Member]:
    """The plain files of an archive in its order; ValueError about `name` where it is unsound or asks for too much.

    `start` is the `begin` of the first that is wanted, 0 for all; other than 0 only of an archive that is not packed.
    """
    with reading(fs, path) as raw:
        try:
            yield from _members(Forwards(raw, packed(path), name, start))
        except (EOFError, zlib.error, gzip.BadGzipFile, tarfile.HeaderError, UnicodeError) as error:
            reason = " ".join(str(error).split()).rstrip(".")
            raise ValueError(f"{name} is not a tar archive that can be read: {reason}.") from error


def _members(stream: Forwards) -> Iterator[Member]:
    longer: dict[str, str] = {}
    first, begin = True, stream.at
    while True:
        block = stream.take(BLOCK, 0)
        if not block.strip(b"\0"):
            if first and not block:
                raise ValueError(f"{stream.name} is empty.")
            return  # two blocks of zeros, or the end of the file
        if len(block) < BLOCK:
            raise ValueError(f"{stream.name} ends within a header; it seems to be truncated.")
        info, first = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape"), False
        if info.size < 0:
            raise ValueError(f"{shown(info.name)!r} in {stream.name} has a negative size.")
        start = stream.at
        if info.type in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE):
            if info.size > MAX_EXTENSION:
                raise ValueError(f"{stream.name} has a name or header of {info.size} bytes, more than {MAX_EXTENSION}.")
            text = stream.take(info.size)
            if info.type == tarfile.GNUTYPE_LONGNAME:
                longer["path"] = text.rstrip(b"\0").decode("utf-8", "surrogateescape")
            elif info.type == tarfile.XHDTYPE:
                longer |= _pax(text, stream.name)
        else:
            name, size = longer.get("path", info.name), info.size
            if "size" in longer or "GNU.sparse.major" in longer:
                raise ValueError(f"{shown(name)!r} in {stream.name} is sparse or huge; store it as a plain file.")
            _check(info, name, size, stream.name)
            longer = {}
            if info.isreg():
                yield Member(name.removeprefix("./"), size, begin, stream)
            info.size = size if info.isreg() else 0
        stream.skip_to(start + -(-info.size // BLOCK) * BLOCK)
        begin = begin if longer else stream.at


def _check(info: tarfile.TarInfo, name: str, size: int, archive: str) -> None:
    """Raises ValueError unless the member is a folder, or a plain file of a plain name and a bounded size."""
    reason = None if info.isdir() and name in (".", "./") else oddity(name)
    if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE, tarfile.DIRTYPE):
        reason = "is a link, a device or another thing that is no plain file"
    elif size > MAX_BYTES:
        reason = f"takes {size} bytes, more than {MAX_BYTES >> 20} MiB"
    if reason:
        raise ValueError(f"{shown(name)!r} in {archive} {reason}; pack plain files only.")


def _pax(text: bytes, archive: str) -> dict[str, str]:
    """The records "<length> <key>=<value>\\n" of an extended header."""
    found: dict[str, str] = {}
    while text:
        length, space, _ = text[:20].partition(b" ")
        count = int(length) if length.isdigit() else 0
        record = text[len(length) + 1 : count]
        key, equals, value = record.partition(b"=")
        if not (space and equals and record.endswith(b"\n")) or count > len(text):
            raise ValueError(f"{archive} has a damaged extended header.")
        found[key.decode("utf-8", "surrogateescape")] = value[:-1].decode("utf-8", "surrogateescape")
        text = text[count:]
    return found
