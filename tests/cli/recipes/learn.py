"""learn: a small network on some of the digits, and another average of its weights."""

from __future__ import annotations

from pipeline.backbones import mlp
from pipeline.data.digits import Digits
from pipeline.graph import Scale, Step, step
from stages.average import Average
from stages.corrupt import Corrupt, Part
from stages.ingest import Ingest
from stages.train import Fit, Train


def learn(fit: Fit = Fit(images=640, batch=32), sigma_rel: float | None = None, scale: Scale = Scale()) -> Step:
    """Train on 64 digits.

    Args:
        fit: how.
        sigma_rel: of the average that is made afterwards (None: none is).
        scale: how fast.
    """
    data = step(Corrupt(step(Ingest(Digits(), (1, 8, 8)), "ingest"), Part(0, 64)), "data")
    model = step(Train(data, mlp.Config(width=32, blocks=1, dropout=0.0), fit), "learnt", scale)
    return model if sigma_rel is None else step(Average(model, sigma_rel), "averaged")
