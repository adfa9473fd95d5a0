"""Models in MLflow: a folder of code and safetensors, without a pickle, that draws images; its versions and aliases."""

from __future__ import annotations

import importlib.metadata
import logging
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.engine.scribe import ADDRESS, KIND, MADE
from pipeline.engine.track import connected, patient
from pipeline.learning.weights import DESCRIPTION, WEIGHTS
from pipeline.store import Store, slug

NEEDS = ("mlflow", "torch", "numpy", "pandas", "safetensors", "pydantic", "fsspec", "typing-extensions")
SHAPE, OURS = "kintsugi.shape", "kintsugi"
LONGEST = 200  # characters of a name; MLflow's own limit is that of its database
CODE = "served.py"
UNKNOWN = "RESOURCE_DOES_NOT_EXIST"


@dataclass(frozen=True)
class Drawing:
    """A model that draws images.

    Args:
        address: its artifact's.
        files: `denoiser.json` and `weights.safetensors`.
        shape: (C, *) of an image.
        told: "label" or "caption" where it may be told what to show, else "".
        always: whether it must be.
        packages: which it needs beside those that every model does.
        least: the σ below which it knows nothing, where samples end.
    """

    address: str
    files: Mapping[str, bytes]
    shape: tuple[int, ...]
    told: str = ""
    always: bool = False
    packages: Sequence[str] = ()
    least: float = 0.0

    def save(self, folder: Path, model_id: str | None = None) -> None:
        """Write what `mlflow.pyfunc.load_model` reads: rows (n, seed, steps) in, images out, uint8 (n, *shape).

        The folder holds the code that it runs: load only what you trust.
        """
        patient()
        import mlflow.pyfunc
        import numpy as np
        from mlflow.models import Model, ModelSignature
        from mlflow.types import ColSpec, Schema, TensorSpec

        rows: list[Any] = [
            ColSpec("long", "n"),
            ColSpec("long", "seed", required=False),
            ColSpec("long", "steps", required=False),
        ]
        if self.told:
            rows.append(ColSpec("long" if self.told == "label" else "string", self.told, required=self.always))
        images = Schema([TensorSpec(np.dtype("uint8"), (-1, *self.shape))])
        needs = [f"{name}=={importlib.metadata.version(name).split('+')[0]}" for name in (*NEEDS, *self.packages)]
        with tempfile.TemporaryDirectory() as beside:
            for name, data in self.files.items():
                (Path(beside) / name).write_bytes(data)
            package, code = Path(__file__).parent.parent, Path(beside) / "pipeline"
            # Ray and MLflow's own rooms have no part in drawing.
            shutil.copy(package / "engine" / CODE, beside)  # a model says where its code was
            shutil.copytree(package, code, ignore=shutil.ignore_patterns("__pycache__", "engine"))
            with _quiet():
                mlflow.pyfunc.save_model(
                    folder,
                    python_model=str(Path(beside) / CODE),
                    artifacts={name: str(Path(beside) / name) for name in (DESCRIPTION, WEIGHTS)},
                    code_paths=[str(code)],
                    signature=ModelSignature(Schema(rows), images),
                    pip_requirements=needs,
                    mlflow_model=Model(model_id=model_id),
                    model_config={"least": self.least},
                    metadata={ADDRESS: self.address, SHAPE: str(list(self.shape))},
                )


@dataclass(frozen=True)
class Version:
    """A model's place in the registry, and whether it was put there now."""

    name: str
    number: str
    fresh: bool


def register(store: Store, model: Drawing, name: str, alias: str | None, move: bool = False) -> Version:
    """Make a model the next version of a name, or find the version that it is, and give it an alias.

    Args:
        store: the model's, which may say where MLflow is.
        model: the model.
        name: of the registry.
        alias: an alias for the version; None: none.
        move: whether the alias may be taken from another version.

    Raises:
        ValueError: the name or the alias cannot be used, or belongs to something else.
    """
    check_names(name, alias)
    client = connected(store)
    known = _registered(client, name)
    shape = str(list(model.shape))
    if known is not None and known.tags.get(SHAPE, shape) != shape:
        raise ValueError(
            f"the name {name} is another model's, of images {known.tags[SHAPE]}, and this one's are {shape}: take "
            "another name"
        )
    versions = {} if known is None else {found.version: found.tags.get(ADDRESS) for found in _versions(client, name)}
    number = next((str(v) for v, address in versions.items() if address == model.address), None)
    holder = None if known is None or alias is None else known.aliases.get(alias)
    if holder is not None and str(holder) != number and not move:
        whose = versions.get(holder) or versions.get(str(holder)) or "another model"
        raise ValueError(
            f"--alias {alias} is version {holder}'s of {name} ({whose}): add --move to take it, or name another"
        )
    fresh = number is None
    if number is None:
        if known is None:
            client.create_registered_model(name, {OURS: "true", SHAPE: shape}, f"Draws images {shape}.")
        number = _added(client, model, name)
    if alias is not None:
        client.set_registered_model_alias(name, alias, number)
    return Version(name, number, fresh)


def check_names(name: str, alias: str | None) -> None:
    """Raises: ValueError: MLflow would not have these."""
    if not name.strip() or any(sign in name for sign in "/:\\") or not name.isprintable() or set(name) <= {"."}:
        raise ValueError(
            f"the name {name!r} cannot be a registry's: give letters, digits, '-', '_' and '.', without '/' or ':'"
        )
    if len(name) > LONGEST:
        raise ValueError(f"the name has {len(name)} characters: give {LONGEST} at most")
    if alias is None:
        return
    if not re.fullmatch(r"[\w-]{1,200}", alias, re.ASCII) or re.fullmatch(r"[vV]\d+|latest", alias, re.IGNORECASE):
        raise ValueError(
            f"--alias {alias!r} cannot be one: give letters, digits, '-' and '_', not 'latest' and not 'v1'"
        )


def check_owner(store: Store, name: str) -> None:
    """Raises: ValueError: the name is that of a model that something else made."""
    _registered(connected(store), name)


def _registered(client: Any, name: str) -> Any:
    from mlflow.exceptions import MlflowException

    try:
        known = client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != UNKNOWN:
            raise
        return None
    if OURS not in known.tags:
        raise ValueError(f"{name} is a model in the registry that kintsugi did not make: take another name")
    return known


def _versions(client: Any, name: str) -> Iterator[Any]:
    quoted, token = name.replace("'", "''"), None
    while True:
        page = client.search_model_versions(f"name = '{quoted}'", page_token=token)
        yield from page
        if not (token := page.token):
            return


def _added(client: Any, model: Drawing, name: str) -> str:
    """A new version, that of the run that made the model, where there is one."""
    from mlflow.entities import LoggedModelOutput
    from mlflow.tracking._tracking_service.utils import _use_tracking_uri

    run = _run(client, model.address)
    experiment = run.info.experiment_id if run is not None else _by_hand(client)
    run_id = None if run is None else run.info.run_id
    tags = {ADDRESS: model.address}
    logged = client.create_logged_model(experiment, slug(name).replace("/", "-"), run_id, tags, {}, "denoiser")
    try:
        with tempfile.TemporaryDirectory() as beside:
            folder = Path(beside) / "model"
            model.save(folder, logged.model_id)
            client.log_model_artifacts(logged.model_id, str(folder))
    except BaseException:
        client.finalize_logged_model(logged.model_id, "FAILED")
        raise
    client.finalize_logged_model(logged.model_id, "READY")
    if run_id is not None:
        client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, 0)])
    source, told = f"models:/{logged.model_id}", f"`{model.address}`; `kintsugi show` says what it was made with."
    with _quiet(), _use_tracking_uri(client.tracking_uri):  # a database looks for the model wherever MLflow points to
        made = client.create_model_version(
            name, source, run_id, {**tags, SHAPE: str(list(model.shape))}, description=told, model_id=logged.model_id
        )
    return str(made.version)


def _run(client: Any, address: str) -> Any:
    """The run in which the artifact was made: that of its step, or that of a trial."""
    experiments = [found.experiment_id for found in client.search_experiments()]
    asked = (f"tags.`{tag}` = '{address}'" for tag in (ADDRESS, MADE))
    return next((run for text in asked for run in client.search_runs(experiments, text, max_results=1)), None)


def _by_hand(client: Any) -> str:
    found = client.get_experiment_by_name("by hand")
    return found.experiment_id if found else client.create_experiment("by hand", tags=KIND)


@contextmanager
def _quiet() -> Iterator[None]:
    """MLflow tells what it does on standard error, and warns of what is meant so."""
    logger = logging.getLogger("mlflow")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
