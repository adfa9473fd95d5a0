"""The loop: batches in, a denoiser out; one process or many, with nothing but torch.

Time is images seen. A step's randomness (σ, noise, dropout) comes from the key and the step's number, so a run that
was cut and continued equals one that was not, to the bit on one machine; σ and noise do not depend on world size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from torch import nn

from pipeline.diffusion.levels import Levels
from pipeline.keys import Key
from pipeline.learning.guard import Guard, Meter, Metrics, Names
from pipeline.learning.peers import Peers
from pipeline.learning.speed import Speed, ahead
from pipeline.learning.state import State
from pipeline.learning.step import Step
from pipeline.objectives.objective import Batch, Objective

LOOK = 64  # steps between two looks at what the device has to say, if nothing else asks


@dataclass(frozen=True)
class Clock:
    """How long to train, in images: until `images`, by global batches of `batch`, at most `micro` rows at a time.

    Every `validate` images (None: never) the average is scored; `patience` scores without a new best end the run.
    `skips` is how many steps with a non-finite loss or gradient are passed over before one ends the run; `rollbacks`
    how often a run that would end so goes back to where it stood at the last multiple of `anchor` images.
    """

    images: int
    batch: int
    micro: int | None = None
    validate: int | None = None
    patience: int | None = None
    skips: int = 0
    rollbacks: int = 0
    anchor: int | None = None

    def __post_init__(self) -> None:
        counts = {"images": self.images, "batch": self.batch, "micro": self.micro, "validate": self.validate}
        for name, value in (counts | {"patience": self.patience, "anchor": self.anchor}).items():
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}: give a number of at least 1.")
        if self.skips < 0 or self.rollbacks < 0:
            raise ValueError(f"skips is {self.skips} and rollbacks {self.rollbacks}: give numbers from 0.")
        if self.rollbacks and self.anchor is None:
            raise ValueError(f"rollbacks is {self.rollbacks} but anchor is None: say how often to remember the state.")


@dataclass(frozen=True)
class Every:
    """A hook: call(state, metrics) whenever another `images` have been seen, and at the end of the run.

    Metrics are means since any hook of any process was last called, over the rows of all processes.
    """

    images: int
    call: Callable[[State, Metrics], None]


@dataclass(frozen=True)
class When:
    """A hook: call(state) after every step of which due() says so, which must tell every process the same."""

    due: Callable[[], bool]
    call: Callable[[State], None]


def fit(
    state: State,
    batches: Iterable[Batch],
    objective: Objective,
    levels: Levels,
    clock: Clock,
    key: Key,
    hooks: Sequence[Every | When] = (),
    validate: Callable[[nn.Module], float] | None = None,
    parallel: nn.Module | None = None,
    speed: Speed = Speed(),
    names: Names | None = None,
    stop: Callable[[], bool] | None = None,
) -> State:
    """Train `state` in place until the clock or its patience ends, and return it.

    `batches` continue from state.position; each is this process's equal share of a global batch. `parallel` is
    state.model wrapped for many processes (DistributedDataParallel). `validate` maps the averaged model to a score,
    lower being better, and must give every process the same. torch's global generators are reseeded at each step.
    `stop` is asked after each step, and must tell every process the same: whether to end here, which is not the end of
    the run, so that no hook is called for it (see notice.py).

    Raises ValueError when batches run out or do not fit the clock, FloatingPointError when a score is not finite, or
    (NotFinite) when more losses or gradients than `clock.skips` are not, after a few dozen steps at the latest and
    after the same one on all processes, whatever hooks they have; weights, buffers and averages never take a step whose
    loss or gradient is not finite, and none after the one that ends the run. A step that leaves weights which are not
    finite, which a rate beyond all measure can do, ends the run in the same way: what it leaves is told to no hook, so
    never saved. `names` maps the batches' indices to what messages call examples.
    """
    if clock.validate is not None and validate is None:
        raise ValueError("clock.validate is set but no validate function was given: give one or leave it None.")
    peers = Peers(parallel)
    guard, meter = Guard(state, clock.skips, names, peers), Meter(peers)
    if state.rollbacks:  # the same steps again, not the same noise
        key = key.fold("rolled back", state.rollbacks)
    if clock.rollbacks and state.back is None:
        state.remember()
    device = next(state.model.parameters()).device
    every, asked = [h for h in hooks if isinstance(h, Every)], [h for h in hooks if isinstance(h, When)]
    # A hook of one process alone is a moment for all: they look, and bring their means together.
    moments = peers.union((hook.images for hook in every), device)
    source = ahead((_checked(batch, clock) for batch in batches), device)
    with speed.applied(state, parallel) as model:
        model.train()
        step = Step(state, model, objective, levels, clock.micro, parallel is None, speed.compile)
        while not over(state, clock):
            batch = next(source, None)
            if batch is None:
                guard.read(clock.batch)
                raise ValueError(f"batches ended at {state.images} of {clock.images} images: let the source repeat.")
            meter.add(*step(batch, guard, key.fold("step", state.step)))
            before, state.images, state.step = state.images, state.images + clock.batch, state.step + 1
            judged = clock.validate is not None and _crossed(before, state.images, clock.validate)
            anchored = clock.anchor is not None and clock.rollbacks > 0 and _crossed(before, state.images, clock.anchor)
            due = over(state, clock) or any(_crossed(before, state.images, images) for images in moments)
            if judged or anchored or due or state.step % LOOK == 0:
                guard.read(clock.batch)
            if judged and validate is not None:
                _judge(state, validate)
                model.train()
            if over(state, clock):
                state.back = None
            elif anchored:  # before the hooks, one of which may save this very moment
                state.remember()
            if due or over(state, clock):
                rate = state.optim.lr_at(state.images)
                metrics = {"images": state.images, "lr": rate, "skipped": state.skipped} | meter.read() | _scores(state)
                metrics |= {"rollbacks": state.rollbacks} if state.rollbacks else {}
                for hook in every:
                    if over(state, clock) or _crossed(before, state.images, hook.images):
                        hook.call(state, dict(metrics))
            ends = stop is not None and stop()
            wanted = [hook for hook in asked if hook.due()]
            if ends or wanted:
                guard.read(clock.batch)
            for hook in wanted:
                hook.call(state)
            if ends:
                break
    return state


def _judge(state: State, validate: Callable[[nn.Module], float]) -> None:
    score = float(validate(state.average))
    if not math.isfinite(score):
        raise FloatingPointError(f"validation at {state.images} images gave {score}: check the data and the rate.")
    state.consider(score)


def _scores(state: State) -> Metrics:
    if state.score is None or state.best_score is None:
        return {}
    return {"validation": state.score, "best": state.best_score}


def over(state: State, clock: Clock) -> bool:
    """Whether a run has nothing left to do."""
    return state.images >= clock.images or (clock.patience is not None and state.stale >= clock.patience)


def _crossed(before: int, after: int, every: int) -> bool:
    return after // every > before // every


def _checked(batch: Batch, clock: Clock) -> Batch:
    if batch.whole != clock.batch:
        raise ValueError(f"a global batch has {batch.whole} rows but clock.batch is {clock.batch}: make them agree.")
    if batch.whole % len(batch):
        raise ValueError(f"{len(batch)} rows are no equal share of a batch of {batch.whole}: let processes divide it.")
    return batch
