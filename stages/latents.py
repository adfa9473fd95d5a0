"""Encode and Decode: rows of images as rows of latents, and back, under their ids."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from pipeline.data.damaged import EMBEDDING, NOISY
from pipeline.data.hiding import check_whole
from pipeline.data.manifest import Manifest, name
from pipeline.data.records import Examples
from pipeline.data.shards import read_shard
from pipeline.diffusion.latents import Autoencoder, in_pieces
from pipeline.engine.shards import Report, map_shards
from pipeline.graph import Context, Stage, Step
from pipeline.learning.weights import unpack
from pipeline.store import Artifact
from stages.networks import described


@dataclass(frozen=True)
class _Coded(Stage):
    """Every row of `data` through an autoencoder, `batch` at a time."""

    autoencoder: Step
    data: Step
    batch: int = 32

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ValueError(f"batch is {self.batch}: give at least 1")


@dataclass(frozen=True)
class Encode(_Coded):
    """For every image of `data` its latent, in half precision: the mean of the posterior, always the same.

    Args:
        autoencoder: what encodes.
        data: images without noise: that of latents is another.
        batch: rows at a time.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one latent."""
        return tuple(self.autoencoder.stage.network.latent)  # pyright: ignore[reportAttributeAccessIssue]

    def run(self, at: Context) -> None:
        data, coder = at.open(self.data), at.open(self.autoencoder)
        told, sides = Manifest.open(data.file), _sides(coder)
        check_whole(told, data)
        if {"damage", NOISY} & told.more.keys():
            raise ValueError(f"{data.address} holds noise, which would not be white in latents: encode images without")
        _fit(data, tuple(told.shape), tuple(sides.shape))
        counts = map_shards(partial(_encode, self, data), told.filled().tolist(), at, load=partial(coder_of, coder))
        Manifest.of(counts, sides.latent, "float16").write(at.out)


@dataclass(frozen=True)
class Decode(_Coded):
    """For every latent of `data` its image, in 8 bits, whatever noise it holds.

    Args:
        autoencoder: what decodes.
        data: latents.
        batch: rows at a time.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one image."""
        return tuple(self.autoencoder.stage.network.shape)  # pyright: ignore[reportAttributeAccessIssue]

    def run(self, at: Context) -> None:
        data, coder = at.open(self.data), at.open(self.autoencoder)
        told, sides = Manifest.open(data.file), _sides(coder)
        _fit(data, tuple(told.shape), tuple(sides.latent))
        counts = map_shards(partial(_decode, self, data), told.filled().tolist(), at, load=partial(coder_of, coder))
        Manifest.of(counts, sides.shape, "uint8").write(at.out)


def coder_of(coder: Artifact) -> Autoencoder:
    """An autoencoder where rows go through it. Raises ValueError: the artifact is none."""
    return unpack(coder.read, "cuda" if torch.cuda.is_available() else "cpu", Autoencoder)


def _sides(coder: Artifact) -> Autoencoder.Config:
    found = described(coder)
    if not isinstance(found, Autoencoder.Config):
        raise ValueError(f"{coder.address} is no autoencoder: name one")
    return found


def _fit(data: Artifact, found: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    if found != wanted:
        raise ValueError(f"the rows of {data.address} are {found} and the autoencoder takes {wanted}: name others")


def _encode(stage: Encode, data: Artifact, piece: int, loaded: Callable[[], Autoencoder]) -> tuple[Examples, Report]:
    coder, rows = loaded(), read_shard(data.file(name(piece)), name(piece))
    z = in_pieces(coder.encode, rows.x().to(coder.device), stage.batch)
    kept = {key: rows.operator[key] for key in (EMBEDDING,) if key in rows.operator}
    return Examples.from_x(rows.ids, z, rows.label, kept, caption=rows.caption), {}


def _decode(stage: Decode, data: Artifact, piece: int, loaded: Callable[[], Autoencoder]) -> tuple[Examples, Report]:
    coder, rows = loaded(), read_shard(data.file(name(piece)), name(piece))
    x = in_pieces(coder.decode, rows.x().to(coder.device), stage.batch)
    return Examples.from_x(rows.ids, x, rows.label, uint8=True, caption=rows.caption), {}
