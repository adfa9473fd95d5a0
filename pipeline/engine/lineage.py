"""Where a step's result comes from, as MLflow shows it: tags with the addresses of its needs, sets that it read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from pipeline.artifact import StoreError
from pipeline.graph import Step
from pipeline.store import Store

DATASET = "dataset.json"
SHORT, LONGEST = 36, 5000  # characters of a dataset's digest and of a tag, as MLflow allows


def tags(step: Step, store: Store) -> dict[str, str]:
    """A step's fingerprint, the addresses of what it was made from by the field that names it, and a description."""
    needs = {f"kintsugi.needs.{path}"[:250]: need.address for path, need in step.needs.items()}
    lines = [f"`{step.address}` in `{store.url}`; `kintsugi show {step.fingerprint[:8]}` says what it was made with."]
    lines += [f"- {path}: {need.label} `{need.address}`" for path, need in step.needs.items()]
    return {
        "kintsugi.fingerprint": step.fingerprint,
        "kintsugi.stage": step.address.split("/")[0],
        "mlflow.note.content": "\n".join([lines[0], "", *lines[1:]])[:LONGEST],
        **needs,
    }


def inputs(step: Step, store: Store) -> list[dict[str, str]]:
    """The sets of rows that a step reads, as fields of `mlflow.entities.Dataset`, each with its `context`.

    A set's digest is its fingerprint, which covers every option and file that it was made from.
    """
    return [found for path, need in step.needs.items() for found in _sets(step, path, need, store)]


def _sets(step: Step, path: str, need: Step, store: Store) -> Iterator[dict[str, str]]:
    try:
        made = store.artifact(need.address)
        said: dict[str, Any] = made.json(DATASET) if DATASET in made.names() else {}
        facts = {key: said[key] for key in ("rows", "shape", "dtype") if key in said}
    except (StoreError, ValueError, TypeError):  # whoever reads the rows will say so
        return
    if not said:
        return
    shape = [-1, *facts.get("shape", ())]
    tensor = {"name": "image", "type": "tensor", "tensor-spec": {"dtype": facts.get("dtype"), "shape": shape}}
    yield {
        "context": "training" if hasattr(step.stage, "fit") else path.rpartition(".")[2],
        "name": need.label or path,
        "digest": need.address.split("/")[1][:SHORT],
        "source_type": "kintsugi",
        "source": json.dumps({"address": need.address, "path": path, "url": made.place.url}),
        "schema": json.dumps({"mlflow_tensorspec": {"features": json.dumps([tensor])}}),
        "profile": json.dumps(facts),
    }
