"""How fast the loop trains and draws, and in how much memory; with torch and this project's loop alone.

    PYTHONPATH=. python benchmarks/training.py --parts ladder plain mfu sampling memory

On a GPU the network is of the size of DDPM++, on images of 3x32x32 in batches of 512, and the GPU itself tells how long
each step took. On a CPU all is small, on one thread, times are those of the processor, which others may use as well,
only the ratios mean something, and TF32 is no rung. The first steps are left out; what is compared takes turns in one
process, loops step by step. Tables are Markdown, of medians (and ranges).

ladder    what each option of the loop gains over those before it
plain     our loop over a plain PyTorch loop of the same network: AdamW and EMA as PyTorch has them by default, and with
          the same fused kernels as ours; on a GPU both in bfloat16, and ours with all the ladder's options
mfu       operations of a training step (three evaluations, pipeline/backbones/count.py) over the measured peak of a
          matrix product in bfloat16
sampling  images a second at 35 evaluations of the network
memory    bytes of the training state, and what a step keeps for its backward pass: an image's, and once for all images
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from pipeline.backbones.count import count
from pipeline.backbones.presets import Preset
from pipeline.diffusion.levels import LogNormal
from pipeline.diffusion.precond import EDM, Preconditioned
from pipeline.diffusion.sample import Heun, samples
from pipeline.keys import Key
from pipeline.learning.ema import EMA
from pipeline.learning.loop import Clock, fit
from pipeline.learning.optim import AdamW
from pipeline.learning.speed import Speed
from pipeline.learning.state import State
from pipeline.learning.stopwatch import Stopwatch
from pipeline.objectives.denoising import Denoising
from pipeline.objectives.objective import Batch

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
CLOCK = time.process_time  # of a CPU, which others may use as well


@dataclass(frozen=True)
class Size:
    """What is measured: a network, images (C, H, W), how many at once, how many steps and how often."""

    unet: Preset
    dit: Preset
    shape: tuple[int, ...]
    batch: int
    steps: int
    repeats: int
    presets: tuple[Preset, ...] = ()

    def state(self, network: Preset, bf16: bool = False) -> State:
        """The beginning of a run."""
        torch.manual_seed(0)
        return State.create(Preconditioned.Config(self.shape, network.value, bf16=bf16).build().to(DEVICE))

    def images(self) -> Iterator[Batch]:
        """Endless batches of packed pixels, a few different ones."""
        pool = torch.randint(0, 256, (4, self.batch, *self.shape), dtype=torch.uint8)
        while True:
            yield from map(Batch, pool)

    def rate(self, seconds: list[float]) -> float:
        """Images a second."""
        return self.batch / statistics.median(seconds)

    @property
    def counted(self) -> int:
        """The steps whose time counts."""
        return self.steps - self.steps // 4


def ours(size: Size, state: State, speed: Speed) -> list[float]:
    """Seconds a step of our loop, from where the state stands."""
    watch = Stopwatch(DEVICE, CLOCK)
    clock = Clock(state.images + size.steps * size.batch, size.batch)
    fit(state, watch.over(size.images()), Denoising(), LogNormal(), clock, Key(0), speed=speed)
    watch.mark()
    return watch.last(size.counted)


class Plain:
    """A step of what one writes who needs nothing but a trained network."""

    def __init__(self, state: State, fused: bool):
        self.state, self.fused = state, fused
        self.weights, self.kept = list(state.model.train().parameters()), list(state.average.parameters())
        options, optim = {"fused": True} if fused else {}, state.optim
        self.optimiser = torch.optim.AdamW(self.weights, optim.lr, optim.betas, optim.eps, 0.0, **options)

    def __call__(self, batch: Batch) -> None:
        state, levels, precond = self.state, LogNormal(), EDM()
        x0 = batch.x.to(DEVICE).float() / 127.5 - 1
        sigma = (levels.mean + levels.std * torch.randn(len(x0), device=DEVICE)).exp()
        x = x0 + sigma[:, None, None, None] * torch.randn_like(x0)
        loss = (precond.weight(sigma) * ((state.model(x, sigma) - x0) ** 2).flatten(1).mean(1)).mean()
        self.optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.weights, state.optim.clip or math.inf)
        self.optimiser.step()
        state.images += len(x0)
        share = 1 - state.ema.beta(state.images, len(x0))
        with torch.no_grad():
            if self.fused:
                torch._foreach_lerp_(self.kept, self.weights, share)
            for old, new in () if self.fused else zip(self.kept, self.weights):
                old.lerp_(new, share)


class Unfused(torch.optim.AdamW):
    """AdamW as PyTorch has it by default: unlike the fused one, it takes every step."""

    found_inf = property(lambda self: None, lambda self, value: None)


def part_ladder(size: Size) -> None:
    rungs = [("fp32", False, Speed(), False)]
    rungs += [("tf32", True, Speed(), False)] if GPU else []
    options: dict[str, bool] = {}
    for name in ("bf16", "channels_last", "compile"):
        options[name] = True
        rungs.append((name.replace("_", "-"), GPU, Speed(**options), False))
    rungs.append(("fused", GPU, Speed(**options), True))
    found: dict[str, list[float]] = {name: [] for name, *_ in rungs}
    for _ in range(size.repeats):
        for name, tf32, speed, fused in rungs:
            torch.set_float32_matmul_precision("high" if tf32 else "highest")
            torch.backends.cudnn.allow_tf32 = tf32
            state = size.state(size.unet)
            if not fused:
                state.optimiser = Unfused(state.optimiser.param_groups, fused=False)
            found[name].append(size.rate(ours(size, state, speed)))
    rows, names = [], list(found)
    for before, name in zip([names[0], *names], names):
        gains = [[b / a for a, b in zip(found[of], found[name])] for of in (before, names[0])]
        rows.append([name, _number(found[name]), *map(_ratio, gains)])
    _table(f"{_of(size, size.unet)}, rung", "images/s", "over the one before", "over fp32", rows=rows)


def part_plain(size: Size) -> None:
    speed = Speed(bf16=True, channels_last=True, compile=True) if GPU else Speed()
    state, names = size.state(size.unet), ["plain", "plain, fused", "ours"]
    rivals = [Plain(size.state(size.unet, GPU), fused) for fused in (False, True)]
    found: list[tuple[float, ...]] = []  # median seconds of each in a repeat
    for _ in range(size.repeats):
        watch = Stopwatch(DEVICE, CLOCK)

        def turns(watch: Stopwatch = watch) -> Iterator[Batch]:
            for batch in watch.over(size.images()):
                for rival in rivals:
                    rival(batch)
                    watch.mark()
                yield batch

        clock = Clock(state.images + size.steps * size.batch, size.batch)
        fit(state, turns(), Denoising(), LogNormal(), clock, Key(0), speed=speed)
        watch.mark()
        seconds = watch.last(3 * size.counted)
        found.append(tuple(statistics.median(seconds[i::3]) for i in range(3)))
    each = list(zip(*found))
    rows = []
    for name, times in zip(names, each):
        rows.append([name, _number([size.batch / t for t in times]), _ratio([a / b for a, b in zip(times, each[-1])])])
    _table(f"{_of(size, size.unet)}, loop", "images/s", "ours over it", rows=rows)


def part_mfu(size: Size) -> None:
    n = 8192 if GPU else 1024
    a, watch = torch.randn(n, n, device=DEVICE, dtype=torch.bfloat16), Stopwatch(DEVICE, CLOCK)
    for _ in range(20):
        watch.mark()
        a @ a
    watch.mark()
    peak = 2 * n**3 / statistics.median(watch.last(15))
    rows = []
    for network in (size.dit, size.unet):
        flops = 3 * count(network.value, size.shape, *Preconditioned.Config(size.shape, network.value).channels).flops
        speed = Speed(bf16=True, channels_last=network is size.unet, compile=GPU)
        state = size.state(network)
        rates = [size.rate(ours(size, state, speed)) for _ in range(size.repeats)]
        share = [100 * rate * flops / peak for rate in rates]
        rows.append([_of(size, network), f"{flops / 1e9:.3g}", _number(rates), f"{statistics.median(share):.1f}%"])
    print(f"peak of a {n}x{n} product in bfloat16: {peak / 1e12:.4g} TFLOP/s\n")
    _table("network", "GFLOP an image and step", "images/s", "of the peak", rows=rows)


def part_sampling(size: Size) -> None:
    rows = []
    for name, bf16 in (("fp32 (TF32 on a GPU)", False), ("bf16", True)):
        torch.set_float32_matmul_precision("high")
        D, rates = size.state(size.unet, bf16).average, []
        for repeat in range(size.repeats + 1):
            watch = Stopwatch(DEVICE, CLOCK)
            watch.mark()
            samples(D, Heun(steps=18), size.shape, range(size.batch), repeat, size.batch, device=DEVICE)
            watch.mark()
            rates.append(size.rate(watch.last(1)))
        rows.append([name, _number(rates[1:])])
    _table(f"{_of(size, size.unet)}, 35 evaluations", "images/s", rows=rows)


def part_memory(size: Size) -> None:
    smallest = size.state(Preset.UNET_1M)
    ours(replace(size, batch=2, steps=1), smallest, Speed())
    parameters = sum(p.numel() for p in smallest.model.parameters())
    state = sum(tensor.nbytes for tensor in smallest.tensors().values()) / parameters
    gradients = sum(p.grad.nbytes for p in smallest.model.parameters() if p.grad is not None) / parameters
    print(f"training state: {state:.2f} bytes a parameter, and {gradients:.2f} for gradients\n")
    ways = {"fp32": Speed(), "bf16": Speed(bf16=True), "bf16, checkpointing": Speed(bf16=True, checkpointing=True)}

    def rows() -> Iterator[list[str]]:
        for network in size.presets:
            model = Preconditioned.Config(size.shape, network.value).build().to(DEVICE)
            begun = State(model, model, AdamW().build(model), AdamW(), EMA())  # without a copy of the largest ones
            parameters = sum(p.numel() for p in model.parameters())
            row = [network.name, f"{parameters / 1e6:.2f}", f"{(state + gradients) * parameters / 2**20:,.0f}"]
            for speed in ways.values():
                with speed.applied(begun) as called:
                    one, two = (kept(called, model, size.shape, rows) for rows in (1, 2))
                row.append(f"{(two - one) / 2**20:,.1f} + {(2 * one - two) / 2**20:,.1f}")
            yield row

    head = [f"{name}: MiB an image + once" for name in ways]
    shape = "x".join(map(str, size.shape))
    _table(f"preset on {shape}", "10⁶ parameters", "state and gradients MiB", *head, rows=rows())


def kept(model: nn.Module, owner: nn.Module, shape: tuple[int, ...], rows: int) -> int:
    """Bytes that a loss of so many images keeps for its backward pass, without weights and buffers."""
    owned = {tensor.untyped_storage().data_ptr() for tensor in (*owner.parameters(), *owner.buffers())}
    found: dict[int, Tensor] = {}  # they stay alive, or another would get the same address

    def pack(tensor: Tensor) -> Tensor:
        found[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    model.train()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        x = torch.zeros(rows, *shape, device=DEVICE)
        loss = Denoising()(model, Batch(x), torch.ones(rows, device=DEVICE), Key(0))
    size = sum(tensor.untyped_storage().nbytes() for place, tensor in found.items() if place not in owned)
    del loss
    return size


def _of(size: Size, network: Preset) -> str:
    return f"{network.name} on {'x'.join(map(str, size.shape))}, batch {size.batch}"


def _number(values: list[float]) -> str:
    return f"{statistics.median(values):,.4g} ({min(values):,.4g} to {max(values):,.4g})"


def _ratio(values: list[float]) -> str:
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def _table(*head: str, rows: Iterable[list[str]]) -> None:
    for row in itertools.chain([list(head), ["---"] * len(head)], rows):
        print(f"| {' | '.join(row)} |", flush=True)
    print()


PARTS = {name: globals()[f"part_{name}"] for name in ("ladder", "plain", "mfu", "sampling", "memory")}


def main() -> None:
    """Print the tables of the parts asked for."""
    read = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    read.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    read.add_argument("--unet", type=Preset.__getitem__, default=Preset.UNET_55M if GPU else Preset.UNET_1M)
    read.add_argument("--dit", type=Preset.__getitem__, default=Preset.DIT_130M if GPU else Preset.DIT_1M)
    read.add_argument("--side", type=int, default=32)
    read.add_argument("--batch", type=int, default=512 if GPU else 8)
    read.add_argument("--steps", type=int, default=60 if GPU else 16)
    read.add_argument("--repeats", type=int, default=3 if GPU else 7)
    read.add_argument("--presets", nargs="+", type=Preset.__getitem__, default=list(Preset), help="of part memory")
    asked = read.parse_args()
    torch.set_num_threads(torch.get_num_threads() if GPU else 1)
    shape = (3, asked.side, asked.side)
    size = Size(asked.unet, asked.dit, shape, asked.batch, asked.steps, asked.repeats, tuple(asked.presets))
    print(f"torch {torch.__version__} on {torch.cuda.get_device_name() if GPU else 'one thread of a CPU'}\n")
    for name in asked.parts:
        PARTS[name](size)


if __name__ == "__main__":
    main()
