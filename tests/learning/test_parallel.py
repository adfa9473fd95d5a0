"""Two real processes take the steps of one, and decide alike about a step that only one of them saw go wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

WORKER = """
import sys
sys.path[:0] = [sys.argv[4]]
import torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from test_loop import Broken, batches, run, start
from pipeline.learning.loop import Clock

rank, world, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
dist.init_process_group("gloo", init_method=f"file://{folder}/meet{world}", rank=rank, world_size=world)
state = start()
clock = Clock(96, 16, micro=8 // world, skips=1)
run(state, clock, batches(16, rank=rank, world=world), objective=Broken(40, float("nan")),
    parallel=DistributedDataParallel(state.model))
torch.save((state.tensors(), state.meta()), f"{folder}/{world}-{rank}.pt")
dist.barrier()
"""


@pytest.mark.slow
def test_two_processes_are_one(tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    here = str(Path(__file__).parent)
    for world in (1, 2):
        command = [sys.executable, str(script)]
        ranks = [
            subprocess.Popen([*command, str(rank), str(world), str(tmp_path), here], env=environment())
            for rank in range(world)
        ]
        assert [process.wait(timeout=120) for process in ranks] == [0] * world
    (one, meta), (first, meta0), (second, meta1) = (torch.load(tmp_path / f"{n}.pt") for n in ("1-0", "2-0", "2-1"))
    assert meta == meta0 == meta1
    assert meta["skipped"] == 1
    for name in one:
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], one[name], atol=1e-4, rtol=1e-3)


def environment():
    root = str(Path(__file__).parents[2])
    return os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
