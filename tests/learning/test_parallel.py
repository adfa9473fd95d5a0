"""Two real processes take the steps of one, and decide alike about a step that only one of them saw go wrong."""

from __future__ import annotations

import pytest
import torch
from processes import together
from test_loop import Broken, batches, run, start

from pipeline.learning.loop import Clock

WORKER = """
import sys
from dataclasses import replace
import torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from test_loop import batches, run, start
from test_parallel import BROKEN, CLOCK

rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
state = start()
run(state, replace(CLOCK, micro=4), batches(16, rank=rank, world=2), objective=BROKEN,
    parallel=DistributedDataParallel(state.model))
torch.save((state.tensors(), state.meta()), f"{folder}/{rank}.pt")
dist.barrier()
"""
CLOCK, BROKEN = Clock(96, 16, micro=8, skips=1), Broken(40, float("nan"))


@pytest.mark.slow
def test_two_processes_are_one(tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    together(2, script, tmp_path)
    state = start()
    run(state, CLOCK, batches(16), objective=BROKEN)
    one, meta = state.tensors(), state.meta()
    (first, meta0), (second, meta1) = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert meta == meta0 == meta1
    assert meta["skipped"] == 1
    for name in one:
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], one[name], atol=1e-4, rtol=1e-3)
