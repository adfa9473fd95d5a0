"""Objects addressed by what made them, names for people, the manifest written last; on any fsspec URL.

    objects/<stage>/<fingerprint>/manifest.json          the artifact exists when, and only when, this does
    objects/<stage>/<fingerprint>/<attempt>/...          its files; the manifest says which attempt won
    refs/<recipe>/<label>.json                           which address a person last called by that name

Object stores cannot rename, so an attempt is never moved: the manifest, created exclusively and once, names it and
holds every file's SHA-256. An attempt whose writer died is taken over by the next one, which finds the
finished pieces of its work in it; two living writers have two attempts, and the first manifest wins.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import config
from .lease import LEASE, WORK, Lease
from .place import Place

if TYPE_CHECKING:
    from .graph import Step

FORMAT = 1


class StoreError(ValueError):
    """A store or an artifact that cannot be used as it is: one sentence that says what to do."""


class Artifact:
    """What a finished step left: its manifest and its files, each checked against its SHA-256 when read."""

    def __init__(self, place: Place, manifest: dict[str, Any]):
        self.manifest = manifest
        self.place = place / manifest["attempt"]

    @property
    def address(self) -> str:
        """`<stage>/<fingerprint>`."""
        return self.manifest["address"]

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
            raise StoreError(
                f"{self.place.at(name)} is damaged: delete {self.address} with `kintsugi gc --damaged` and run again"
            )
        return data

    def json(self, name: str) -> Any:
        """A JSON file's content."""
        return json.loads(self.read(name))


class Store:
    """Artifacts by fingerprint under one URL.

    Args:
        url: a folder on any fsspec file system: `runs`, `s3://bucket/runs`, `memory://x`.
    """

    def __init__(self, url: str):
        if "://" not in url:
            url = str(Path(url).expanduser().absolute())
        self.place = Place(url)

    def __reduce__(self):
        return Store, (self.place.url,)

    @property
    def url(self) -> str:
        """Where it is, with its protocol."""
        return self.place.url

    def check_writable(self) -> None:
        """Raises: StoreError: nothing can be written here."""
        try:
            self.place.write(".probe", b"")
            self.place.remove(".probe")
        except OSError as error:
            raise StoreError(
                f"the store {self.url} cannot be written to ({error.strerror or error}): "
                "make it writable or name another with --store"
            ) from error

    def manifest(self, address: str) -> dict[str, Any] | None:
        """The manifest at an address, None while there is none."""
        try:
            manifest = json.loads(self.place.read(f"objects/{address}/manifest.json"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ValueError as error:
            raise StoreError(f"the manifest of {address} is damaged: delete that folder and run again") from error
        if manifest.get("format") != FORMAT:
            raise StoreError(f"{address} was written in format {manifest.get('format')}, this version reads {FORMAT}")
        return manifest

    def has(self, step: Step) -> bool:
        """Whether the step is done.

        Raises:
            StoreError: its address is taken by something made from another configuration.
        """
        manifest = self.manifest(step.address)
        if manifest is None:
            return False
        old, new = config.leaves(manifest["config"]), config.leaves(step.config)
        for path in old.keys() & new.keys():
            if old[path] != new[path]:
                raise StoreError(
                    f"same address, other recipe: {step.address} was made with {path} = {old[path]!r}, not "
                    f"{new[path]!r}; bump `version` in {type(step.stage).__name__}"
                )
        return True

    def artifact(self, address: str) -> Artifact:
        """A finished artifact. Raises: StoreError: there is none."""
        manifest = self.manifest(address)
        if manifest is None:
            raise StoreError(f"{address} is not in {self.url}: run its recipe first, or look with `kintsugi ls`")
        return Artifact(self.place / f"objects/{address}", manifest)

    def addresses(self) -> list[str]:
        """Every finished artifact."""
        found = (re.fullmatch(r"objects/([^/]+/[^/]+)/manifest\.json", name) for name in self.place.names())
        return sorted(match.group(1) for match in found if match)

    @contextlib.contextmanager
    def writing(self, step: Step) -> Iterator[Place]:
        """A place to write the step's files to; on leaving without an exception they become its artifact.

        Names under `_work/` are for resuming: the next attempt after a crash finds them, the artifact has them not.
        """
        home = self.place / f"objects/{step.address}"
        with Lease.take(home) as lease:
            out = home / lease.attempt
            yield out
            files = {name: _digest(out, name) for name in out.names() if name != LEASE and not name.startswith(WORK)}
            manifest = {
                "format": FORMAT,
                "address": step.address,
                "label": step.label,
                "attempt": lease.attempt,
                "config": step.config,
                "needs": {path: need.address for path, need in step.needs.items()},
                "files": files,
                "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            }
            if home.create("manifest.json", json.dumps(manifest, indent=1).encode()):
                out.remove(WORK)
                out.remove(LEASE)
            else:
                out.remove()

    def point(self, recipe: str, refs: Mapping[str, str]) -> None:
        """Let people's names lead to addresses: {label: address} under one recipe."""
        when = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        for label, address in refs.items():
            self.place.write(f"refs/{slug(recipe)}/{slug(label)}.json", json.dumps({"address": address, "when": when}))

    def refs(self) -> dict[str, str]:
        """{recipe/label: address} of every name."""
        names = [name for name in self.place.names() if name.startswith("refs/") and name.endswith(".json")]
        return {name[len("refs/") : -len(".json")]: json.loads(self.place.read(name))["address"] for name in names}

    def find(self, name: str) -> str:
        """The address that a ref, an address, or an unambiguous beginning of a fingerprint leads to."""
        refs, addresses = self.refs(), self.addresses()
        if name in refs:
            return refs[name]
        fits = [a for a in addresses if a == name or a.split("/")[1].startswith(name)]
        if len(fits) == 1:
            return fits[0]
        if fits:
            raise StoreError(f"'{name}' could be {', '.join(fits[:4])}: write more of it")
        raise StoreError(f"there is no '{name}' in {self.url}{config.nearest(name, [*refs, *addresses])}")


def slug(name: str) -> str:
    """A name as one or more harmless path parts: letters, digits, '.', '_' and '-', at most 80 characters each."""
    parts = [re.sub(r"[^A-Za-z0-9._-]+", "-", part).strip(".-")[:80] for part in name.split("/")]
    return "/".join(part for part in parts if part) or "unnamed"


def _digest(place: Place, name: str) -> dict[str, Any]:
    digest, size = hashlib.sha256(), 0
    with place.open(name) as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
            size += len(chunk)
    return {"sha256": digest.hexdigest(), "bytes": size}
