"""One of two processes, which train a course divided among them, on from each other's checkpoints and back.

python divided.py RANK FOLDER
"""

from __future__ import annotations

import dataclasses
import json
import sys

import torch
import torch.distributed as dist
from worlds import BATCH, course

from pipeline.backbones import adm, mlp
from pipeline.backbones.magnitude import Preserving
from pipeline.diffusion.precond import EDM, Preconditioned
from pipeline.learning.checkpoint import Checkpoints
from pipeline.learning.ema import EMA
from pipeline.learning.loop import Clock, Every
from pipeline.learning.optim import AdamW
from pipeline.learning.posthoc import PostHoc
from pipeline.learning.speed import Speed
from pipeline.learning.state import State
from pipeline.learning.weighting import LevelWeight

SMALL = {"width": 8, "multipliers": (1, 2), "blocks": 1, "attention": (1,), "head": 8, "embedding": 12}
NETWORKS = {"mlp": mlp.Config(width=32, blocks=2, dropout=0.0), "preserving": adm.Config(**SMALL, style=Preserving())}
STEPS, HALF = 4, 2


def begun(name, steps=STEPS, **clock):
    run = course([])
    torch.manual_seed(0)
    model = Preconditioned.Config((1, 8, 8), NETWORKS[name], EDM(0.5)).build()
    run.state = State.create(model, AdamW(lr=3e-3, clip=0.5), EMA(100.0), PostHoc(), LevelWeight())
    run.clock = Clock(steps * BATCH, BATCH, **clock)
    return run


def trained(run, rank, world, speed=Speed(), micro=None):
    """(the mean loss on this rank, the gradient's norm) of each step, and every tensor of the run at its end."""
    losses = []
    parallel = run.state.model if world > 1 else None
    hook = Every(BATCH, lambda state, said: losses.append((said["loss"], said["gradient"])))
    run.run([hook], rank, world, parallel, speed, micro)
    return losses, {name: tensor.clone() for name, tensor in run.state.tensors().items()}


def apart(one, two):
    """The largest difference between two runs' tensors, as a share of each tensor's largest number."""
    assert one.keys() == two.keys()
    return max(float((one[n] - two[n]).abs().max() / two[n].abs().max().clamp_min(1e-3)) for n in one)


def compared(name, rank):
    """What the test is to know of one network, and every tensor of its divided run."""
    alone_losses, alone = trained(begun(name), 0, 1)
    run = begun(name)
    run.state.divide()
    parts = [p.to_local().numel() for p in run.state.model.parameters()]
    said = {"share": sum(parts) / sum(p.numel() for p in run.state.model.parameters())}
    said["losses"], together = trained(run, rank, 2)
    said["alone"], said["apart"] = alone_losses, apart(together, alone)
    result = run.state.result()
    said["plain"] = all(type(p) is torch.nn.Parameter for p in result.parameters())
    average = {name.removeprefix("average."): t for name, t in together.items() if name.startswith("average.")}
    said["result"] = all(torch.equal(average[name], tensor) for name, tensor in result.state_dict().items())
    return said, together, alone


def continued(name, rank, folder, together, alone):
    """The same from a checkpoint half way, divided and not; and by small pieces, whose blocks are computed twice."""
    half = begun(name, HALF)
    half.state.divide()
    trained(half, rank, 2)
    kept = Checkpoints(f"{folder}/{rank}")
    kept.save(half.state)
    run = begun(name)
    run.state.divide()
    kept.restore(run.state)
    _, resumed = trained(run, rank, 2)
    undivided = begun(name)
    kept.restore(undivided.state)
    run = begun(name)
    run.state.divide()
    pieces = trained(run, rank, 2, Speed(checkpointing=True), micro=2)[1]
    return {
        "resumed": all(torch.equal(resumed[n], together[n]) for n in together),
        "undivided": apart(trained(undivided, 0, 1)[1], alone),
        "pieces": apart(pieces, alone),
    }


def rolled_back(rank, divided):
    """Where a run stands that met a bad batch on one rank only."""
    run = begun("mlp", rollbacks=1, anchor=BATCH)
    if divided:
        run.state.divide()
    batches, world = run.batches, 2 if divided else 1

    def spoilt(start, rank, world):
        for k, batch in enumerate(batches(start, rank, world)):
            bad = start + k * BATCH == 2 * BATCH and rank == world - 1
            yield dataclasses.replace(batch, x=batch.x * float("nan")) if bad else batch

    run.batches = spoilt
    _, tensors = trained(run, rank if divided else 0, world)
    return run.state.rollbacks, tensors


def main():
    rank, folder = int(sys.argv[1]), sys.argv[2]
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    said, runs = {}, {}
    for name in NETWORKS:
        said[name], *runs[name] = compared(name, rank)
    said["continued"] = continued("mlp", rank, folder, *runs["mlp"])
    (times, together), (_, alone) = rolled_back(rank, True), rolled_back(rank, False)
    said["rolled back"] = [times, apart(together, alone)]
    print(json.dumps(said))
    dist.barrier()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
