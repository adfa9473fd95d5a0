"""What a finished step left: files, and the manifest that says which; read as if a stranger had written them."""

from __future__ import annotations

import hashlib
import io
import json
import shlex
from typing import Any, BinaryIO

from . import config
from .lease import MANIFEST
from .place import Place
from .shown import picture, table

FORMAT = 1
KINDS = {"address": str, "label": str, "attempt": str, "config": dict, "needs": dict, "files": dict, "created": str}


class StoreError(ValueError):
    """A store or an artifact that cannot be used as it is: one sentence that says what to do."""


class Damaged(StoreError):
    """An artifact without a manifest that can be read."""


def read_manifest(place: Place, address: str) -> dict[str, Any] | None:
    """The manifest of an address in the store at `place`, None while there is none.

    Raises:
        Damaged: it is none, or another address's.
        StoreError: another version wrote it.
    """
    mend = how_to_mend(place.url)
    try:
        manifest = json.loads(place.read(f"objects/{address}/{MANIFEST}"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, RecursionError) as error:
        raise Damaged(f"the manifest of {address} is damaged: {mend}") from error
    if not isinstance(manifest, dict) or type(manifest.get("format")) is not int:
        raise Damaged(f"the manifest of {address} is damaged: {mend}")
    if manifest["format"] != FORMAT:
        raise StoreError(f"{address} was written in format {manifest['format']}, this version reads {FORMAT}")
    if manifest.get("address", address) != address:
        raise Damaged(f"{address} holds what was made as {str(manifest['address'])[:80]}: {mend}")
    if not _is_whole(manifest):
        raise Damaged(f"the manifest of {address} is damaged: {mend}")
    return manifest


def sealed(manifest: dict[str, Any]) -> bytes:
    """The manifest as a file, with its own SHA-256 in it: a line changed by hand, or by a disk, is seen."""
    return json.dumps(manifest | {"sha256": _seal(manifest)}, indent=1).encode()


def _seal(manifest: dict[str, Any]) -> str:
    content = {name: value for name, value in manifest.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def how_to_mend(store: str) -> str:
    """What to do about something damaged in the store at that URL."""
    return f"delete it with `kintsugi gc --damaged --yes --store {shlex.quote(store)}` and run again"


def _is_whole(manifest: dict[str, Any]) -> bool:
    if "sha256" in manifest and manifest["sha256"] != _seal(manifest):  # none: written before there were seals
        return False
    if not all(isinstance(manifest.get(name), kind) for name, kind in KINDS.items()):
        return False
    files = manifest["files"].values()
    return all(isinstance(need, str) for need in manifest["needs"].values()) and all(
        isinstance(file, dict) and isinstance(file.get("sha256"), str) and isinstance(file.get("bytes"), int)
        for file in files
    )


class Artifact:
    """What a finished step left: its manifest and its files, each checked against its SHA-256 when read."""

    def __init__(self, place: Place, manifest: dict[str, Any]):
        self.manifest = manifest
        self.place = place / manifest["attempt"]

    @property
    def address(self) -> str:
        """`<stage>/<fingerprint>`."""
        return self.manifest["address"]

    @property
    def seconds(self) -> float:
        """How long the attempt took that made it; 0 where nobody wrote that down."""
        return float(self.manifest.get("seconds", 0.0))

    def names(self) -> list[str]:
        """The files, by name."""
        return sorted(self.manifest["files"])

    def read(self, name: str) -> bytes:
        """A file's bytes, verified.

        Raises:
            StoreError: there is no such file, or it is not what was written.
        """
        if name not in self.manifest["files"]:
            raise StoreError(f"{self.address} has no file '{name}'{config.nearest(name, self.manifest['files'])}")
        try:
            data = self.place.read(name)
        except FileNotFoundError:
            data = b""
        if hashlib.sha256(data).hexdigest() != self.manifest["files"][name]["sha256"]:
            store = self.place.url.removesuffix(f"/objects/{self.address}/{self.manifest['attempt']}")
            raise StoreError(f"{self.place.at(name)} of {self.address} is damaged: {how_to_mend(store)}")
        return data

    def file(self, name: str) -> BinaryIO:
        """A file's bytes, verified, as a file in memory."""
        return io.BytesIO(self.read(name))

    def json(self, name: str) -> Any:
        """A JSON file's content."""
        return json.loads(self.read(name))

    def _repr_html_(self) -> str:
        """In a notebook: what it is, its files, and its pictures."""
        said = f"{self.manifest['label']}: {self.address}, made {self.manifest['created']} in {self.seconds:.1f} s"
        files = [[name, file["bytes"]] for name, file in sorted(self.manifest["files"].items())]
        pictures = [picture(self.read(name), name) for name in self.names() if name.endswith(".png")]
        return table(["file", "bytes"], files, said) + "".join(pictures)
