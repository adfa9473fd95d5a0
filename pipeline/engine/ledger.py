"""What became of a sweep's trials, in small files that outlive the process: what is finished is never asked again.

<home>/trials/0003.json     a trial: its options, how it stands, what it was measured as
"""

from __future__ import annotations

import json
import threading
from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.artifact import StoreError
from pipeline.place import Place

FINISHED, STOPPED, FAILED, RUNNING = "finished", "stopped", "failed", "running"


@dataclass
class Trial:
    """One choice of the searched options.

    Args:
        number: from 0, in the order in which the searcher drew them.
        options: what it has at each searched path.
        status: running (or interrupted), finished, stopped early, or failed.
        value: the metric, where it is finished.
        history: (percent of the watched training that is done, its loss then).
        reason: why it failed, in a sentence.
        address: of the step that the metric is read from.
        seconds: from its start to its end, in the run that ended it.
        made: steps that were made rather than found, in all runs that ended.
        ends: of the metric's interval, where it has one.
    """

    number: int
    options: dict[str, Any]
    status: str = RUNNING
    value: float | None = None
    history: list[tuple[float, float]] = field(default_factory=list)
    reason: str = ""
    address: str = ""
    seconds: float = 0.0
    made: int = 0
    ends: list[float] | None = None


class Ledger:
    """The trials of one sweep, by number; every change of status is written at once.

    Raises: StoreError: a file of it is damaged.
    """

    def __init__(self, home: Place):
        self.home = home
        self._lock = threading.Lock()
        self.trials: dict[int, Trial] = {}
        for name in sorted(home.names()):
            if name.startswith("trials/") and name.endswith(".json"):
                trial = self._read(name)
                self.trials[trial.number] = trial

    def _read(self, name: str) -> Trial:
        try:
            said = json.loads(self.home.read(name))
            said["history"] = [(float(at), float(value)) for at, value in said["history"]]
            return Trial(**said)
        except (ValueError, TypeError, KeyError) as error:
            raise StoreError(f"{self.home.at(name)} is damaged: delete it, and the trial is done again") from error

    def write(self, trial: Trial) -> None:
        """Keep how a trial stands."""
        with self._lock:
            self.trials[trial.number] = trial
            self.home.write(f"trials/{trial.number:04d}.json", json.dumps(asdict(trial)))

    def of(self, *statuses: str) -> list[Trial]:
        """The trials that stand so, by number."""
        return [trial for _, trial in sorted(self.trials.items()) if trial.status in statuses]

    def ranked(self, mode: str) -> list[Trial]:
        """The finished trials, the best first; of equals the one drawn first."""
        sign = 1 if mode == "min" else -1
        return sorted(self.of(FINISHED), key=lambda trial: (sign * (trial.value or 0.0), trial.number))
