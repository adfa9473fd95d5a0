"""Which machines a step takes: those without devices, where it needs none and they have room."""

from __future__ import annotations

import math
from typing import Any

import ray
from ray._private.state import available_resources_per_node, state

from pipeline.graph import Scale

NODE = "ray.io/node-id"  # a label that every machine has


def spared(scale: Scale, workers: int) -> dict[str, str] | None:
    """What keeps a group of workers off the machines with devices; None where it needs them, or would have to wait.

    Ray itself keeps tasks and actors from them, but not placement groups, which workers that train together are.
    """
    plain, rich = _kinds()
    if scale.gpus or not rich:
        return None
    free = available_resources_per_node()
    room = sum(math.floor(free.get(node, {}).get("CPU", 0) / scale.cpus + 1e-9) for node in plain)
    # No blanks: Ray takes them for a part of what follows.
    return {NODE: f"!in({','.join(rich)})"} if room >= workers else None


def strategy(scale: Scale) -> dict[str, str]:
    """Ray Data's way to place a step's tasks: over all machines alike, or as Ray prefers where they differ."""
    plain, rich = _kinds()
    return {"scheduling_strategy": "DEFAULT"} if plain and rich and not scale.gpus else {}


def staying() -> list[dict[str, Any]]:
    """What Ray says of the machines that are alive and will not be taken away."""
    leaving = state.get_draining_nodes()
    return [node for node in ray.nodes() if node["Alive"] and node["NodeID"] not in leaving]


def _kinds() -> tuple[list[str], list[str]]:
    """Those without devices and those with some, by id."""
    plain, rich = [], []
    for node in staying():
        (rich if node["Resources"].get("GPU") else plain).append(node["NodeID"])
    return plain, rich
