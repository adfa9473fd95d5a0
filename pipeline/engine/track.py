"""MLflow: one run a step, the same one across restarts; parameters flat, metrics only ever forward in time.

The driver is the only writer, and never waits for the server: it writes letters (spool.py), which a thread delivers
(courier.py, scribe.py). A server that is away stops nothing, not even where it is away from the beginning.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import getpass
import hashlib
import logging
import os
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from pipeline.engine import lineage
from pipeline.engine.courier import CLOSE_SECONDS, Courier
from pipeline.engine.scribe import Scribe
from pipeline.engine.spool import FOLDER, Letter, Spool
from pipeline.flat import leaves
from pipeline.graph import Enough, Step
from pipeline.identity import dumps
from pipeline.lease import Lease
from pipeline.place import Place
from pipeline.store import Store, slug

log = logging.getLogger("kintsugi")
Listener = Callable[[Step, Mapping[str, float], int], None]
# It prints addresses on standard output otherwise, passwords and all.
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
SCHEMES = {"http", "https", "databricks", "databricks-uc", "uc"}
DATABASES = {"sqlite", "postgresql", "mysql", "mssql"}


def default_uri(store: Store) -> str:
    """`MLFLOW_TRACKING_URI` if set, else a sqlite file inside a local store.

    Raises:
        ValueError: the store is remote and no server is named, or what is named is none, as a folder, which MLflow 3
            refuses.
    """
    if uri := os.environ.get("MLFLOW_TRACKING_URI"):
        check_uri(uri)
        return uri
    if not store.place.is_local:
        raise ValueError(f"the store {store.url} is remote: name an MLflow server in MLFLOW_TRACKING_URI")
    return f"sqlite:///{store.place.root}/mlflow.db"


def check_uri(uri: str) -> None:
    """Raises: ValueError: this is no server and no database; MLflow refuses folders by now."""
    shown, how = without_password(uri), "name a server, http://HOST:PORT, or a database, sqlite:////PATH.db"
    if uri.startswith(("file:", "/", ".", "~")):
        if os.environ.get("MLFLOW_ALLOW_FILE_STORE", "").lower() != "true":
            raise ValueError(f"MLFLOW_TRACKING_URI is a folder ({shown}): {how}")
        return
    scheme, separator, rest = uri.partition(":")
    kind = scheme.split("+")[0]
    if kind not in SCHEMES | DATABASES or not (separator or kind in SCHEMES - {"http", "https"}):
        raise ValueError(f"MLFLOW_TRACKING_URI is {shown}, which MLflow does not know: {how}")
    if kind in ("http", "https"):
        try:
            found = urlsplit(uri)
            whole = bool(found.hostname) and found.port != 0
        except ValueError:
            whole = False
        if not whole:
            raise ValueError(f"MLFLOW_TRACKING_URI is {shown}, which has no host, or no port: {how}")
    elif not rest.startswith("//"):
        raise ValueError(f"MLFLOW_TRACKING_URI is {shown}, which names no database: {how}")


def patient() -> None:
    """To be called before MLflow is imported: it tries for minutes otherwise, tells its makers, and draws bars."""
    for name, value in {**QUIET, **PATIENCE}.items():
        os.environ.setdefault(name, value)


def connected(store: Store) -> Any:
    """MLflow's client, of where `default_uri` says; a new database has its tables then."""
    patient()
    import mlflow

    for name in ("mlflow", "alembic"):  # after the import, which sets them to INFO
        logging.getLogger(name).setLevel(logging.WARNING)
    uri = default_uri(store)
    with _alone(store.place) if uri.startswith("sqlite:") else contextlib.nullcontext():
        return mlflow.MlflowClient(tracking_uri=uri)


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
        inputs: the sets it learns from, as fields of `mlflow.entities.Dataset`.
    """

    key: str
    name: str
    tags: Mapping[str, str] = field(default_factory=dict)
    options: Any = None
    parent: Run | None = None
    inputs: Sequence[Mapping[str, str]] = ()

    @classmethod
    def step(cls, step: Step, store: Store) -> Subject:
        """A step."""
        return cls(step.address, step.label, lineage.tags(step, store), step.config, None, lineage.inputs(step, store))


class Tracking:
    """An MLflow experiment: `with tracking.run(step) as tracker` is that step's run.

    To be used as a context: what MLflow was not told when it ends stays in the store, for the next.

    Args:
        store: where the steps' artifacts are.
        experiment: the name of MLflow's.
        listen: called with each step's metrics.
        patience: seconds for what is left at the end; None: as long as the server answers.
    """

    def __init__(
        self,
        store: Store,
        experiment: str,
        listen: Listener = lambda step, values, at: None,
        patience: float | None = CLOSE_SECONDS,
    ):
        self.uri, client = default_uri(store), connected(store)
        own = self.uri == f"sqlite:///{store.place.root}/mlflow.db"
        # Elsewhere files are kept where the server wants them: it could not show what lies in a folder of ours.
        scribe = Scribe(client, f"{store.url}/mlflow" if own else None)
        self.store, self.experiment, self.listen, self._patience = store, experiment, listen, patience
        self.courier = Courier(lambda: scribe, Spool(store.place / FOLDER), self._away)
        self.courier.start()
        self._open: list[Run] = []

    def __enter__(self) -> Tracking:
        return self

    def __exit__(self, *raised: object) -> None:
        """Runs still open belong to steps that were interrupted."""
        for run in list(self._open):
            run.close("KILLED")
        if left := self.courier.close(self._patience):
            where = without_password(self.store.url)
            log.warning(
                "MLflow was not told everything: %d messages wait in %s/%s for the next run", left, where, FOLDER
            )

    @contextlib.contextmanager
    def run(self, step: Step) -> Iterator[Run]:
        """The step's run, closed as what became of the step."""
        subject = Subject.step(step, self.store)
        with self.of(subject, lambda values, at: self.listen(step, values, at)) as run:
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

    def _away(self, error: Exception) -> None:
        said = without_password(" ".join(f"{self.uri}: {error}".split()))[:400]
        log.warning("MLflow: %s; what it is not told now is kept in the store, and told later", said)


class Run:
    """A `Tracker`, of one step as a rule: writes letters, and drops what it had said before."""

    def __init__(
        self, tracking: Tracking, subject: Subject, listen: Callable[[Mapping[str, float], int], None] | None = None
    ):
        self.subject, self.listen = subject, listen
        self._tracking = tracking
        self._last: dict[str, int] = {}
        flat = {} if subject.options is None else leaves(subject.options)
        self._post(
            "begin",
            {
                "name": subject.name,
                "tags": {**_who(), **subject.tags},
                "params": {_key(path): without_password(str(value))[:500] for path, value in flat.items()},
                "parent": None if subject.parent is None else subject.parent.subject.key,
                "inputs": [dict(one) for one in subject.inputs],
                "start": _now(),
            },
        )

    def metrics(self, values: Mapping[str, float], at: int) -> None:
        """Log scalars at `at` images; a key never goes back to an earlier `at`."""
        if self.listen is not None:
            self.listen(values, at)
        now, fresh = _now(), []
        for key, value in values.items():
            key = slug(key)
            if at > self._last.get(key, -1):
                self._last[key] = at
                fresh.append((key, float(value), now, at))
        if fresh:
            self._post("metrics", fresh)

    def picture(self, name: str, png: bytes) -> None:
        """Log a PNG as an artifact."""
        self._post("file", {"name": name, "data": base64.b64encode(png).decode()})

    def card(self, name: str, content: Mapping[str, Any]) -> None:
        """Log a JSON document as an artifact."""
        name = name if name.endswith(".json") else f"{name}.json"  # by which MLflow's pages know how to show it
        self._post("file", {"name": name, "data": base64.b64encode(dumps(content).encode()).decode()})

    def warn(self, text: str) -> None:
        """Log a sentence, as a line of the tag `kintsugi.warnings`."""
        self._post("warn", without_password(text))

    def tag(self, name: str, value: str) -> None:
        """Set a tag."""
        self._post("tag", [name, value])

    def close(self, status: str) -> None:
        """End the run. What it was told outlives this process, as what it is of may not be done again."""
        self._post("end", {"status": status, "when": _now()})
        self._tracking.courier.keep()

    def _post(self, kind: str, content: Any) -> None:
        self._tracking.courier.post(Letter(self._tracking.experiment, self.subject.key, kind, content))


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


def _now() -> int:
    return int(time.time() * 1000)


@functools.cache
def _who() -> dict[str, str]:
    """Who runs what, as MLflow's own runs say it."""
    with contextlib.suppress(OSError, KeyError, ImportError):  # a user without a name
        return {"mlflow.user": getpass.getuser(), "mlflow.source.name": "kintsugi", "mlflow.source.type": "LOCAL"}
    return {"mlflow.source.name": "kintsugi", "mlflow.source.type": "LOCAL"}
