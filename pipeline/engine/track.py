"""MLflow: one run a step, the same one across restarts; parameters flat, metrics only ever forward in time.

The driver is the only writer. A tracking server that is away stops nothing, not even where it is away from the
beginning: what could not be delivered is kept while the step runs, tried again, and said once.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import os
import random
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.flat import leaves
from pipeline.graph import Enough, Step
from pipeline.identity import dumps
from pipeline.lease import Lease
from pipeline.place import Place
from pipeline.store import Store, slug

log = logging.getLogger("kintsugi")
Listener = Callable[[Step, Mapping[str, float], int], None]
FLUSH_SECONDS = 2.0
AWAY_SECONDS = 30.0  # between attempts to reach a server that did not answer
PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
MOST = 1000  # metrics in one delivery, as MLflow allows
WARNINGS, LONGEST = "kintsugi.warnings", 5000  # a tag, and how long MLflow lets it be


def default_uri(store: Store) -> str:
    """`MLFLOW_TRACKING_URI` if set, else a sqlite file inside a local store.

    Raises:
        ValueError: the store is remote and no server is named, or a folder is named, which MLflow 3 refuses.
    """
    if uri := os.environ.get("MLFLOW_TRACKING_URI"):
        check_no_folder(uri)
        return uri
    if not store.place.is_local:
        raise ValueError(f"the store {store.url} is remote: name an MLflow server in MLFLOW_TRACKING_URI")
    return f"sqlite:///{store.place.root}/mlflow.db"


def check_no_folder(uri: str) -> None:
    """Raises: ValueError: MLflow would keep its runs in a folder there, which it refuses by now."""
    if uri.startswith(("file:", "/", ".")) and os.environ.get("MLFLOW_ALLOW_FILE_STORE", "").lower() != "true":
        raise ValueError(f"MLFLOW_TRACKING_URI is a folder ({uri}): name a server, or a database, sqlite:////PATH.db")


def patient() -> None:
    """To be called before MLflow is imported: it tries for minutes otherwise, and tells its makers."""
    for name, value in {"MLFLOW_DISABLE_TELEMETRY": "true", **PATIENCE}.items():
        os.environ.setdefault(name, value)


def without_password(text: str) -> str:
    """The text with user, password and query left out of every URL in it, fit for logs."""
    url = r"""(\w://)(?:[^/\s"']*@)?([^\s?"']*)(?:\?[^\s"',;)]*)?"""
    return re.sub(url, r"\1\2", text)


@dataclass(frozen=True)
class Subject:
    """What a run is of.

    Args:
        key: by which it is found again, a step's address for one.
        name: for people.
        tags: further ones.
        options: as JSON values, logged as parameters.
        parent: the run that it is nested in.
    """

    key: str
    name: str
    tags: Mapping[str, str] = field(default_factory=dict)
    options: Any = None
    parent: Run | None = None

    @classmethod
    def step(cls, step: Step) -> Subject:
        """A step."""
        return cls(step.address, step.label, {"kintsugi.fingerprint": step.fingerprint}, step.config)


class Tracking:
    """An MLflow experiment: `with tracking.run(step) as tracker` is that step's run."""

    def __init__(self, store: Store, experiment: str, listen: Listener = lambda step, values, at: None):
        patient()
        import mlflow

        for name in ("mlflow", "alembic"):  # after the import, which sets them to INFO
            logging.getLogger(name).setLevel(logging.WARNING)
        self.uri = default_uri(store)
        with _alone(store.place) if self.uri.startswith("sqlite:") else contextlib.nullcontext():
            self.client = mlflow.MlflowClient(tracking_uri=self.uri)
        self.listen = listen
        self._name = experiment
        self._artifacts = f"{store.url}/mlflow" if store.place.is_local else None
        self._lock = threading.Lock()
        self._silent = False
        self._open: list[Run] = []

    def __enter__(self) -> Tracking:
        return self

    def __exit__(self, *raised: object) -> None:
        """Runs still open belong to steps that were interrupted."""
        for run in list(self._open):
            run.close("KILLED")

    @contextlib.contextmanager
    def run(self, step: Step) -> Iterator[Run]:
        """The step's run, closed as what became of the step."""
        with self.of(Subject.step(step), lambda values, at: self.listen(step, values, at)) as run:
            yield run

    @contextlib.contextmanager
    def of(self, subject: Subject, listen: Callable[[Mapping[str, float], int], None] | None = None) -> Iterator[Run]:
        """The run of anything, the same one as the last time, closed as what became of it."""
        run = Run(self, subject, listen)
        self._open.append(run)
        try:
            yield run
        except BaseException as error:
            run.close("KILLED" if isinstance(error, KeyboardInterrupt | Enough) else "FAILED")
            raise
        else:
            run.close("FINISHED")
        finally:
            self._open.remove(run)

    def deliver(self, send: Callable[[], object]) -> bool:
        """Whether `send` got through. Losing a point on a chart must not cost a training run."""
        try:
            with self._lock:
                send()
        except Exception as error:
            if not self._silent:
                log.warning("MLflow: %s", without_password(f"{self.uri}: {error}"))
            self._silent = True
            return False
        return True

    def run_id(self, subject: Subject) -> str:
        """The subject's run, found or made. Called within `deliver`."""
        experiment = self._experiment
        known = self.client.search_runs([experiment], f"tags.`kintsugi.address` = '{subject.key}'", max_results=1)
        if known:
            self.client.update_run(known[0].info.run_id, status="RUNNING")
            if not known[0].data.params:  # an attempt that ended before it could log them
                self._parameters(known[0].info.run_id, subject.options)
            return known[0].info.run_id
        tags = {"kintsugi.address": subject.key, **subject.tags}
        if subject.parent is not None:
            tags["mlflow.parentRunId"] = subject.parent.known()
        made = self.client.create_run(experiment, run_name=subject.name, tags=tags)
        self._parameters(made.info.run_id, subject.options)
        return made.info.run_id

    @functools.cached_property
    def _experiment(self) -> str:
        found = self.client.get_experiment_by_name(self._name)
        return found.experiment_id if found else self.client.create_experiment(self._name, self._artifacts)

    def _parameters(self, run_id: str, options: Any) -> None:
        from mlflow.entities import Param

        flat = {} if options is None else leaves(options)
        params = [Param(_key(path), without_password(str(value))[:500]) for path, value in flat.items()]
        for i in range(0, len(params), 100):
            self.client.log_batch(run_id, params=params[i : i + 100])


class Run:
    """A `Tracker`, of one step as a rule: buffers what is to be logged, drops what an earlier attempt had logged."""

    def __init__(
        self, tracking: Tracking, subject: Subject, listen: Callable[[Mapping[str, float], int], None] | None = None
    ):
        self.tracking, self.subject, self.listen = tracking, subject, listen
        self._id = ""
        self._metrics: list[tuple[str, float, int, int]] = []
        self._files: list[tuple[str, bytes]] = []
        self._said: list[str] = []
        self._told: list[str] = []
        self._last: dict[str, int] = {}
        self._again = 0.0
        self._flush()

    def metrics(self, values: Mapping[str, float], at: int) -> None:
        """Log scalars at `at` images; a key never goes back to an earlier `at`."""
        if self.listen is not None:
            self.listen(values, at)
        now = int(time.time() * 1000)
        for key, value in values.items():
            if at > self._last.get(slug(key), -1):
                self._last[slug(key)] = at
                self._metrics.append((slug(key), float(value), now, at))
        if time.monotonic() > self._again:
            self._flush()

    def picture(self, name: str, png: bytes) -> None:
        """Log a PNG as an artifact."""
        self._files.append((name, png))

    def card(self, name: str, content: Mapping[str, Any]) -> None:
        """Log a JSON document as an artifact."""
        self._files.append((name, dumps(content).encode()))

    def warn(self, text: str) -> None:
        """Log a sentence, as a line of the tag `kintsugi.warnings`."""
        self._said.append(without_password(text))

    def close(self, status: str) -> None:
        """Deliver what is left and end the run."""
        if self._flush():
            self.tracking.deliver(lambda: self.tracking.client.set_terminated(self._id, status))

    def known(self) -> str:
        """Its id, found or made now. Called within `deliver`."""
        if not self._id:
            self._begin(self.tracking.run_id(self.subject))
        return self._id

    def _flush(self) -> bool:
        """Whether nothing is left to deliver."""
        came = self.tracking.deliver(self._send)
        self._again = time.monotonic() + (FLUSH_SECONDS if came else AWAY_SECONDS)
        return came

    def _send(self) -> None:
        from mlflow.entities import Metric

        client = self.tracking.client
        self.known()
        while batch := self._metrics[:MOST]:
            client.log_batch(self._id, metrics=[Metric(key, value, when, at) for key, value, when, at in batch])
            del self._metrics[: len(batch)]
        if self._said:
            count = len(self._said)
            client.set_tag(self._id, WARNINGS, "\n".join([*self._told, *self._said[:count]])[-LONGEST:])
            self._told += self._said[:count]
            del self._said[:count]
        while self._files:
            name, data = self._files[0]
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / Path(name).name
                path.write_bytes(data)
                client.log_artifact(self._id, str(path))
            del self._files[0]

    def _begin(self, run_id: str) -> None:
        """Take up a run where an earlier attempt left it."""
        data = self.tracking.client.get_run(run_id).data
        self._told = data.tags.get(WARNINGS, "").splitlines()
        for key in data.metrics:
            points = self.tracking.client.get_metric_history(run_id, key)
            seen = max((point.step for point in points), default=-1)
            self._metrics = [metric for metric in self._metrics if metric[0] != key or metric[3] > seen]
            self._last[key] = max(seen, self._last.get(key, -1))
        self._id = run_id


@contextlib.contextmanager
def _alone(place: Place) -> Iterator[None]:
    """One run of a store at a time: MLflow takes no lock while it makes a new database's tables, or renews old ones."""
    home = place / "mlflow-lease"
    while not (lease := Lease.claim(home)).ours:
        time.sleep(0.2 * random.uniform(0.5, 1.5))
    with lease:
        yield
        home.remove(lease.attempt)


def _key(path: str) -> str:
    """A dotted path as an MLflow key: harmless characters, at most 250, and different for different paths."""
    key = re.sub(r"[^A-Za-z0-9._-]", "-", path)
    if key == path and len(key) <= 250:
        return key
    return f"{key[:230]}-{hashlib.sha256(path.encode()).hexdigest()[:12]}"
