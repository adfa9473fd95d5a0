"""How long training stands still for a checkpoint: saved in place, and by a thread beside it.

    python benchmarks/checkpoints.py --repeats 3

Both runs train the same U-Net on noise and save every `every` steps into a temporary folder, interleaved with a run
that saves nothing. A stall is the time inside the hook, as a share of the run's; the last write, which nothing follows,
is waited for outside. On a CPU the thread takes its time from the same cores; what that costs is the last column.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator

import torch
import tyro

from pipeline.backbones import unet
from pipeline.diffusion.levels import Stratified
from pipeline.diffusion.precond import Preconditioned
from pipeline.keys import Key
from pipeline.learning.background import Background
from pipeline.learning.checkpoint import Checkpoints
from pipeline.learning.loop import Clock, Every, fit
from pipeline.learning.state import State
from pipeline.objectives.denoising import Denoising
from pipeline.objectives.objective import Batch


def main(repeats: int = 3, steps: int = 40, every: int = 20, batch: int = 32, width: int = 64) -> None:
    """Print a line a repeat and way of saving, then the medians."""
    torch.set_num_threads(1)
    found: dict[str, list[float]] = {"in place": [], "beside": []}
    for _ in range(repeats):
        plain, _, size = _run(steps, every, batch, width, None)
        for name in found:
            seconds, stalled, size = _run(steps, every, batch, width, name)
            found[name].append(100 * stalled / seconds)
            print(
                f"{name:<9} {size / 2**20:6.1f} MiB  stalled {found[name][-1]:5.2f}%  slower {seconds / plain - 1:+.1%}"
            )
    print("median stall: " + ", ".join(f"{name} {statistics.median(share):.2f}%" for name, share in found.items()))


def _run(steps: int, every: int, batch: int, width: int, how: str | None) -> tuple[float, float, int]:
    torch.manual_seed(0)
    state = State.create(Preconditioned.Config((1, 16, 16), unet.Config(width=width)).build())
    stalled = 0.0

    def timed(save: Callable) -> Callable:
        def hook(state: State, metrics: dict[str, float]) -> None:
            nonlocal stalled
            start = time.perf_counter()
            save(state)
            stalled += time.perf_counter() - start

        return hook

    def noise() -> Iterator[Batch]:
        x = torch.rand(batch, 1, 16, 16) * 2 - 1
        while True:
            yield Batch(x)

    with tempfile.TemporaryDirectory() as folder, Background(Checkpoints(folder)) as saving:
        saves = {None: lambda state: None, "in place": saving.kept.save, "beside": saving.save}
        hooks = [Every(every * batch, timed(saves[how]))]
        start = time.perf_counter()
        fit(state, noise(), Denoising(), Stratified(), Clock(steps * batch, batch), Key(0), hooks)
        seconds = time.perf_counter() - start
    return seconds, stalled, sum(t.numel() * t.element_size() for t in state.tensors().values())


if __name__ == "__main__":
    tyro.cli(main)
