"""Letters become MLflow runs: whatever is told twice is there once.

A run is found by the tag `kintsugi.address`, or made. Of each metric only what lies beyond the server's last step is
logged, a warning that is there already is not added, parameters, pictures and inputs replace themselves: so that
letters can be sent again whenever nobody knows whether they arrived.
"""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.engine.spool import Letter

MOST = 1000  # metrics in one delivery, as MLflow allows
WARNINGS, LONGEST = "kintsugi.warnings", 5000  # a tag, and how long MLflow lets it be
ADDRESS = "kintsugi.address"
MADE = "kintsugi.made"  # the address of what a trial makes, whose own is that of the trial
ENDED = "kintsugi.ended"  # how, where MLflow has no status for it
KIND = {"mlflow.experimentKind": "custom_model_development"}  # its pages show agents and prompts otherwise
REFUSALS = {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS", "INVALID_STATE"}
About = tuple[str, str]


class Scribe:
    """Writes letters to one tracking server.

    Args:
        client: MLflow's.
        artifacts: where experiments that are made now keep their files; None: where the server wants them.
    """

    def __init__(self, client: Any, artifacts: str | None):
        self.client, self.artifacts = client, artifacts
        self.begins: dict[About, Letter] = {}
        self._runs: dict[About, _Known] = {}
        self._experiments: dict[str, str] = {}

    def write(self, letters: Sequence[Letter]) -> None:
        """Write letters of one kind about one run. Raises: whatever MLflow does."""
        about, kind = letters[0].about, letters[0].kind
        if kind == "begin":
            self.begins[about] = letters[0]
            self._runs.pop(about, None)
        run = self._known(about)
        if kind == "metrics":
            run.metrics([tuple(point) for letter in letters for point in letter.content])
        elif kind == "warn":
            run.warn([letter.content for letter in letters])
        elif kind == "tag":
            for letter in letters:
                self.client.set_tag(run.id, *letter.content)
        elif kind == "file":
            for letter in letters:
                run.file(letter.content["name"], base64.b64decode(letter.content["data"]))
        elif kind == "end":
            self.client.set_terminated(run.id, letters[-1].content["status"], letters[-1].content["when"])

    def forget(self) -> None:
        """Look everything up again: what was sent last may have arrived, or the server may be another."""
        self._runs.clear()
        self._experiments.clear()

    def _known(self, about: About) -> _Known:
        if about not in self._runs:
            self._runs[about] = _Known(self.client, self._found(about) or self._made(about))
        return self._runs[about]

    def _found(self, about: About) -> str | None:
        """The subject's run, where there is one; the first, if ever two were made."""
        experiment, key = about
        asked = f"tags.`{ADDRESS}` = '{key}'"
        oldest = ["attributes.start_time ASC"]
        known = self.client.search_runs([self._experiment(experiment)], asked, max_results=1, order_by=oldest)
        if not known:
            return None
        run, begin = known[0], self.begins.get(about)
        if begin is not None:
            self.client.update_run(run.info.run_id, status="RUNNING")
            if not run.data.params:  # an attempt that ended before it could log them
                self._describe(run.info.run_id, begin)
        return run.info.run_id

    def _made(self, about: About) -> str:
        begin = self.begins.get(about)
        said = {"name": about[1], "tags": {}, "parent": None, "start": None} if begin is None else begin.content
        tags = {ADDRESS: about[1], **said["tags"]}
        if said["parent"] is not None:
            tags["mlflow.parentRunId"] = self._known((about[0], said["parent"])).id
        experiment = self._experiment(about[0])
        made = self.client.create_run(experiment, start_time=said["start"], run_name=said["name"], tags=tags)
        if begin is not None:
            self._describe(made.info.run_id, begin)
        return made.info.run_id

    def _describe(self, run_id: str, begin: Letter) -> None:
        """Inputs first: who finds parameters takes it that all is there."""
        from mlflow.entities import Dataset, DatasetInput, InputTag, Param

        if inputs := begin.content["inputs"]:
            read = [
                DatasetInput(
                    Dataset(**{key: value for key, value in one.items() if key != "context"}),
                    [InputTag("mlflow.data.context", one["context"])],
                )
                for one in inputs
            ]
            self.client.log_inputs(run_id, read)
        params = [Param(key, value) for key, value in begin.content["params"].items()]
        for i in range(0, len(params), 100):
            self.client.log_batch(run_id, params=params[i : i + 100])

    def _experiment(self, name: str) -> str:
        if name not in self._experiments:
            found = self.client.get_experiment_by_name(name)
            if found is not None and found.lifecycle_stage == "deleted":
                raise ValueError(
                    f"the experiment '{name}' was deleted there, so restore it: mlflow experiments restore"
                )
            made = found.experiment_id if found else self.client.create_experiment(name, self.artifacts, KIND)
            self._experiments[name] = made
        return self._experiments[name]


class _Known:
    """A run on the server, and what it has."""

    def __init__(self, client: Any, run_id: str):
        self.client, self.id = client, run_id
        data = client.get_run(run_id).data
        self._told = data.tags.get(WARNINGS, "").splitlines()
        histories = {key: client.get_metric_history(run_id, key) for key in data.metrics}
        self._last = {key: max((point.step for point in points), default=-1) for key, points in histories.items()}

    def metrics(self, points: Sequence[tuple[str, float, int, int]]) -> None:
        """Log (key, value, milliseconds, step) that lie beyond what is there."""
        from mlflow.entities import Metric

        fresh = []
        for key, value, when, at in points:
            if at > self._last.get(key, -1):
                fresh.append(Metric(key, value, when, at))
                self._last[key] = at
        for i in range(0, len(fresh), MOST):
            self.client.log_batch(self.id, metrics=fresh[i : i + MOST])

    def warn(self, sentences: Sequence[str]) -> None:
        """Add lines to the tag."""
        told = list(dict.fromkeys([*self._told, *sentences]))
        if told != self._told:
            self.client.set_tag(self.id, WARNINGS, "\n".join(told)[-LONGEST:])
            self._told = told

    def file(self, name: str, data: bytes) -> None:
        """Log a file, in place of one of that name."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / Path(name).name
            path.write_bytes(data)
            self.client.log_artifact(self.id, str(path))


def refused(error: Exception) -> bool:
    """Whether MLflow itself said no to what it was told, and would again; not a proxy, nor whatever else is there."""
    said = str(error)
    return getattr(error, "error_code", None) in REFUSALS and not said.startswith("API request to ")
