"""A sweep at work: what all trials share is made first, then the trials side by side, then the winner gets its name."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline import config, graph
from pipeline.config import ConfigError
from pipeline.engine.draws import Plan
from pipeline.engine.ledger import FAILED, FINISHED, RUNNING, STOPPED, Ledger, Trial
from pipeline.engine.scribe import ENDED, MADE
from pipeline.graph import Enough, Event, Step, StepFailed
from pipeline.place import Place
from pipeline.shown import table
from pipeline.store import Store, slug
from stages.failures import explain
from stages.progress import Progress
from stages.running import listener, written
from stages.search_page import page
from stages.sought import Sought


@dataclass(frozen=True)
class Found:
    """What a sweep came to.

    Args:
        sweep: its address in the store, below `results/<recipe>/search`.
        best: the winning trial.
        trials: all of them, by number.
        name: what leads to the winner.
        address: of the winner's model, or of what its metric is read from where that is of no model.
        made: how many steps were made now.
        left: trials that there was no time for, or that were interrupted when it was over.
        place: has `report.html`, and `best.yaml` with the winner's options.
        registered: the winner in MLflow's registry, as `models:/name@alias`.
    """

    sweep: str
    best: Trial
    trials: Sequence[Trial]
    name: str
    address: str
    made: int
    left: int
    place: Place
    registered: str = ""

    def _repr_html_(self) -> str:
        """In a notebook: the trials, the winner first."""
        rest = sorted(self.trials, key=lambda trial: (trial != self.best, trial.number))
        paths = list(self.best.options)
        rows = [[trial.number, trial.status, "" if trial.value is None else trial.value] for trial in rest]
        rows = [row + [trial.options.get(path, "") for path in paths] for row, trial in zip(rows, rest, strict=True)]
        return table(["trial", "", "value", *paths], rows, f"{self.name}: trial {self.best.number}, {self.address}")


@dataclass
class Sweep:
    """One search: `run` does what is left of it."""

    recipe: str
    plan: Plan
    sought: Sought
    store: Store
    home: Place
    name: str
    at_once: int | None
    progress: Progress
    made: int = 0
    until: float = math.inf
    lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self) -> Found:
        """Do what is left, name the winner and write the report. Raises: RuntimeError: no trial finished."""
        self.until = math.inf if self.plan.hours is None else time.monotonic() + 3600 * self.plan.hours
        ledger = Ledger(self.home)
        self.home.write("options.yaml", written(self.sought.base))
        ended = [trial for trial in ledger.of(FINISHED, STOPPED) if trial.number < self.plan.count]
        if len(ended) < self.plan.count or self._lost(ledger):
            self._try(ledger)
        else:
            for trial in ended:
                self._said(trial)
        return self._found(ledger)

    def _lost(self, ledger: Ledger) -> bool:
        """Whether the winner's result was deleted since."""
        best = ledger.ranked(self.plan.mode)
        return bool(best) and not self.store.has(self.sought.goal(best[0].options).step)

    def _try(self, ledger: Ledger) -> None:
        from pipeline.engine import cluster
        from pipeline.engine.track import Subject, Tracking
        from pipeline.engine.tune import sweep

        subject = Subject(
            f"search/{self.sought.identity}", f"search {self.recipe}", {}, self.sought.described(self.plan)
        )
        with (
            Tracking(self.store, self.recipe, self.progress.metrics) as tracking,
            cluster.connect() as capacity,
            tracking.of(subject) as parent,
        ):
            self._make(self.sought.shared, tracking.run, capacity, "shared/")
            width, share = self._room(capacity)
            best: list[float] = []

            def drive(turn: Any) -> float:
                trial = turn.trial
                own = Subject(
                    f"search/{self.sought.identity}/{trial.number}", f"trial {trial.number}", {}, trial.options, parent
                )
                with tracking.of(own) as run:
                    trial.value = value = self._measure(turn, run, share)
                with self.lock:
                    best.append(value)
                    parent.metrics({f"best {self.sought.metric}": self._best(ledger, value)}, at=len(best))
                return value

            plan = dataclasses.replace(self.plan, at_once=width)
            sweep(plan, ledger, drive, self._said, lambda error: explain(error)[0], self.until)
            ranked = ledger.ranked(self.plan.mode)
            if ranked and self._lost(ledger):
                self._make([self.sought.goal(ranked[0].options).step], tracking.run, capacity, "shared/")
            if ranked:
                parent.card("best.json", {"trial": ranked[0].number, **ranked[0].options})

    def _best(self, ledger: Ledger, value: float) -> float:
        known = [value, *(trial.value for trial in ledger.of(FINISHED) if trial.value is not None)]
        return min(known) if self.plan.mode == "min" else max(known)

    def _make(self, steps: Sequence[Step], tracker: Any, capacity: tuple[float, float], below: str) -> None:
        """What all trials share, made side by side with all there is."""
        hear = listener(self.store, self.recipe, self.progress, f"{self._names}/{below}")

        def listen(event: Event) -> None:
            self.made += event.what == "done"
            hear(event)

        graph.run(steps, self.store, tracker, capacity, listen)

    def _room(self, capacity: tuple[float, float]) -> tuple[int, tuple[float, float]]:
        """How many trials run side by side, and the (cores, devices) of each, so that none waits for another's end.

        Raises: ConfigError: a trial would have less than one of its steps takes.
        """
        needs = self.sought.needs
        fits = [math.floor(have / need + 1e-9) for have, need in zip(capacity, needs, strict=True) if need > 0]
        most = max(1, min([self.plan.count, *fits]))
        if self.at_once is not None and not 1 <= self.at_once <= max(1, min(fits, default=1)):
            raise ConfigError(
                f"--at-once is {self.at_once}: a trial takes {needs[0]:g} CPUs and {needs[1]:g} GPUs, of which there "
                f"are {capacity[0]:g} and {capacity[1]:g}, so give 1 to {max(1, min(fits, default=1))}"
            )
        width = most if self.at_once is None else self.at_once
        return width, (capacity[0] / width, capacity[1] / width)

    def _measure(self, turn: Any, run: Any, share: tuple[float, float]) -> float:
        """Do one trial's steps. Raises: Enough, or what failed."""
        trial: Trial = turn.trial
        goal = self.sought.goal(trial.options)
        trial.address = goal.step.address
        names = f"{self._names}/{trial.number:04d}/"
        hear = listener(self.store, self.recipe, self.progress, names)

        def listen(event: Event) -> None:
            if event.what == "done":
                with self.lock:
                    self.made += 1
                trial.made += 1
                if event.step.address == goal.winner.address:
                    run.tag(MADE, event.step.address)
            if event.what != "cached" or event.step.address == goal.step.address:
                hear(dataclasses.replace(event, step=_numbered(event.step, trial.number)))

        @contextlib.contextmanager
        def tracker(node: Step) -> Iterator[_Part]:
            turn.check()
            shown = _numbered(node, trial.number)
            yield _Part(node, run, functools.partial(self.progress.metrics, shown), self._watch(node, turn), self.lock)

        try:
            graph.run(goal.step, self.store, tracker, share, listen)
        except StepFailed as error:
            if isinstance(error.__cause__, Enough | KeyboardInterrupt):
                if turn.lags:
                    run.tag(ENDED, STOPPED)
                raise error.__cause__ from error
            raise
        found = self.store.artifact(goal.step.address).json("metrics.json")
        value = found.get(goal.name)
        if not isinstance(value, int | float):
            numbers = [name for name, other in found.items() if isinstance(other, int | float)]
            raise ConfigError(f"this recipe reports no '{goal.name}'{config.nearest(goal.name, numbers)}")
        if not math.isfinite(value):
            raise FloatingPointError(f"{self.sought.metric} is {value}")
        ends = found.get("ends", {}).get(goal.name, [None])
        trial.ends = None if None in ends else ends
        run.metrics({self.sought.metric: float(value)}, at=0)
        return float(value)

    def _watch(self, node: Step, turn: Any) -> Callable[[Mapping[str, float]], None]:
        stream = getattr(node.stage, "stream", None)
        if node.label != self.sought.watched or stream is None:
            return lambda values: turn.check()

        def post(values: Mapping[str, float]) -> None:
            if "done" in values and stream in values:
                turn.post(100 * values["done"], values[stream])
            turn.check()

        return post

    def _said(self, trial: Trial) -> None:
        said: dict[str, object] = {"options": trial.options}
        said |= {} if trial.value is None else {self.sought.metric: trial.value}
        said |= {"reason": trial.reason} if trial.status == FAILED else {}
        self.progress.trial(trial.number, trial.status, said)

    @property
    def _names(self) -> str:
        return f"search/{self.sought.identity}"

    def _found(self, ledger: Ledger) -> Found:
        ranked = [trial for trial in ledger.ranked(self.plan.mode) if trial.number < self.plan.count]
        trials = [trial for trial in ledger.of(FINISHED, STOPPED, FAILED, RUNNING) if trial.number < self.plan.count]
        left = self.plan.count - sum(trial.status != RUNNING for trial in trials)
        if not ranked and left and self.plan.hours is not None:
            raise RuntimeError(
                f"no trial finished within --hours {self.plan.hours:g}: the same command goes on, give it more"
            )
        if not ranked:
            reasons = [trial.reason for trial in trials if trial.reason]
            first = f", the first because {reasons[0]}" if reasons else ""
            raise RuntimeError(f"none of {len(trials)} trials finished{first}")
        best = ranked[0]
        options = self.sought.options(best.options)
        step = self.sought.goal(best.options).winner
        self.store.point(self.recipe, {self.name: step.address})
        self.home.write("best.yaml", written(options))
        self.home.write("trials.json", json.dumps([dataclasses.asdict(trial) for trial in trials], indent=1))
        done = sum(trial.status == FINISHED for trial in trials)
        said = {"recipe": self.recipe, "metric": self.sought.metric, "mode": self.plan.mode, "best": best.number}
        self.home.write(
            "sweep.json", json.dumps({**said, "value": best.value, "trials": len(trials), "finished": done})
        )
        shown = page(self.recipe, self.plan, self.sought, trials, best, written(options), left)
        self.home.write("report.html", shown)
        if all(trial.status in (FINISHED, STOPPED) for trial in trials) and len(trials) == self.plan.count:
            # The names kept the trials from `gc` while the sweep could still need them.
            self.store.place.remove(f"refs/{slug(self.recipe)}/{self._names}")
        name = f"{self.recipe}/{slug(self.name)}"
        return Found(self.sought.identity, best, trials, name, step.address, self.made, left, self.home)


def _numbered(step: Step, number: int) -> Step:
    """The same step, called after its trial."""
    return dataclasses.replace(step, label=f"{number}: {step.label}")


@dataclass
class _Part:
    """A trial's step's tracker: its metrics go to the trial's run, below its label."""

    node: Step
    run: Any
    show: Callable[[Mapping[str, float], int], None]
    watch: Callable[[Mapping[str, float]], None]
    lock: threading.Lock

    def metrics(self, values: Mapping[str, float], at: int) -> None:
        self.show(values, at)
        with self.lock:  # a trial's steps run side by side
            self.run.metrics({f"{self.node.label}/{name}": value for name, value in values.items()}, at)
        self.watch(values)

    def picture(self, name: str, png: bytes) -> None:
        with self.lock:
            self.run.picture(f"{slug(self.node.label).replace('/', '-')}-{name}", png)

    def card(self, name: str, content: Mapping[str, Any]) -> None:
        with self.lock:
            self.run.card(f"{slug(self.node.label).replace('/', '-')}-{name}", content)
