"""Checkpoints that are whole or not there: written aside, hashed, renamed into place; read only if every bit is right.

A checkpoint is a folder of state.safetensors (tensors), state.json (numbers) and manifest.json, which is written last
and holds the SHA-256 of the others.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from pipeline.learning.state import State

log = logging.getLogger("kintsugi")
REPLACED = ".replaced-"
TENSORS, NUMBERS, MANIFEST = "state.safetensors", "state.json", "manifest.json"


@dataclass(frozen=True)
class Checkpoints:
    """The newest `keep` checkpoints of one run, in a local folder that one process writes to."""

    folder: str | os.PathLike[str]
    keep: int = 2

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise ValueError(f"keep is {self.keep}: keep at least 1 checkpoint.")

    def save(self, state: State, extra: dict[str, Any] | None = None) -> Path:
        """Write the state (and JSON-able `extra`) under its images seen, drop the oldest, and return the folder.

        Raises ValueError if the folder holds a good checkpoint of later images: this run did not continue from it; and
        FloatingPointError if weights or averages are not finite.
        """
        return self.put(*moment(state, extra))

    def put(self, images: int, tensors: dict[str, Tensor], meta: dict[str, Any]) -> Path:
        """As `save`, of what is in the computer's memory and will not change."""
        place = Path(self.folder) / f"{images:012d}"
        for later in (old for old in self._all() if old.name > place.name):
            # One of fewer roll-backs is of steps that this run has gone back on since.
            if flaw(later) is None and _rollbacks(read(later)[1]) >= _rollbacks(meta):
                raise ValueError(f"{later} is further than this run ({images} images): restore it or move it.")
            shutil.rmtree(later)
        write(place, tensors, meta)
        for old in self._all()[self.keep :]:
            shutil.rmtree(old)
        return place

    def latest(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Tensors and numbers of the newest whole checkpoint (None: there is none); warns about each damaged one."""
        for place in self._all():
            problem = flaw(place)
            if problem is None:
                return read(place)
            log.warning("checkpoint %s is damaged (%s): trying the one before it.", place, problem)
        return None

    def restore(self, state: State) -> bool:
        """Load the newest whole checkpoint into `state`; False if there is none."""
        found = self.latest()
        if found is None:
            return False
        state.load(*found)
        return True

    def _all(self) -> list[Path]:
        folder = Path(self.folder)
        for aside in folder.glob(f"{REPLACED}*") if folder.is_dir() else ():  # a crash came between two renames
            place = folder / aside.name.removeprefix(REPLACED)
            with suppress(FileNotFoundError):  # another worker, which begins too, was faster
                shutil.rmtree(aside) if place.exists() else os.replace(aside, place)
        names = (p for p in folder.iterdir() if p.is_dir() and p.name.isdigit()) if folder.is_dir() else ()
        return sorted(names, key=lambda p: p.name, reverse=True)


def _rollbacks(meta: dict[str, Any]) -> int:
    return meta.get("rollbacks", 0)


def moment(state: State, extra: dict[str, Any] | None = None) -> tuple[int, dict[str, Tensor], dict[str, Any]]:
    """What `Checkpoints.put` takes, which will not change. Raises FloatingPointError: it is not finite."""
    if (name := state.unsound()) is not None:
        raise FloatingPointError(f"{name} is not finite: it is not saved, go on from the checkpoint before.")
    return state.images, copied(state.tensors()), state.meta() | {"extra": extra or {}}


def copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same in the computer's own memory, shared with nothing."""
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}


def write(place: str | os.PathLike[str], tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
    """Make `place` a checkpoint in one atomic rename; what a crash leaves behind is a hidden folder beside it."""
    place = Path(place)
    aside = place.with_name(f".writing-{place.name}")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    _save(tensors, aside / TENSORS)
    (aside / NUMBERS).write_bytes(_render(meta))
    hashes = {name: _sha256(aside / name) for name in (TENSORS, NUMBERS)}
    (aside / MANIFEST).write_bytes(_render(hashes))
    for name in (TENSORS, NUMBERS, MANIFEST, "."):
        _sync(aside / name)
    old = place.with_name(f"{REPLACED}{place.name}")
    shutil.rmtree(old, ignore_errors=True)
    if place.exists():  # a folder cannot be renamed over another; between the two renames the old one is found aside
        os.replace(place, old)
    os.replace(aside, place)
    shutil.rmtree(old, ignore_errors=True)
    _sync(place.parent)


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    """As `save_file`, but what the system refuses is an OSError: safetensors has an exception of its own for it."""
    save_file = _safetensors().save_file
    from safetensors import SafetensorError

    try:
        save_file(tensors, path)
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


def read(place: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors (on the CPU) and numbers of a checkpoint; raises ValueError if a bit of it has changed."""
    place = Path(place)
    problem = flaw(place)
    if problem is not None:
        raise ValueError(f"checkpoint {place} is damaged ({problem}): use an earlier one.")
    load_file = _safetensors().load_file
    from safetensors import SafetensorError

    try:
        tensors, meta = load_file(place / TENSORS), json.loads((place / NUMBERS).read_bytes())
        if not isinstance(meta, dict):
            raise ValueError(f"{NUMBERS} holds no numbers by name")
    except (SafetensorError, ValueError, RecursionError) as error:  # its hashes are right: somebody else wrote it
        raise ValueError(f"checkpoint {place} is none of ours ({error}): move it away.") from error
    return tensors, meta


def whole_run(state: State) -> dict[str, bytes]:
    """The files of everything that a run is, kept beside its result for a later run that goes on from it."""
    return {TENSORS: _safetensors().save(copied(state.tensors())), NUMBERS: _render(state.meta())}


def run_from(read: Callable[[str], bytes]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `State.load` takes, of the files of `whole_run`; `read` gives a file's bytes by name."""
    return _safetensors().load(read(TENSORS)), json.loads(read(NUMBERS))


def flaw(place: str | os.PathLike[str]) -> str | None:
    """What is wrong with a checkpoint, in a few words, or None."""
    place = Path(place)
    try:
        hashes = json.loads((place / MANIFEST).read_bytes())
        if not isinstance(hashes, dict) or set(hashes) != {TENSORS, NUMBERS}:
            return f"{MANIFEST} is not as written"
        return next((f"{name} has changed" for name, sha in hashes.items() if _sha256(place / name) != sha), None)
    except OSError as error:
        return f"{Path(error.filename or place).name} cannot be read"
    except (ValueError, RecursionError):
        return f"{MANIFEST} is not JSON"


def _render(value: Any) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True, allow_nan=False).encode()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError as error:
        raise ImportError("checkpoints need safetensors: pip install safetensors, or train without them.") from error
    return safetensors.torch
