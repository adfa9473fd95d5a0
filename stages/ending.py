"""Ending: the σ below which a model knows nothing, as its training said, and samplers that go no further down."""

from __future__ import annotations

from dataclasses import replace

from pipeline.diffusion.sample import Sampler
from pipeline.store import Artifact, Store

LEAST = "least"  # in the `metrics.json` of a training: the lowest σ at which any of its rows could teach


def trained(model: Artifact, store: Store) -> Artifact:
    """The training behind another average of a model."""
    while model.address.startswith("average/"):
        model = store.artifact(model.manifest["needs"]["model"])
    return model


def least_of(model: Artifact, store: Store) -> float:
    """The σ below which a model learned nothing; 0 where its training says nothing of it.

    How noisy rows are is known before they are made only where all are alike: else the training alone knows.
    """
    made = trained(model, store)
    return float(made.json("metrics.json").get(LEAST, 0.0)) if "metrics.json" in made.names() else 0.0


def ending(sampler: Sampler, least: float) -> Sampler:
    """The same, no further down than to a σ. Raises ValueError: it does not even begin above it."""
    if least >= sampler.sigma_max:
        raise ValueError(
            f"nothing is learned below σ = {least:.3g} and sampling begins at sampler.sigma_max = "
            f"{sampler.sigma_max:g}: give images with less noise"
        )
    return replace(sampler, sigma_min=max(least, sampler.sigma_min))
