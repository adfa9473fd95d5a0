"""A step's checkpoints: where its place is, if that is on this machine's file system, else copied there and back."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from pipeline.learning.checkpoint import Checkpoints
from pipeline.place import Place

CHECKPOINTS = "_work/checkpoints"


@contextmanager
def checkpoints(out: Place, keep: int, write: bool) -> Iterator[Checkpoints]:
    """The newest `keep` checkpoints of the step whose place is `out`; one process alone may `write`."""
    if out.is_local:
        yield Checkpoints(out.folder(CHECKPOINTS), keep)
        return
    far = out / CHECKPOINTS
    with tempfile.TemporaryDirectory() as folder:
        for name in far.names():
            path = Path(folder) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(far.read(name))
        yield _Mirrored(folder, keep, far=far if write else None)


@dataclass(frozen=True)
class _Mirrored(Checkpoints):
    """Local checkpoints of which every one saved is copied to `far`, its manifest last."""

    far: Place | None = None

    def put(self, images: int, tensors: dict[str, Tensor], meta: dict[str, Any]) -> Path:
        place = super().put(images, tensors, meta)
        if self.far is not None:
            for path in sorted(place.iterdir(), key=lambda p: p.name == "manifest.json"):
                self.far.write(f"{place.name}/{path.name}", path.read_bytes())
            kept = {p.name for p in Path(self.folder).iterdir()}
            for old in {name.split("/")[0] for name in self.far.names()} - kept:
                self.far.remove(old)
        return place
