"""Average: a trained model with another average of its weights, chosen after training."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass

from pipeline.engine import cluster
from pipeline.graph import Context, Stage, Step
from pipeline.learning.averages import NEAR, average
from pipeline.learning.posthoc import Power
from pipeline.learning.weights import pack, unpack
from pipeline.store import Artifact

log = logging.getLogger("kintsugi")


@dataclass(frozen=True)
class Average(Stage):
    """The same denoiser with the average of width `sigma_rel` over its run, which was trained with `fit.posthoc`."""

    model: Step
    sigma_rel: float

    def __post_init__(self) -> None:
        Power(self.sigma_rel)

    def run(self, at: Context) -> None:
        files, off = cluster.call(at.scale, _made, self, at.open(self.model))
        for name, data in files.items():
            at.out.write(name, data)
        if off > NEAR:
            log.warning(
                "what was kept says little of width %g: the average's profile is off by %.0f%%; track a width nearer "
                "to it with fit.posthoc",
                *(self.sigma_rel, 100 * off),
            )
        card = {"sigma_rel": self.sigma_rel, "of": self.model.address, "profile_off_by": off}
        at.out.write("card.json", json.dumps(card))


def _made(stage: Average, model: Artifact) -> tuple[dict[str, bytes], float]:
    network = unpack(model.read)
    off = average(network, model.names(), model.read, Power(stage.sigma_rel))
    return pack(network), off
