"""Objects addressed by what made them, names for people, the manifest written last; on any fsspec URL.

    objects/<stage>/<fingerprint>/manifest.json          the artifact exists when, and only when, this does
    objects/<stage>/<fingerprint>/<attempt>/...          its files; the manifest says which attempt won
    refs/<recipe>/<label>.json                           which address a person last called by that name

Object stores cannot rename, so an attempt is never moved: the manifest, created exclusively and once, names it and
holds every file's SHA-256. An attempt whose writer died is taken over by the next one, which finds the
finished pieces of its work in it; two living writers have two attempts, and the first manifest wins. `claim` lets a
run ask first, so that it need not do what another is doing.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import config
from .artifact import FORMAT, Artifact, Damaged, StoreError, how_to_mend, read_manifest, sealed
from .lease import LEASE, MANIFEST, WORK, Lease
from .place import Place, secret_in
from .shown import table

if TYPE_CHECKING:
    from .graph import Step


class Store:
    """Artifacts by fingerprint under one URL.

    Args:
        url: a folder on any fsspec file system: `runs`, `s3://bucket/runs`, `memory://x`.
    """

    def __init__(self, url: str):
        if kept := secret_in(url):
            raise StoreError(f"the store's URL has {kept} in it, which results keep: give it in the environment")
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
        """The manifest at an address, None while there is none. Raises: StoreError: it is damaged, or too new."""
        return read_manifest(self.place, address)

    def has(self, step: Step) -> bool:
        """Whether the step is done.

        Raises:
            StoreError: its address is taken by something made from another configuration.
        """
        manifest = self.manifest(step.address)
        if manifest is None:
            return False
        for path, old, new in _conflicts(manifest["config"], step.config):
            raise StoreError(
                f"same address, other recipe: {step.address} was made with {path} = {old!r}, not {new!r}; "
                f"bump `version` in {type(step.stage).__name__} if you changed it, else delete "
                f"{self.place.at(f'objects/{step.address}')} and run again"
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

    def claim(self, step: Step) -> Lease | None:
        """The right to make a step; or, not `ours`, the lease of the run that is making it; None where it is made."""
        if self.has(step):
            return None
        lease = Lease.claim(self.place / f"objects/{step.address}")
        if lease.ours and self.has(step):  # by a run that ended since
            lease.release()
            return None
        return lease

    @contextlib.contextmanager
    def writing(self, step: Step, lease: Lease | None = None) -> Iterator[Place]:
        """A place to write the step's files to; on leaving without an exception they become its artifact.

        Names under `_work/` are for resuming: the next attempt after a crash finds them, the artifact has them not.
        `lease` is what `claim` gave, kept alive by the caller; without one this is an attempt beside any others.
        """
        home, start = self.place / f"objects/{step.address}", time.monotonic()
        with contextlib.nullcontext(lease) if lease else Lease.take(home) as lease:
            out = home / lease.attempt
            yield out
            made = [name for name in out.names() if name != LEASE and not name.startswith(f"{WORK}/")]
            files = {name: _digest(out, name) for name in made}
            if not lease.holds():
                raise StoreError(f"{out.url} was taken over by another writer: run again to see what it made")
            manifest = {
                "format": FORMAT,
                "address": step.address,
                "label": step.label,
                "attempt": lease.attempt,
                "config": step.config,
                "needs": {path: need.address for path, need in step.needs.items()},
                "files": files,
                "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                # Of the attempt that ended: what one that was killed had done before is not among them.
                "seconds": round(time.monotonic() - start, 2),
            }
            if home.create(MANIFEST, sealed(manifest)):
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
        """{recipe/label: address} of every name. Raises: Damaged: one leads nowhere."""
        return {name.removesuffix(".json"): self._address(name) for name in self._names()}

    def _repr_html_(self) -> str:
        """In a notebook: every name, and where it leads."""
        return table(["name", "address"], sorted(self.refs().items()), f"{len(self.addresses())} artifacts")

    def _names(self) -> list[str]:
        return [name for name in (self.place / "refs").names() if name.endswith(".json")]

    def _address(self, name: str) -> str:
        place = self.place / "refs"
        try:
            address = json.loads(place.read(name))["address"]
            if not re.fullmatch(r"\w+/\w+", address):
                raise ValueError(f"{address} is no address")
        except (ValueError, TypeError, KeyError) as error:
            raise Damaged(f"{place.at(name)} is damaged: {how_to_mend(self.url)}") from error
        return address

    def garbage(self, damaged: bool = False) -> list[str]:
        """Folders that may go: artifacts to which no ref leads, and attempts whose writer died.

        Args:
            damaged: also artifacts whose manifest is none, or of which a file is missing or does not match its SHA-256.
                Names that lead nowhere are found alone: what is without one may be what they stood for.

        Raises:
            Damaged: a name leads nowhere, or to a damaged manifest, so that nobody knows what it needs.
        """
        if damaged and (lost := [name for name in self._names() if not self._leads(name)]):
            return sorted(f"refs/{name}" for name in lost)
        wanted, frontier = set[str](), [*self.refs().values()]
        while frontier:
            address = frontier.pop()
            if address not in wanted:
                wanted.add(address)
                try:
                    manifest = self.manifest(address)
                except Damaged:
                    if not damaged:
                        raise
                    manifest = None
                frontier += manifest["needs"].values() if manifest else []
        found = []
        for address in {name.split("/", 1)[1].rsplit("/", 2)[0] for name in self._attempts()} | set(self.addresses()):
            home = f"objects/{address}"
            try:
                manifest = self.manifest(address)
            except Damaged:
                found.append(home)
                continue
            if manifest and (address not in wanted or (damaged and not self._whole(manifest))):
                found.append(home)
                continue
            kept = manifest["attempt"] if manifest else None
            attempts = {n.split("/")[3] for n in self._attempts() if n.startswith(f"{home}/")} - {kept}
            if kept and self.place.exists(f"{home}/{kept}/{WORK}") and not Lease(self.place / home, kept).alive():
                found.append(f"{home}/{kept}/{WORK}")
            found += [f"{home}/{a}" for a in attempts if not Lease(self.place / home, a).alive()]
        return sorted(found)

    def _leads(self, name: str) -> bool:
        try:
            return bool(self._address(name))
        except Damaged:
            return False

    def _attempts(self) -> list[str]:
        return [name for name in self.place.names() if re.fullmatch(rf"objects/[^/]+/[^/]+/[^/]+/{LEASE}", name)]

    def _whole(self, manifest: dict[str, Any]) -> bool:
        place = self.place / f"objects/{manifest['address']}/{manifest['attempt']}"
        try:
            return all(_digest(place, name) == known for name, known in manifest["files"].items())
        except FileNotFoundError:
            return False

    def find(self, name: str) -> str:
        """The address that a ref, an address, or an unambiguous beginning of a fingerprint leads to."""
        refs, addresses = self.refs(), self.addresses()
        if (ref := slug(name)) in refs:
            return refs[ref]
        fits = [a for a in addresses if a == name or a.split("/")[1].startswith(name)]
        if len(fits) == 1:
            return fits[0]
        if fits:
            raise StoreError(f"'{name}' could be {', '.join(fits[:4])}: write more of it")
        raise StoreError(f"there is no '{name}' in {self.url}{config.nearest(name, [*refs, *addresses])}")


def slug(name: str) -> str:
    """A name as one or more harmless path parts: letters, digits, '.', '_' and '-', 80 characters each, 8 deep."""
    parts = [re.sub(r"[^A-Za-z0-9._-]+", "-", part).strip(".-")[:80].rstrip(".-") for part in name.split("/")[:8]]
    return "/".join(part for part in parts if part) or "unnamed"


def _conflicts(old: Any, new: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(path, old, new) wherever what two trees share differs; a field that only one of them has is no conflict."""
    if isinstance(old, dict) and isinstance(new, dict):
        pairs = [(key, old[key], new[key]) for key in old if key in new]
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = [(str(i), old[i], new[i]) for i in range(len(old))]
    else:
        if old != new:
            yield path, old, new
        return
    for name, before, after in pairs:
        yield from _conflicts(before, after, f"{path}.{name}" if path else name)


def _digest(place: Place, name: str) -> dict[str, Any]:
    digest, size = hashlib.sha256(), 0
    with place.open(name) as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
            size += len(chunk)
    return {"sha256": digest.hexdigest(), "bytes": size}
