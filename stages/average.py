"""Average: a trained model with another average of its weights, chosen after training."""

from __future__ import annotations

import json
from dataclasses import dataclass

from pipeline.engine import cluster
from pipeline.graph import Context, Stage, Step
from pipeline.learning.averages import average
from pipeline.learning.posthoc import Power
from pipeline.learning.weights import pack, unpack
from pipeline.store import Artifact


@dataclass(frozen=True)
class Average(Stage):
    """The same denoiser with the average of width `sigma_rel` over its run, which was trained with `fit.posthoc`."""

    model: Step
    sigma_rel: float

    def __post_init__(self) -> None:
        Power(self.sigma_rel)

    def run(self, at: Context) -> None:
        for name, data in cluster.call(at.scale, _made, self, at.open(self.model)).items():
            at.out.write(name, data)
        at.out.write("card.json", json.dumps({"sigma_rel": self.sigma_rel, "of": self.model.address}))


def _made(stage: Average, model: Artifact) -> dict[str, bytes]:
    network = unpack(model.read)
    average(network, model.names(), model.read, Power(stage.sigma_rel))
    return pack(network)
