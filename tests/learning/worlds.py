"""One of four processes, which train the same course as worlds of 4, 3, 2 and 1 and print what each world saw.

python worlds.py RANK FOLDER
"""

from __future__ import annotations

import json
import sys

import numpy as np
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from pipeline.backbones import unet
from pipeline.data.reader import InMemory
from pipeline.data.records import Examples
from pipeline.diffusion.levels import Stratified
from pipeline.diffusion.precond import EDM, Preconditioned
from pipeline.keys import Key
from pipeline.learning.course import Course
from pipeline.learning.loop import Clock, Every
from pipeline.learning.notice import Agreed
from pipeline.learning.optim import AdamW
from pipeline.learning.state import State
from pipeline.objectives.denoising import Denoising
from pipeline.objectives.objective import Batch

BATCH, STEPS = 12, 24


def course(log):
    pixels = np.random.default_rng(0).integers(0, 256, (50, 1, 8, 8), dtype=np.uint8)
    rows = InMemory(Examples(tuple(map(str, range(50))), pixels))

    def stream(start, rank, world):
        for part in rows.batches(BATCH, 3, start, rank, world):
            log.append(part.index.tolist())
            yield Batch(part.x(), index=torch.from_numpy(part.index), offset=rank * BATCH // world, total=BATCH)

    precond = EDM(0.5)
    torch.manual_seed(0)
    model = Preconditioned.Config((1, 8, 8), unet.Config(width=8, dropout=0.0), precond).build()
    state = State.create(model, AdamW(lr=1e-3))
    return Course(state, stream, Denoising(precond), Stratified(), Clock(STEPS * BATCH, BATCH), Key(1))


def trained(rank, world, group):
    """(rows of each step, mean losses of each step) of this rank."""
    log, losses = [], []
    run = course(log)
    parallel = DistributedDataParallel(run.state.model, process_group=group) if world > 1 else None
    run.run([Every(BATCH, lambda state, said: losses.append(said["loss"]))], rank, world, parallel)
    return log[:STEPS], losses


def heard(rank):
    """After how many steps each of the processes knew that one of them, each in its turn, had been told in step 4."""
    found = []
    for told in range(4):
        steps = 1
        agreed = Agreed(lambda told=told, at=lambda: steps: rank == told and at() >= 4)
        while not agreed():
            steps += 1
        found.append(steps)
    return found


def main():
    rank, folder = int(sys.argv[1]), sys.argv[2]
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=4)
    said = {"heard": heard(rank)}
    for world in (4, 3, 2, 1):
        group = dist.new_group(list(range(world)))
        if rank < world:
            said[str(world)] = trained(rank, world, group)
    print(json.dumps(said))
    dist.barrier()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
