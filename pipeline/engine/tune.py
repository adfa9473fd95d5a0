"""Ray Tune around trials: it says how many run at once, hears how they do, and stops those that lag behind.

A trial's steps are driven by a thread of this process, as those of `kintsugi run` are, and ask the cluster for what
they take; in Tune's hands is a process that does no more than pass on what the trial posts. So one process writes to
the store's names and to MLflow, what is stopped early ends with a checkpoint, and a trial never holds what its steps
wait for. What became of trials is kept in a ledger of ours: Tune's own state of an experiment is written every few
seconds, and what is lost with it would be done again.
"""

from __future__ import annotations

import logging
import math
import os
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.engine import cluster
from pipeline.engine.draws import Plan, scheduler, searcher
from pipeline.engine.ledger import FAILED, FINISHED, STOPPED, Ledger, Trial
from pipeline.engine.sharing import sweeping
from pipeline.graph import Enough

if TYPE_CHECKING:
    from ray.tune import Callback, ProgressReporter

QUIET = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends a sweep as it ends a run
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial posts now how it does, now what it came to
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "RAY_AIR_NEW_OUTPUT": "0",
}
PROXY = {"memory": 1e6}  # bytes: Tune refuses nothing at all, and a core it would take from who needs all of them
LOOK = 0.2  # seconds between two looks at what a trial posts


class Turn:
    """A trial that is running: what its driver tells Tune, and whether Tune wants more of it."""

    def __init__(self, trial: Trial, topic: str):
        self.trial, self.topic = trial, topic
        self.stopped, self.lost, self.interrupted, self.late = threading.Event(), "", False, False
        self.last: dict[str, Any] = {}
        self.start = time.monotonic()

    @property
    def lags(self) -> bool:
        """Whether it was stopped because others do better: neither for want of time nor because Tune lost it."""
        return self.stopped.is_set() and not (self.lost or self.late or self.interrupted)

    def check(self) -> None:
        """Raises: Enough: the trial is not wanted any more."""
        if self.stopped.is_set():
            raise Enough(f"trial {self.trial.number} was stopped early")

    def post(self, percent: float, loss: float) -> None:
        """The watched training's loss. Raises: Enough: the trial is not wanted any more."""
        self.check()
        self.trial.history.append((percent, loss))
        self.send({"percent": percent, "stream": loss})

    def send(self, content: dict[str, Any]) -> None:
        """Pass something to Tune."""
        self.last = content
        cluster.board().post.remote(self.topic, content)


Drive = Callable[[Turn], float]


def sweep(
    plan: Plan,
    ledger: Ledger,
    drive: Drive,
    listen: Callable[[Trial], None],
    say: Callable[[Any], str],
    until: float = math.inf,
) -> None:
    """Do what is left of a sweep, or what there is time for; how its trials ended is in the ledger.

    Where other sweeps have trials on the same cluster, this one takes its part of `plan.at_once`.

    Args:
        plan: how.
        ledger: what is known; trials in it that are finished or were stopped are not done again.
        drive: does a trial and gives its metric; called in a thread of the trial's own. What it raises fails the trial
            alone, but `Enough`, which it raises when its turn's `check` or `post` did.
        listen: told of each trial that starts and ends.
        say: an exception as a sentence.
        until: the moment of `time.monotonic()` after which no trial begins. Those that a scheduler may stop are
            interrupted then, and go on when the sweep does; others end in peace.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    from ray import tune

    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    left = plan.count - len([t for t in ledger.of(FINISHED, STOPPED) if t.number < plan.count])
    if left <= 0:
        return
    patient = plan.scheduler == "none"
    turns = _Turns(ledger, drive, listen, say, math.inf if patient else until)
    proxy = tune.with_resources(tune.with_parameters(_proxy, board=cluster.board()), PROXY)
    with (
        tempfile.TemporaryDirectory(prefix="kintsugi-tune-", ignore_cleanup_errors=True) as folder,
        sweeping() as sweeps,
    ):
        tuner = tune.Tuner(
            proxy,
            tune_config=tune.TuneConfig(
                search_alg=searcher(plan, ledger, lambda: plan.at_once // sweeps(), lambda: time.monotonic() >= until),
                scheduler=scheduler(plan, ledger),
                num_samples=left,
                max_concurrent_trials=plan.at_once,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name="sweep",
                storage_path=folder,
                verbose=0,
                callbacks=[_callback(turns)],
                progress_reporter=_silent(),
                failure_config=tune.FailureConfig(max_failures=3),
            ),
        )
        try:
            tuner.fit()
        except BaseException:
            turns.interrupt()
            raise
        turns.join()


@dataclass
class _Turns:
    """The threads that drive trials, by number."""

    ledger: Ledger
    drive: Drive
    listen: Callable[[Trial], None]
    say: Callable[[Any], str]
    until: float = math.inf
    turns: dict[int, tuple[Turn, threading.Thread]] = field(default_factory=dict)

    def begin(self, number: int, topic: str) -> None:
        """Start a trial, or tell a process of Tune's that took another's place how it ended."""
        if number in self.turns:
            turn, thread = self.turns[number]
            if not thread.is_alive():
                turn.send(turn.last)
            return
        turn = Turn(self.ledger.trials[number], topic)
        thread = threading.Thread(target=self._drive, args=(turn,), daemon=True)
        self.turns[number] = turn, thread
        self.listen(turn.trial)
        thread.start()

    def end(self, number: int, lost: str = "") -> None:
        """Tune is done with a trial, which is news to one that still runs."""
        turn, thread = self.turns[number]
        if thread.is_alive():
            turn.lost = lost
            turn.stopped.set()

    def look(self) -> None:
        """Interrupt what is going when the time is over."""
        if time.monotonic() < self.until:
            return
        for turn, thread in self.turns.values():
            if thread.is_alive() and not turn.stopped.is_set():
                turn.late = True
                turn.stopped.set()

    def interrupt(self) -> None:
        """Let trials end after what they are doing; they go on when the sweep does."""
        for turn, _ in self.turns.values():
            turn.interrupted = True
            turn.stopped.set()
        until = time.monotonic() + cluster.PATIENCE
        cluster.end_training()
        for _, thread in self.turns.values():
            thread.join(max(0.0, until - time.monotonic()))

    def join(self) -> None:
        """Wait for what was stopped to write its checkpoint."""
        for _, thread in self.turns.values():
            thread.join()

    def _drive(self, turn: Turn) -> None:
        trial = turn.trial
        try:
            trial.value, trial.status = self.drive(turn), FINISHED
        except BaseException as error:
            if turn.interrupted or isinstance(error, KeyboardInterrupt):
                return  # it goes on when the sweep does
            if turn.late and isinstance(error, Enough):  # and so does this
                turn.send({"over": True})
                return
            if turn.lags:
                trial.status = STOPPED
            else:
                trial.status, trial.reason = FAILED, turn.lost or self.say(error)
        trial.seconds = time.monotonic() - turn.start
        try:
            self.ledger.write(trial)
            self.listen(trial)
        finally:
            turn.send({"over": True, **({} if trial.value is None else {"value": trial.value})})


def _proxy(config: dict[str, Any], board: Any) -> None:
    """What Tune runs in place of a trial: it passes on what the trial posts, until it is over."""
    import ray
    from ray import tune

    while True:
        for content in ray.get(board.take.remote(config["topic"])):
            tune.report(content)
            if "over" in content:
                return
        time.sleep(LOOK)


def _callback(turns: _Turns) -> Callback:
    from ray import tune

    class Watch(tune.Callback):
        def on_step_begin(self, iteration: int, trials: list, **info: Any) -> None:
            turns.look()

        def on_trial_start(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
            turns.begin(trial.config["number"], trial.config["topic"])

        def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
            turns.end(trial.config["number"])

        def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
            turns.end(trial.config["number"], "Ray Tune lost the process that watched it: run again")

        def __reduce__(self):
            return tune.Callback, ()  # Tune keeps a copy for a restart that is ours to do

    return Watch()


def _silent() -> ProgressReporter:
    """In a notebook Tune would wipe away what the cell shows, whatever its verbosity."""
    from ray import tune

    class Silent(tune.ProgressReporter):
        def should_report(self, trials: list, done: bool = False) -> bool:
            return False

    return Silent()
