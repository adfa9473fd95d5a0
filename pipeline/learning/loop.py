"""The loop: batches in, a denoiser out; one process or many, with nothing but torch.

Time is images seen. A step's randomness (σ, noise, dropout) comes from the key and the step's number, so a run that
was cut and continued equals one that was not, to the bit on one machine; σ and noise do not depend on world size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.diffusion.levels import Levels
from pipeline.keys import Key
from pipeline.learning.state import State
from pipeline.objectives.objective import Batch, Objective

Metrics = dict[str, float]


@dataclass(frozen=True)
class Clock:
    """How long to train, in images: until `images`, by global batches of `batch`, at most `micro` rows at a time.

    Every `validate` images (None: never) the average is scored; `patience` scores without a new best end the run.
    `skips` is how many steps with a non-finite loss or gradient are passed over before one ends the run.
    """

    images: int
    batch: int
    micro: int | None = None
    validate: int | None = None
    patience: int | None = None
    skips: int = 0

    def __post_init__(self) -> None:
        counts = {"images": self.images, "batch": self.batch, "micro": self.micro, "validate": self.validate}
        for name, value in (counts | {"patience": self.patience}).items():
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}: give a number of at least 1.")


@dataclass(frozen=True)
class Every:
    """A hook: call(state, metrics) whenever another `images` have been seen, and at the end of the run.

    Metrics are means since any hook was last called, over this process's rows.
    """

    images: int
    call: Callable[[State, Metrics], None]


def fit(
    state: State,
    batches: Iterable[Batch],
    objective: Objective,
    levels: Levels,
    clock: Clock,
    key: Key,
    hooks: Sequence[Every] = (),
    validate: Callable[[nn.Module], float] | None = None,
    parallel: nn.Module | None = None,
) -> State:
    """Train `state` in place until the clock or its patience ends, and return it.

    `batches` continue from state.images; each is this process's equal share of a global batch. `parallel` is
    state.model wrapped for many processes (DistributedDataParallel). `validate` maps the averaged model to a score,
    lower being better, and must give every process the same. torch's global generators are reseeded at each step.

    Raises ValueError when batches run out or do not fit the clock, FloatingPointError when a loss, gradient or score
    is not finite; weights, buffers and averages never take a non-finite step.
    """
    if clock.validate is not None and validate is None:
        raise ValueError("clock.validate is set but no validate function was given: give one or leave it None.")
    model = state.model if parallel is None else parallel
    model.train()
    meter, scores, source = _Meter(), {}, iter(batches)
    while not _over(state, clock):
        batch = next(source, None)
        if batch is None:
            raise ValueError(f"batches ended at {state.images} of {clock.images} images: let the source repeat.")
        _check(batch, clock)
        meter.add(_step(state, model, batch, objective, levels, clock, key.fold("step", state.step)))
        before, state.images, state.step = state.images, state.images + clock.batch, state.step + 1
        if clock.validate is not None and validate is not None and _crossed(before, state.images, clock.validate):
            score = float(validate(state.average))
            if not math.isfinite(score):
                raise FloatingPointError(
                    f"validation at {state.images} images gave {score}: check the data and the rate."
                )
            state.consider(score)
            scores = {"validation": score, "best": state.best_score}
            model.train()
        due = [hook for hook in hooks if _over(state, clock) or _crossed(before, state.images, hook.images)]
        if due:
            rate = state.optim.lr_at(state.images)
            metrics = {"images": state.images, "lr": rate, "skipped": state.skipped} | meter.read() | scores
            for hook in due:
                hook.call(state, dict(metrics))
    return state


def _step(
    state: State, model: nn.Module, batch: Batch, objective: Objective, levels: Levels, clock: Clock, key: Key
) -> dict[str, Tensor]:
    """One step of everything but the clock; the step's means as tensors on the device, or {} if it was skipped."""
    weights = [p for group in state.optimiser.param_groups for p in group["params"]]
    device = weights[0].device
    state.optimiser.zero_grad(set_to_none=True)
    buffers = {name: buffer.clone() for name, buffer in state.model.named_buffers()}
    losses, means = [], {}
    parts = batch.to(device).split(clock.micro)
    for i, part in enumerate(parts):
        sigma = levels.draw(len(part), key.fold("sigma"), part.offset, part.whole).to(device)
        torch.manual_seed(key.fold("dropout", part.offset).integer())
        later = i + 1 < len(parts)  # gradients travel between processes once a step
        with getattr(model, "no_sync", nullcontext)() if later else nullcontext():
            loss = objective(model, part, sigma, key)
            total = loss.each.sum() / len(batch)
            # A bad loss poisons the gradient, which processes share: all of them see it and decide alike.
            (total * torch.where(total.detach().isfinite(), 1.0, math.nan)).backward()
        losses.append(loss.each.detach())
        for name, value in ({"loss": loss.each.mean()} | loss.scalars).items():
            means[name] = means.get(name, 0) + value.detach() * (len(part) / len(batch))
    clip = math.inf if state.optim.clip is None else state.optim.clip
    means["gradient"] = norm = nn.utils.clip_grad_norm_(weights, clip)
    if not math.isfinite(norm.item()):
        state.optimiser.zero_grad(set_to_none=True)
        for name, buffer in state.model.named_buffers():
            buffer.copy_(buffers[name])
        state.skipped += 1
        if state.skipped > clock.skips:
            raise FloatingPointError(_blame(state, batch, torch.cat(losses)))
        return {}
    for group in state.optimiser.param_groups:
        group["lr"] = state.optim.lr_at(state.images + clock.batch)
    state.optimiser.step()
    state.ema.update(state.average, state.model, state.images, clock.batch)
    return means


def _over(state: State, clock: Clock) -> bool:
    return state.images >= clock.images or (clock.patience is not None and state.stale >= clock.patience)


def _crossed(before: int, after: int, every: int) -> bool:
    return after // every > before // every


def _check(batch: Batch, clock: Clock) -> None:
    if batch.whole != clock.batch:
        raise ValueError(f"a global batch has {batch.whole} rows but clock.batch is {clock.batch}: make them agree.")
    if batch.whole % len(batch):
        raise ValueError(f"{len(batch)} rows are no equal share of a batch of {batch.whole}: let processes divide it.")


def _blame(state: State, batch: Batch, losses: Tensor) -> str:
    bad = (~losses.isfinite()).nonzero().flatten().cpu()
    names = (bad + batch.offset if batch.index is None else batch.index.cpu()[bad]).tolist()
    kind = "row" if batch.index is None else "example"
    whose = f"the loss of {kind} {names[:16]}" if names else "the gradient (every loss of this process is finite)"
    return f"step {state.step} at {state.images} images: {whose} is not finite: look at these data or lower the rate."


class _Meter:
    """Sums on the device, read once: between two readings the host waits for none of them."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.count = 0

    def add(self, means: dict[str, Tensor]) -> None:
        for name, value in means.items():
            self.sums[name] = self.sums.get(name, 0) + value.double()
        self.count += bool(means)

    def read(self) -> Metrics:
        values = torch.stack(list(self.sums.values())).tolist() if self.sums else []
        means = {name: value / self.count for name, value in zip(self.sums, values)}
        self.sums, self.count = {}, 0
        return means
