"""Machines that are not alike: who needs no device keeps off those that have some, and those that go change nothing."""

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
import contextlib, json, os, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

sys.path.insert(0, "engine")
os.environ["PYTHONPATH"] += os.pathsep + os.path.abspath("engine")
os.environ["IMAGINED_DEVICES"] = "1"
os.environ.pop("RAY_ADDRESS", None)
from pipeline.engine import cluster
os.environ.update(cluster.QUIET | cluster.LOCAL | {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "1"})
import ray
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster
from ray.train.torch import TorchConfig
from ray.util.placement_group import placement_group, placement_group_table, remove_placement_group
import courses
from pipeline import graph
from pipeline.engine import machines, oversee
from pipeline.engine.tasks import each
from pipeline.engine.train import Cadence, train
from pipeline.graph import Context, Scale, Stage, Step, step
from pipeline.store import Store

# Devices that are none exchange nothing by NCCL.
oversee.Trainer = partial(oversee.Trainer, torch_config=TorchConfig(backend="gloo"))
losses, folder, found = {}, Path(sys.argv[1]), {}
size = {"num_cpus": 3, "object_store_memory": 1 << 27}

class Seen:
    def metrics(self, values, at):
        if "loss" in values:
            losses[at] = values["loss"]
    def warn(self, text):
        pass
    def picture(self, name, png):
        pass

@dataclass(frozen=True)
class Learn(Stage):
    def run(self, at):
        make, cadence = partial(courses.watched, folder=str(folder)), Cadence(batch=16, post=64, checkpoint=96)
        train(make, courses.weights, at, cadence)

@dataclass(frozen=True)
class Prepare(Stage):
    "What needs no device, done while the other trains, which has left a core free on each of its machines."
    def run(self, at):
        until("drain")
        found["items"] = [*each(courses.dwell, range(8), at)]
        found["task"] = cluster.call(at.scale, courses.dwell, 0)
        (folder / "beside").touch()
        at.out.write("done", b"")

@dataclass(frozen=True)
class Join(Stage):
    model: Step
    rows: Step
    def run(self, at):
        at.out.write("weights.bin", at.open(self.model).read("weights.bin"))

def until(name):
    while not over.is_set() and not (folder / name).exists():
        time.sleep(0.05)

def run(target, capacity):
    try:
        graph.run(target, Store(str(folder)), lambda node: contextlib.nullcontext(Seen()), capacity)
    finally:
        over.set()

def go():
    "The second machine is drained, a fourth being there by then, which is lost afterwards."
    until("drain")
    until("beside")
    fourth = cluster_.add_node(num_gpus=1, **size)
    rich.append(fourth.node_id)
    second = GcsClient(address=cluster_.gcs_address)
    second.drain_node(rich[0], 2, "taken", int(1000 * time.time()) + 900_000)
    until("lose")
    cluster_.remove_node(fourth, allow_graceful=False)

def placed(workers):
    selector = machines.spared(Scale(), workers)
    group = placement_group([{"CPU": 1}] * workers, bundle_label_selector=selector and [selector] * workers)
    ray.get(group.ready())
    nodes = placement_group_table(group)["bundles_to_node_id"]
    remove_placement_group(group)
    return sorted(set(nodes.values()))

quick = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 4}
cluster_ = Cluster(True, head_node_args={**size, "num_gpus": 0, "include_dashboard": False, "_system_config": quick})
over = threading.Event()
try:
    rich = [cluster_.add_node(num_gpus=1, **size).node_id for _ in range(2)]
    ray.init(address=cluster_.address, logging_level="ERROR", log_to_driver=False)
    with cluster.connect() as capacity:
        while ray.cluster_resources().get("CPU") != 9:
            time.sleep(0.05)
        halves = Scale(cpus=0.5, gpus=0.5)
        with ThreadPoolExecutor() as pool:
            found["halves"] = [*pool.map(lambda i: cluster.call(halves, courses.meet, str(folder), i, 4), range(4))]
        found["three"], found["five"] = placed(3), placed(5)
        model = step(Learn(), "model", Scale(cpus=2, gpus=1, most=2))
        target = step(Join(model, step(Prepare(), "rows", Scale(workers=2))), "joined")
        running = threading.Thread(target=run, args=(target, cluster.capacity()))
        running.start()
        go()  # Ray starts machines in the main thread alone
        running.join()
        found |= {"plain": cluster_.head_node.node_id, "rich": rich, "losses": losses, "target": target.address}
        (folder / "found.json").write_text(json.dumps(found))
finally:
    over.set()
    ray.shutdown()
    cluster_.shutdown()
"""


def test_steps_keep_to_their_machines_and_a_drained_and_a_lost_one_change_neither_loss_nor_weights(
    background, tmp_path
):
    child = background(CODE, str(tmp_path))
    want, course = {}, courses.undropped(torch.device("cpu"))
    hooks = [Every(64, lambda state, found: want.update({state.images: found["loss"]}))]
    alone = courses.weights(course.run([*hooks, Every(96, lambda state, found: None)]))["weights.bin"]
    _, said = child.communicate(timeout=900)
    assert child.returncode == 0, said
    worlds = [line for line in said.splitlines() if line.startswith("training with")]
    assert worlds == [f"training with {n} of up to 2 workers" for n in (2, 2, 1)], said
    assert "the workers were told to end" in said, "the drained machine was lost as well"
    found = json.loads((tmp_path / "found.json").read_text())

    plain, rich = found["plain"], found["rich"]
    assert {node for node, _ in found["halves"]} == set(rich[:2])
    assert all(len(devices) == 1 for _, devices in found["halves"]), "four halves of two devices at the same moment"
    assert {*found["items"], found["task"]} == {plain}, "what needs no device was done where devices are"
    assert found["three"] == [plain]
    assert set(found["five"]) & set(rich), "what has no room elsewhere must not wait"
    assert {path.name for path in tmp_path.glob("on *")} == {f"on {node}" for node in rich}

    # The mean that is posted next after the workers were told to end is of fewer steps.
    got = {int(at): loss for at, loss in found["losses"].items() if int(at) >= 384}
    assert got == pytest.approx({at: loss for at, loss in want.items() if at >= 384}, rel=1e-6)
    made = Store(str(tmp_path)).artifact(found["target"]).read("weights.bin")
    one, gone = (np.frombuffer(data, np.float32) for data in (alone, made))
    assert np.linalg.norm(gone - one) <= 1e-6 * np.linalg.norm(one)
