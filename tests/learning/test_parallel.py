"""Two real processes take the steps of one, decide alike about what only one of them saw go wrong, and say the same."""

from __future__ import annotations

import json
import math

import pytest
import torch
from processes import together
from test_loop import Broken, Several, batches, run, start

from pipeline.learning.loop import Clock, Every, When

WORKER = """
import json, logging, sys
from dataclasses import replace
import torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from test_loop import batches, run, start
from pipeline.learning.loop import Clock
from test_parallel import BROKEN, CLOCK, SILENT, hooks, named

rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
said = []
logging.getLogger("kintsugi").addHandler(type("Said", (logging.Handler,), {"emit": lambda s, r: said.append(r)})())
state, seen, ended = start(), [], ""
mine = hooks(seen)
try:  # the second process has no hook that comes by images: it hears of the first one's
    run(state, replace(CLOCK, micro=4), batches(16, rank=rank, world=2), objective=BROKEN, names=named,
        hooks=mine if rank == 0 else mine[1:], parallel=DistributedDataParallel(state.model))
except FloatingPointError as error:
    ended = str(error)
late = start()
try:  # every loss of one process is a constant, which has no gradient
    run(late, Clock(160, 16), batches(16, rank=rank, world=2), objective=SILENT, names=named,
        parallel=DistributedDataParallel(late.model))
except FloatingPointError as error:
    ended += "; " + str(error)
torch.save((state.tensors(), state.meta()), f"{folder}/{rank}.pt")
print(json.dumps([seen, [record.getMessage() for record in said], ended]))
dist.barrier()
"""
CLOCK, BROKEN = Clock(160, 16, micro=8, skips=2), Several((19, 42, 45, 127))  # steps 1, 2, 7: one row of the first half
SILENT = Broken(75, math.nan, silent=True)  # step 4, of the second process


def hooks(seen):
    """Notes of what is posted every 48 images, and of every step that ends at a multiple of 64."""
    steps = iter(range(1, 99))
    return [
        Every(48, lambda state, metrics: seen.append(metrics)),
        When(lambda: next(steps) % 4 == 0, lambda state: seen.append(state.images)),
    ]


def named(index):
    """What messages call examples."""
    return [f"image-{i}" for i in index]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """(tensors, numbers, what was seen, what was said, how it ended) of each of two processes."""
    folder = tmp_path_factory.mktemp("two")
    script = folder / "worker.py"
    script.write_text(WORKER)
    told = together(2, script, folder)
    return [(*torch.load(folder / f"{rank}.pt"), *json.loads(text)) for rank, text in enumerate(told)]


@pytest.fixture(scope="module")
def one():
    """The same of one process."""
    state, seen = start(), []
    with pytest.raises(FloatingPointError) as ended:
        run(state, CLOCK, batches(16), objective=BROKEN, hooks=hooks(seen), names=named)
    return state.tensors(), state.meta(), seen, [], str(ended.value)


@pytest.mark.slow
def test_two_processes_are_one(one, two):
    (first, meta0, *_), (second, meta1, *_) = two
    assert one[1] == meta0 == meta1
    assert one[1]["skipped"] == 3
    for name in one[0]:
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], one[0][name], atol=1e-4, rtol=1e-3)


@pytest.mark.slow
def test_what_is_posted_is_the_mean_over_all_rows_whoever_posts_it(one, two):
    assert [m if isinstance(m, int) else m["images"] for m in two[0][2]] == [48, 64, 96]
    assert two[1][2] == [64]
    for mine, both in zip(one[2], two[0][2], strict=True):
        assert both == pytest.approx(mine, rel=1e-6)


@pytest.mark.slow
def test_the_examples_are_named_by_all_whichever_process_had_them(one, two):
    said = ["2 steps passed over, 0 before: the loss of example ['image-19', 'image-42', 'image-45'] is not finite"]
    assert one[4].startswith("step 7 at 112 images: the loss of example ['image-127'] is not finite")
    assert [part[3] for part in two] == [said] * 2
    assert [part[4].partition("; ")[0] for part in two] == [one[4]] * 2


@pytest.mark.slow
def test_a_loss_without_gradient_that_is_no_number_stops_both(two):
    for part in two:
        assert part[4].partition("; ")[2].startswith("step 4 at 64 images: the loss of example ['image-72', 'image-73'")
