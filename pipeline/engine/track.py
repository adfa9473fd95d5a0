"""MLflow: one run a step, the same one across restarts; parameters flat, metrics only ever forward in time.

The driver is the only writer. A tracking server that is away stops nothing: what could not be delivered is kept and
tried again, and said once.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from pipeline import config
from pipeline.graph import Step
from pipeline.identity import dumps
from pipeline.store import Store, slug

log = logging.getLogger("kintsugi")
Listener = Callable[[Step, Mapping[str, float], int], None]
FLUSH_SECONDS = 2.0


def default_uri(store: Store) -> str:
    """`MLFLOW_TRACKING_URI` if set, else a sqlite file inside a local store.

    Raises:
        ValueError: the store is remote and no server is named.
    """
    if uri := os.environ.get("MLFLOW_TRACKING_URI"):
        return uri
    if not store.place.is_local:
        raise ValueError(f"the store {store.url} is remote: name an MLflow server in MLFLOW_TRACKING_URI")
    return f"sqlite:///{store.place.root}/mlflow.db"


def without_password(url: str) -> str:
    """The URL with any user and password left out, fit for logs."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


class Tracking:
    """An MLflow experiment: `with tracking(step) as tracker` is that step's run."""

    def __init__(self, store: Store, experiment: str, listen: Listener = lambda step, values, at: None):
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        import mlflow

        self.uri = default_uri(store)
        self.client = mlflow.MlflowClient(tracking_uri=self.uri)
        self.listen = listen
        self._lock = threading.Lock()
        artifacts = f"{store.url}/mlflow" if store.place.is_local else None
        found = self.client.get_experiment_by_name(experiment)
        self.experiment = found.experiment_id if found else self.client.create_experiment(experiment, artifacts)

    @contextlib.contextmanager
    def __call__(self, step: Step) -> Iterator[Run]:
        run = Run(self, step, self._run_id(step))
        try:
            yield run
        except BaseException:
            run.close("FAILED")
            raise
        run.close("FINISHED")

    def _run_id(self, step: Step) -> str:
        with self._lock:
            here = f"tags.`kintsugi.address` = '{step.address}'"
            known = self.client.search_runs([self.experiment], here, max_results=1)
            if known:
                self.client.update_run(known[0].info.run_id, status="RUNNING")
                return known[0].info.run_id
            tags = {"kintsugi.address": step.address, "kintsugi.fingerprint": step.fingerprint}
            made = self.client.create_run(self.experiment, run_name=step.label, tags=tags)
            self._parameters(made.info.run_id, step)
            return made.info.run_id

    def _parameters(self, run_id: str, step: Step) -> None:
        from mlflow.entities import Param

        flat = config.leaves(step.config)
        params = [
            Param(slug(path.replace(".", "/")).replace("/", "."), str(value)[:500]) for path, value in flat.items()
        ]
        for i in range(0, len(params), 100):
            self.client.log_batch(run_id, params=params[i : i + 100])


class Run:
    """One step's `Tracker`: buffers scalars, drops what an earlier attempt already logged."""

    def __init__(self, tracking: Tracking, step: Step, run_id: str):
        self.tracking, self.step, self.run_id = tracking, step, run_id
        self._pending: list[tuple[str, float, int, int]] = []
        self._flushed = time.monotonic()
        self._silent = False
        seen = tracking.client.get_run(run_id).data.metrics
        history = (tracking.client.get_metric_history(run_id, key) for key in seen)
        self._last = {points[-1].key: max(point.step for point in points) for points in history if points}

    def metrics(self, values: Mapping[str, float], at: int) -> None:
        """Log scalars at `at` images; a key never goes back to an earlier `at`."""
        self.tracking.listen(self.step, values, at)
        now = int(time.time() * 1000)
        for key, value in values.items():
            if at > self._last.get(key, -1):
                self._last[key] = at
                self._pending.append((slug(key), float(value), now, at))
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self._flush()

    def picture(self, name: str, png: bytes) -> None:
        """Log a PNG as an artifact."""
        self._file(name, png)

    def card(self, name: str, content: Mapping[str, Any]) -> None:
        """Log a JSON document as an artifact."""
        self._file(name, dumps(content).encode())

    def close(self, status: str) -> None:
        """Deliver what is left and end the run."""
        self._flush()
        self._deliver(lambda: self.tracking.client.set_terminated(self.run_id, status))

    def _file(self, name: str, data: bytes) -> None:
        def send() -> None:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / Path(name).name
                path.write_bytes(data)
                self.tracking.client.log_artifact(self.run_id, str(path))

        self._deliver(send)

    def _flush(self) -> None:
        from mlflow.entities import Metric

        self._flushed = time.monotonic()
        batch = self._pending[:1000]
        metrics = [Metric(key, value, when, at) for key, value, when, at in batch]
        if metrics and self._deliver(lambda: self.tracking.client.log_batch(self.run_id, metrics=metrics)):
            self._pending = self._pending[len(batch) :]

    def _deliver(self, send: Callable[[], object]) -> bool:
        """Whether `send` got through. Losing a point on a chart must not cost a training run."""
        try:
            with self.tracking._lock:
                send()
        except Exception as error:
            if not self._silent:
                log.warning("MLflow at %s: %s", without_password(self.tracking.uri), error)
            self._silent = True
            return False
        return True
