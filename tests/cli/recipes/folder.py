"""folder: a folder of images, ingested."""

from __future__ import annotations

from pipeline.data.sources import source_of
from pipeline.graph import Step, step
from stages.ingest import Ingest, OnBad, snapshot


def folder(data: str = "digits", on_bad: OnBad = OnBad.FAIL, budget: float = 0.5, labels: bool = False) -> Step:
    """Ingest images of 8x8."""
    source = source_of(data)
    return step(Ingest(source, (1, 8, 8), labels=labels, on_bad=on_bad, budget=budget, snapshot=snapshot(source)))
