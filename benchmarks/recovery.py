"""Seconds from the SIGKILL of a worker to the next finished step: ours over plain Ray Train, interleaved, once running.

    python benchmarks/recovery.py --repeats 3

Both train the same network on the same random images with two workers on gloo, keep a checkpoint every ten steps, and
lose their second worker in step 25. The plain loop is that of Ray Train's own guide: `prepare_model`, `report` with a
checkpoint, `get_checkpoint`. The controller polls both twice a second; by default it does so every two seconds. The
CPU seconds of the first worker of the second life tell what both do from what else the machine is doing. Where Python
may keep no bytecode, compile the sources before (`python -m compileall pipeline stages`), for Ray's is kept.
"""

from __future__ import annotations

import os
import signal
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from pipeline.backbones import unet
from pipeline.data.records import Examples
from pipeline.diffusion.precond import EDM, Preconditioned
from pipeline.engine import cluster
from pipeline.engine.train import Cadence, train
from pipeline.graph import Context, Scale
from pipeline.keys import Key
from pipeline.learning.course import Course
from pipeline.objectives.denoising import Denoising
from pipeline.objectives.objective import Batch
from pipeline.store import Store
from stages.train import Fit, reader, save

BATCH, STEPS, EVERY, DIES = 32, 40, 10, 25
PRECOND = EDM(0.5)
FIT = Fit(images=STEPS * BATCH, batch=BATCH)


def main(repeats: int = 3) -> None:
    """Print one line a repeat, then the ratio's median and range."""
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    with tempfile.TemporaryDirectory() as folder, cluster.connect():
        ratios, work = [], []
        for repeat in range(repeats):
            seconds, cores = {}, {}
            order = (_ours, _plain) if repeat % 2 == 0 else (_plain, _ours)
            for contender in order:
                place = Path(folder) / f"{repeat}{contender.__name__}"
                place.mkdir()
                contender(place)
                recovered, cores[contender] = map(float, (place / "recovered").read_text().split())
                seconds[contender] = recovered - float((place / "killed").read_text())
            ratios.append(seconds[_ours] / seconds[_plain])
            work.append(cores[_ours] / cores[_plain])
            print(f"ratio of seconds {ratios[-1]:.3f}, of the new worker's CPU seconds {work[-1]:.3f}", flush=True)
    for name, found in {"seconds": ratios, "the new worker's CPU seconds": work}.items():
        print(f"{name}: median {statistics.median(found):.3f}, range {min(found):.3f} to {max(found):.3f}")


def note(place: Path, step: int, rank: int, begun: int) -> None:
    """A step is about to begin: the second worker dies in one; once another life has ended its first, all is well."""
    if step == DIES and rank == 1 and not (place / "killed").exists():
        (place / "killed").write_text(str(time.time()))
        os.kill(os.getpid(), signal.SIGKILL)
    if rank == 0 and step == begun + 1 and (place / "killed").exists() and not (place / "recovered").exists():
        (place / "recovered").write_text(f"{time.time()} {time.process_time()}")


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return Preconditioned.Config((1, 8, 8), unet.Config(width=16), PRECOND).build()


def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (256, 1, 8, 8), dtype=np.uint8)


def course(place: Path, device: torch.device) -> Course:
    inner = reader(Examples(tuple(map(str, range(256))), images()), FIT, 0)

    def batches(start: int, rank: int, world: int) -> Iterator[Batch]:
        for step, batch in enumerate(inner(start, rank, world), start // BATCH):
            note(place, step, rank, start // BATCH)
            yield batch

    state = FIT.state(network().to(device))
    return Course(state, batches, Denoising(PRECOND), FIT.levels, FIT.clock, Key(0))


class quiet:
    """A tracker of nothing."""

    def metrics(self, values: Mapping[str, float], at: int) -> None:
        """Not measured."""

    def picture(self, name: str, png: bytes) -> None:
        """Nothing to see."""

    def card(self, name: str, content: Mapping[str, Any]) -> None:
        """Nothing to say."""

    def warn(self, text: str) -> None:
        """Nothing to say."""


def _ours(place: Path) -> None:
    store = Store(str(place / "store"))
    cadence = Cadence(batch=BATCH, post=EVERY * BATCH, checkpoint=EVERY * BATCH)
    train(partial(course, place), save, Context(store.place / "out", store, Scale(workers=2), quiet()), cadence)


def _plain(place: Path) -> None:
    import ray.train
    from ray.train.torch import TorchTrainer

    TorchTrainer(
        plain,
        train_loop_config={"place": place},
        scaling_config=ray.train.ScalingConfig(num_workers=2),
        run_config=ray.train.RunConfig(
            name="plain",
            storage_path=str(place),
            failure_config=ray.train.FailureConfig(max_failures=3),
            logging_config=ray.train.LoggingConfig(log_level="ERROR"),
        ),
    ).fit()


def plain(how: dict[str, Any]) -> None:
    """What Ray Train's guide would have one write."""
    import ray.train
    import ray.train.torch

    rank = ray.train.get_context().get_world_rank()
    model, data = network(), torch.from_numpy(images()).float() / 127.5 - 1
    optimiser, begun = torch.optim.AdamW(model.parameters(), lr=1e-3), 0
    if (found := ray.train.get_checkpoint()) is not None:
        with found.as_directory() as folder:
            state = torch.load(f"{folder}/state.pt", weights_only=True)
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        begun = state["step"]
    wrapped = ray.train.torch.prepare_model(model)
    for step in range(begun, STEPS):
        note(how["place"], step, rank, begun)
        x = data[torch.randint(len(data), (BATCH // 2,))]
        sigma = (torch.randn(len(x)) * 1.2 - 1.2).exp()
        noisy = x + sigma[:, None, None, None] * torch.randn_like(x)
        loss = (wrapped(noisy, sigma) - x).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if (step + 1) % EVERY == 0:
            with tempfile.TemporaryDirectory() as folder:
                kept = None
                if rank == 0:
                    state = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "step": step + 1}
                    torch.save(state, f"{folder}/state.pt")
                    kept = ray.train.Checkpoint.from_directory(folder)
                ray.train.report({"loss": float(loss)}, checkpoint=kept)


if __name__ == "__main__":
    tyro.cli(main)
