"""Artifacts made by hand: rows and models as stages find them, without a store or a cluster."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from pipeline import config
from pipeline.artifact import Artifact
from pipeline.data.manifest import Manifest, name
from pipeline.data.records import Examples
from pipeline.data.shards import write_shard
from pipeline.learning.weights import pack
from pipeline.physics.corruption import Corruption, corrupt
from pipeline.place import Place


def artifact(folder: Path, files: dict[str, bytes], made: dict[str, Any]) -> Artifact:
    """An artifact of these files, made from this configuration."""
    place = Place(str(folder))
    for file, content in files.items():
        place.write(f"a/{file}", content)
    listed = {
        file.relative_to(folder / "a").as_posix(): {
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            "bytes": file.stat().st_size,
        }
        for file in (folder / "a").rglob("*")
        if file.is_file()
    }
    return Artifact(
        place, {"address": f"made/{folder.name}", "attempt": "a", "config": made, "needs": {}, "files": listed}
    )


def rows(folder: Path, examples: Examples, made: dict[str, Any], more: dict[str, Any] | None = None) -> Artifact:
    """A set of one shard."""
    Manifest.of([len(examples)], examples.shape, str(examples.images.dtype), more).write(Place(str(folder / "a")))
    shard = io.BytesIO()
    write_shard(shard, examples)
    return artifact(folder, {name(0): shard.getvalue()}, made)


def seen(folder: Path, corruption: Corruption, x0: torch.Tensor, more: dict[str, Any] | None = None) -> Artifact:
    """Images x0 (N, *) as a `Corrupt` step leaves them."""
    ids = [f"image-{i}" for i in range(len(x0))]
    y, drawn = corrupt(corruption, x0, ids, 0)
    made = {"corruption": config.to_json(corruption, Corruption)}
    return rows(folder, Examples.from_x(ids, y, operator=drawn), made, more)


def model(folder: Path, network: torch.nn.Module) -> Artifact:
    """A trained network."""
    return artifact(folder, pack(network), {})


def context(**opened: Artifact) -> Any:
    """What a running stage is handed, where its needs are known by their labels."""
    return SimpleNamespace(open=lambda need: opened[need.label], out=None, scale=None, tracker=None)
