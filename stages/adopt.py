"""Adopt: weights from elsewhere as a model of the store, which everything takes that takes a trained one."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from pipeline.diffusion.denoiser import Trained
from pipeline.graph import Context, Stage
from pipeline.learning.edm2 import as_edm2
from pipeline.learning.foreign import as_ours, load
from pipeline.learning.pretrained import as_diffusers
from pipeline.learning.weights import pack


class Names(Enum):
    """Whose names the tensors of a file have."""

    OURS = "ours"
    EDM2 = "edm2"
    DIFFUSERS = "diffusers"


PLANS = {Names.OURS: as_ours, Names.EDM2: as_edm2, Names.DIFFUSERS: as_diffusers}


@dataclass(frozen=True)
class Weights:
    """A safetensors file of this machine, known by its content: where it lies is no part of what is made of it."""

    path: str
    sha256: str

    @classmethod
    def of(cls, path: Path) -> Weights:
        """The file as it is now."""
        with open(path, "rb") as file:
            return cls(str(path.absolute()), hashlib.file_digest(file, "sha256").hexdigest())

    def __config__(self) -> dict[str, str]:
        return {"sha256": self.sha256}


@dataclass(frozen=True)
class Adopt(Stage):
    """A denoiser (`denoiser.json`, `weights.safetensors`) of `network`, with weights that were trained elsewhere.

    Args:
        weights: the file.
        network: what they are the weights of.
        names: whose names they have.
    """

    weights: Weights
    network: Trained
    names: Names = Names.OURS

    def run(self, at: Context) -> None:
        path = Path(self.weights.path)
        if Weights.of(path) != self.weights:
            raise ValueError(f"{path} has changed since it was looked at: run again")
        for name, data in pack(load(path, self.network, *PLANS[self.names](self.network))).items():
            at.out.write(name, data)
        at.out.write("card.json", json.dumps({"file": path.name, "sha256": self.weights.sha256}))
