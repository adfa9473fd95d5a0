"""Machines that go while training, one drained and one lost without a word: the end is that of a run left in peace."""

from __future__ import annotations

import json

import courses
import numpy as np
import pytest
import torch

from pipeline.learning.loop import Every
from pipeline.store import Store

pytestmark = [pytest.mark.ray, pytest.mark.slow]
CODE = r"""
import json, os, sys, threading, time
from functools import partial
from pathlib import Path

sys.path.insert(0, "engine")
os.environ["PYTHONPATH"] += os.pathsep + os.path.abspath("engine")
os.environ.pop("RAY_ADDRESS", None)
from pipeline.engine import cluster
os.environ.update(cluster.QUIET | cluster.LOCAL | {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "1"})
import ray
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster
import courses
from pipeline.engine.train import Cadence, train
from pipeline.graph import Context, Scale
from pipeline.store import Store

losses, folder, size = {}, Path(sys.argv[1]), {"num_cpus": 3, "object_store_memory": 1 << 27}

class Seen:
    def metrics(self, values, at):
        losses[at] = values["loss"]
    def warn(self, text):
        pass
    def picture(self, name, png):
        pass

def until(name, training):
    while training.is_alive() and not (folder / name).exists():
        time.sleep(0.05)

def go(training):
    "The second machine is drained, a third being there by then, which is lost afterwards."
    until("drain", training)
    third = machines.add_node(**size)
    GcsClient(address=machines.gcs_address).drain_node(second.node_id, 2, "taken", int(1000 * time.time()) + 900_000)
    until("lose", training)
    machines.remove_node(third, allow_graceful=False)

quick = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 4}
machines = Cluster(True, head_node_args={**size, "include_dashboard": False, "_system_config": quick})
try:
    second = machines.add_node(**size)
    ray.init(address=machines.address, logging_level="ERROR", log_to_driver=False)
    with cluster.connect():
        while ray.cluster_resources().get("CPU") != 6:
            time.sleep(0.05)
        at = Context(Store(str(folder)).place / "out", Store(str(folder)), Scale(cpus=2, most=2), Seen())
        make, cadence = partial(courses.watched, folder=str(folder)), Cadence(batch=16, post=64, checkpoint=96)
        training = threading.Thread(target=train, args=(make, courses.weights, at, cadence))
        training.start()
        go(training)
        training.join()
        (folder / "losses.json").write_text(json.dumps(losses))
finally:
    ray.shutdown()
    machines.shutdown()
"""


def test_a_drained_and_a_lost_machine_change_neither_loss_nor_weights(background, tmp_path):
    child = background(CODE, str(tmp_path))
    want, course = {}, courses.undropped(torch.device("cpu"))
    hooks = [Every(64, lambda state, found: want.update({state.images: found["loss"]}))]
    alone = courses.weights(course.run([*hooks, Every(96, lambda state, found: None)]))["weights.bin"]
    _, said = child.communicate(timeout=900)
    assert child.returncode == 0, said
    worlds = [line for line in said.splitlines() if line.startswith("training with")]
    assert worlds == [f"training with {n} of up to 2 workers" for n in (2, 2, 1)], said
    assert "the workers were told to end" in said, "the drained machine was lost as well"
    found = json.loads((tmp_path / "losses.json").read_text())
    # The mean that is posted next after the workers were told to end is of fewer steps.
    got = {int(at): loss for at, loss in found.items() if int(at) >= 384}
    assert got == pytest.approx({at: loss for at, loss in want.items() if at >= 384}, rel=1e-6)
    one, gone = (
        np.frombuffer(data, np.float32) for data in (alone, Store(str(tmp_path)).place.read("out/weights.bin"))
    )
    assert np.linalg.norm(gone - one) <= 1e-6 * np.linalg.norm(one)
