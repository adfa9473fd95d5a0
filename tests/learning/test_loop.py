"""The loop learns what is to be learnt, keeps time in images, and lets nothing non-finite into the weights."""

from __future__ import annotations

import copy
import math
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from tiny_backbone import LAW, batches, build, same
from torch import nn

from pipeline.diffusion.levels import LogNormal, Stratified
from pipeline.keys import Key
from pipeline.learning.background import Background
from pipeline.learning.checkpoint import Checkpoints
from pipeline.learning.ema import EMA, Pair
from pipeline.learning.loop import Clock, Every, fit
from pipeline.learning.optim import AdamW, Cosine
from pipeline.learning.state import State
from pipeline.objectives.denoising import Denoising
from pipeline.objectives.objective import Loss, Objective


def start(seed=0, optim=AdamW(lr=3e-3), ema=EMA(200, None), **sizes):
    return State.create(build(seed, **sizes), optim, ema)


def run(state, clock, source=None, **more):
    source = batches(clock.batch, state.images) if source is None else source
    return fit(state, source, more.pop("objective", Denoising()), LogNormal(), clock, Key(1), **more)


@pytest.mark.slow
def test_training_approaches_the_exact_error():
    state = start(optim=AdamW(lr=5e-3, warmup=2_000, schedule=Cosine(200_000)), ema=EMA(10_000), width=48)
    levels = Stratified()
    fit(state, batches(512), Denoising(), levels, Clock(200_000, 512), Key(1))
    sigma = torch.tensor([0.1, 0.3, 1.0, 3.0])
    x0 = LAW.sample(20_000, Key(9)).float()
    z = torch.randn(x0.shape, generator=Key(10).torch())

    def excess(D, s):
        """E|D − D*|² relative to the least error."""
        x, level = x0 + s * z, torch.full((len(x0),), float(s))
        with torch.no_grad():
            return float(((D(x, level) - LAW(x, level)) ** 2).mean() / LAW.mse(s))

    learnt, silent = state.result(), start(width=48).model
    for s in sigma:
        assert excess(learnt, s) < 0.02
        assert excess(learnt, s) < 0.2 * excess(silent, s)


def test_two_processes_take_the_step_of_one():
    """The mean of the gradients of two half batches is the gradient of the whole: σ, noise and loss are the same."""
    alone = run(start(), Clock(16, 16))
    want = [p.grad for p in alone.model.parameters()]
    halves = []
    for rank in (0, 1):
        half = run(start(optim=AdamW(clip=None)), Clock(16, 16), batches(16, rank=rank, world=2))
        halves.append([p.grad for p in half.model.parameters()])
    got = [(a + b) / 2 for a, b in zip(*halves)]
    norm = torch.stack([g.norm() for g in got]).norm()
    for g, w in zip(got, want):
        torch.testing.assert_close(g * min(1.0, 1 / (float(norm) + 1e-6)), w, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("micro", [4, 5, 16])
def test_micro_batches_change_memory_and_nothing_else(micro):
    whole, pieces = run(start(), Clock(64, 16)), run(start(), Clock(64, 16, micro=micro))
    for a, b in zip(whole.model.parameters(), pieces.model.parameters()):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-3)


@pytest.mark.parametrize("micro", [4, 5])
def test_what_is_posted_is_the_mean_over_rows_however_they_are_cut(micro):
    told = []
    for rows in (16, micro):
        run(start(), Clock(16, 16, micro=rows), hooks=[Every(16, lambda s, m: told.append((m["loss"], m["mse"])))])
    assert told[1] == pytest.approx(told[0], rel=1e-6)


def test_a_wrapped_model_syncs_once_a_step_and_trains_the_same():
    class Wrapped(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module, self.log = module, []

        def forward(self, *given):
            self.log.append("forward")
            return self.module(*given)

        def no_sync(self):
            self.log.append("no_sync")
            return torch.enable_grad()

    state = start()
    wrapped = Wrapped(state.model)
    run(state, Clock(16, 16, micro=8), parallel=wrapped)
    assert wrapped.log == ["no_sync", "forward", "forward"]
    assert same(state.model.state_dict(), run(start(), Clock(16, 16, micro=8)).model.state_dict())


def test_hooks_come_every_so_many_images_and_at_the_end():
    told = {32: [], 100: []}

    def note(every):
        return Every(every, lambda state, metrics: told[every].append(metrics))

    state = run(start(), Clock(150, 16), hooks=[note(32), note(100)])
    assert state.images == 160
    assert state.step == 10
    assert [m["images"] for m in told[32]] == [32, 64, 96, 128, 160]
    assert [m["images"] for m in told[100]] == [112, 160]
    assert set(told[32][0]) == {"images", "lr", "skipped", "loss", "gradient", "mse"}


def test_metrics_are_means_over_the_steps_between_hooks():
    ones, fours = [], []
    run(start(), Clock(64, 16), hooks=[Every(16, lambda s, m: ones.append(m["loss"]))])
    run(start(), Clock(64, 16), hooks=[Every(64, lambda s, m: fours.append(m["loss"]))])
    assert fours[0] == pytest.approx(sum(ones) / 4)


def test_rate_follows_images_and_the_gradient_is_clipped():
    rates = []
    state = start(optim=AdamW(lr=1.0, warmup=64, clip=1e-3))
    probe = Every(
        16, lambda s, m: rates.append((m["lr"], s.optimiser.param_groups[0]["lr"], s.optimiser.param_groups[1]["lr"]))
    )
    run(state, Clock(96, 16), hooks=[probe])
    assert rates == [(min(1.0, n / 64),) * 3 for n in (16, 32, 48, 64, 80, 96)]
    norm = torch.stack([p.grad.norm() for p in state.model.parameters()]).norm()
    assert float(norm) == pytest.approx(1e-3, rel=1e-2)


def test_the_average_follows_the_weights_step_by_step():
    state = start(ema=EMA(100, 0.5))
    mine, want = copy.deepcopy(state.model), []

    def follow(s, metrics):
        EMA(100, 0.5).update(Pair(mine, s.model), s.images - 16, 16)
        want.append(same(mine.state_dict(), s.average.state_dict()))

    run(state, Clock(96, 16), hooks=[Every(16, follow)])
    assert want == [True] * 6


def test_the_best_average_is_kept_and_patience_ends_the_run():
    scores = iter([5.0, 3.0, 4.0, 3.0, 9.0, 0.0])
    seen = []

    def validate(model):
        assert not model.training
        seen.append(copy.deepcopy(model.state_dict()))
        return next(scores)

    clock = Clock(10_000, 16, validate=32, patience=3)
    state = run(start(), clock, validate=validate)
    assert (state.images, state.best_score, state.best_images, state.stale) == (160, 3.0, 64, 3)
    assert same(state.result().state_dict(), seen[1])
    assert not same(state.average.state_dict(), seen[1])
    assert run(state, clock, validate=validate).images == 160
    assert same(run(start(), Clock(32, 16)).result().state_dict(), seen[0])


@dataclass(frozen=True)
class Broken(Objective):
    """Denoising that goes wrong on one example: in its loss, only in its gradient, or in all losses beside it, which
    then have no gradient.
    """

    example: int
    value: float
    gradient: bool = False
    silent: bool = False

    def loss(self, D, batch, sigma, drawn):
        loss = Denoising().loss(D, batch, sigma, drawn)
        hit = batch.index == self.example
        if self.gradient:
            each = loss.each.clone()
            each[hit] += torch.sqrt(each[hit] - each[hit].detach())  # adds 0, with an infinite slope
            return Loss(each)
        if self.silent:
            return Loss(torch.where(hit.any(), torch.full_like(loss.each, self.value), loss.each))
        return Loss(torch.where(hit, loss.each * 0 + self.value, loss.each))


BAD = [
    Broken(40, float("nan")),
    Broken(40, float("inf")),
    Broken(40, 0.0, gradient=True),
    Broken(40, float("nan"), silent=True),
]
KINDS = ["nan", "inf", "gradient", "silent"]


@pytest.mark.parametrize("micro", [None, 4])
@pytest.mark.parametrize("objective", BAD, ids=KINDS)
def test_a_nonfinite_step_never_reaches_weights_average_or_moments(objective, micro):
    state = start()
    clock = Clock(160, 16, micro=micro)
    with pytest.raises(FloatingPointError, match="step 2 at 32 images"):
        run(state, clock, objective=objective)
    good = run(start(), Clock(32, 16, micro=micro))
    assert same(state.tensors(), good.tensors())
    assert all(bool(t.isfinite().all()) for t in state.tensors().values())


def test_the_error_names_the_example():
    with pytest.raises(FloatingPointError, match=r"loss of example \[40\] is not finite"):
        run(start(), Clock(160, 16), objective=BAD[0])
    with pytest.raises(FloatingPointError, match=r"the gradient \(every loss is finite\)"):
        run(start(), Clock(160, 16), objective=BAD[2])


@pytest.mark.parametrize("objective", BAD, ids=KINDS)
def test_skips_pass_over_so_many_bad_steps_and_no_more(objective):
    metrics = []
    state = run(start(), Clock(80, 16, skips=1), objective=objective, hooks=[Every(80, lambda s, m: metrics.append(m))])
    assert (state.images, state.step, state.skipped) == (80, 5, 1)
    assert all(bool(t.isfinite().all()) for t in state.tensors().values())
    assert metrics[0]["loss"] < float("inf")
    again = (batch for start_at in (32, 32) for batch in [next(batches(16, start_at))])
    with pytest.raises(FloatingPointError):
        run(start(), Clock(80, 16, skips=1), again, objective=objective)


@dataclass(frozen=True)
class Several(Objective):
    """Denoising whose loss is no number on some examples."""

    examples: tuple[int, ...]

    def loss(self, D, batch, sigma, drawn):
        loss = Denoising().loss(D, batch, sigma, drawn)
        return Loss(
            torch.where(torch.isin(batch.index, torch.tensor(self.examples)), loss.each * 0 + math.nan, loss.each)
        )


def test_the_examples_of_all_steps_passed_over_are_named_up_to_so_many(caplog):
    """Steps 1, 2 and 4 are passed over, 6 is not; between them the host does not look."""
    hurt = (20, 21, 40, 70)
    with pytest.raises(FloatingPointError, match=r"step 6 at 96 images: the loss of example \[100\] is not finite"):
        run(start(), Clock(160, 16, skips=3), objective=Several((*hurt, 100)))
    (said,) = (record.getMessage() for record in caplog.records)
    assert said == "3 steps passed over, 0 before: the loss of example [20, 21, 40, 70] is not finite"
    caplog.clear()
    run(start(), Clock(64, 16, skips=2), objective=Several(tuple(range(16, 36))))
    (said,) = (record.getMessage() for record in caplog.records)
    assert said == f"2 steps passed over, 0 before: the loss of example {[*range(16, 32)]} and 4 more is not finite"


@pytest.mark.parametrize("lr", [1e38, 3e38])
def test_a_step_that_leaves_weights_that_are_not_finite_ends_the_run_and_is_never_saved(tmp_path, lr):
    state, seen, kept = start(optim=AdamW(lr=lr)), [], Checkpoints(tmp_path)
    soon = Every(16, lambda s, m: (kept.save(s), seen.append(s.step)))
    with pytest.raises(FloatingPointError, match=r"step \d at \d+ images: the weights are not finite after it.*lower"):
        run(state, Clock(2048, 16), hooks=[soon])
    late = start(optim=AdamW(lr=lr))
    with pytest.raises(FloatingPointError, match=rf"step {state.step} at {state.images} images: the weights"):
        run(late, Clock(2048, 16), hooks=[Every(2048, lambda s, m: seen.append(-1))])
    assert seen == list(range(1, state.step + 1))
    good = kept.latest()
    assert good is None or all(bool(t.isfinite().all()) for t in good[0].values())
    with pytest.raises(FloatingPointError, match=r"model\.net\.\S+ is not finite: it is not saved"):
        kept.save(late)
    with pytest.raises(FloatingPointError, match="is not saved"), Background(kept) as saving:
        saving.save(late)


def test_every_step_has_levels_and_noise_of_its_own():
    seen = []

    @dataclass(frozen=True)
    class Watch(Denoising):
        def loss(self, D, batch, sigma, drawn):
            seen.append((tuple(sigma.tolist()), tuple(drawn["noise"].flatten().tolist())))
            return super().loss(D, batch, sigma, drawn)

    run(start(), Clock(64, 16), objective=Watch())
    assert [len(set(column)) for column in zip(*seen)] == [4, 4]


def test_misuse_is_told():
    with pytest.raises(ValueError, match="let the source repeat"):
        run(start(), Clock(64, 16), [next(batches(16))])
    with pytest.raises(ValueError, match="make them agree"):
        run(start(), Clock(64, 32), batches(16))
    with pytest.raises(ValueError, match="equal share"):
        run(start(), Clock(64, 16), [replace(next(batches(16)).split(12)[0])])
    with pytest.raises(ValueError, match="no validate function"):
        run(start(), Clock(64, 16, validate=16))
    with pytest.raises(FloatingPointError, match="validation at 16 images"):
        run(start(), Clock(64, 16, validate=16), validate=lambda model: float("nan"))
    for wrong in ({"images": 0}, {"batch": 0}, {"micro": 0}, {"patience": 0}, {"validate": 0}):
        with pytest.raises(ValueError, match="at least 1"):
            Clock(**({"images": 1, "batch": 1} | wrong))


@pytest.mark.slow
def test_learning_needs_torch_and_numpy_alone():
    banned = ["ray", "mlflow", "pydantic", "pyarrow", "safetensors", "fsspec", "sklearn", "PIL", "scipy"]
    script = f"""
import sys
sys.modules.update(dict.fromkeys({banned!r}))
sys.path[:0] = [{str(Path(__file__).parent)!r}]
import pipeline.learning.checkpoint
from test_loop_probe import train
train()
""".replace("from test_loop_probe import train\ntrain()", PROBE)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["32", "told"]


PROBE = """
from tiny_backbone import batches, build
from pipeline.diffusion.levels import Stratified
from pipeline.keys import Key
from pipeline.learning.loop import Clock, fit
from pipeline.learning.state import State
from pipeline.objectives.denoising import Denoising
state = fit(State.create(build()), batches(16), Denoising(), Stratified(), Clock(32, 16), Key(0))
print(state.images)
try:
    pipeline.learning.checkpoint.write("/nowhere", {}, {})
except ImportError as error:
    print("told" if "pip install safetensors" in str(error) else error)
"""
