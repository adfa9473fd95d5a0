"""Joining a Ray cluster, or starting a quiet local one that fits the machine."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
import signal
import socket
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

from pipeline.engine.relay import aloud, relayed
from pipeline.graph import Scale

T = TypeVar("T")

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    # The V2 parquet reader costs seconds an epoch on small local data.
    "RAY_DATA_USE_DATASOURCE_V2": "0",
    # The controller polls every 2 s otherwise: most of the life of a short run.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # glibc would hand a network's activations back after every step and clear the same pages again for the next: up to
    # a fifth of the training time on a CPU.
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(256 << 20),
}
LOCAL = {
    # A local cluster is bound to 127.0.0.1 and speaks to nobody else, so it needs no token file in the home folder.
    "RAY_AUTH_MODE": "disabled",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # Nobody gives notice before taking this machine away, and the process that would listen takes seconds to start.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}
STORE_BYTES = 1 << 30
BOARDS = "kintsugi-boards"  # the namespace of all processes' boards
PATIENCE = 15.0  # seconds in which workers may write a checkpoint when a person ends the run
STARTED = threading.Event()  # whether the cluster is one that `connect` started and will end
TRAINING: dict[str, threading.Event] = {}  # the topics of what is being trained; set when it is to end
log = logging.getLogger("kintsugi")


def cores() -> int:
    """The processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def connect() -> Iterator[tuple[float, float]]:
    """Join the cluster at `RAY_ADDRESS`, or start one here; gives its capacity as (CPUs, GPUs) for steps.

    A local cluster is told of two cores more than steps may take: Ray Data waits for ever, silently, where training
    workers hold every core.

    Raises:
        ValueError: no cluster answers at `RAY_ADDRESS`.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    address = os.environ.get("RAY_ADDRESS", "")
    if address in ("", "local"):
        for name, value in LOCAL.items():
            os.environ.setdefault(name, value)
    import ray
    import ray.data

    if ray.is_initialized():
        board()
        with _gently():
            yield capacity()
        return
    options: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": bool(os.environ.get("KINTSUGI_DEBUG"))}
    if address in ("", "local"):
        options |= {
            "address": "local",
            "num_cpus": cores() + 2,
            "include_dashboard": False,
            "object_store_memory": STORE_BYTES,
        }
    else:
        check_answers(address)
    try:
        ray.init(**options)
    except ConnectionError as error:
        raise ValueError(f"no Ray cluster answers at {address}: start it, or unset RAY_ADDRESS to run here") from error
    if options.get("address") == "local":
        STARTED.set()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _stop)  # Ray's own handler, set just now, would abort with a dump
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="ray")
    warnings.filterwarnings("ignore", "`ray_remote_args` is deprecated")  # nothing else names a scheduling strategy
    ray.data.DataContext.get_current().print_on_execution_start = False
    try:
        board()  # now, by one thread: steps that start together must not make two
        with _gently():
            yield capacity()
    finally:
        board.cache_clear()
        STARTED.clear()
        ray.shutdown()


@contextlib.contextmanager
def _gently() -> Iterator[None]:
    """Let what is being trained write a checkpoint before an interrupt ends it; another interrupt ends it at once."""
    try:
        yield
    except KeyboardInterrupt:
        end_training()
        raise


def end_training() -> None:
    """End what this process trains, after the step it is at, with a checkpoint, and wait for that for a while."""
    going = [(topic, ended) for topic, ended in list(TRAINING.items()) if not ended.is_set()]
    if not going:
        return
    log.warning("what is being trained ends after this step, with a checkpoint")
    for topic, ended in going:
        ended.set()
        board().end.remote(topic)
    until = time.monotonic() + PATIENCE
    while TRAINING and time.monotonic() < until:
        time.sleep(0.05)


@contextlib.contextmanager
def training() -> Iterator[tuple[str, threading.Event]]:
    """A topic of the board for something that is trained, and whether a person wants that to end."""
    topic, ended = uuid.uuid4().hex, threading.Event()
    TRAINING[topic] = ended
    try:
        yield topic, ended
    finally:
        del TRAINING[topic]


def _stop(*_: object) -> None:
    """What schedulers send is what a person means by Ctrl-C."""
    raise KeyboardInterrupt


def check_answers(address: str) -> None:
    """Raises: ValueError: nothing answers at this Ray address; Ray itself would wait for minutes to say so."""
    if address == "auto":
        return
    host = urlsplit(address if "://" in address else f"ray://{address}")
    try:
        socket.create_connection((host.hostname or "", host.port or 6379), timeout=3).close()
    except OSError as error:
        raise ValueError(
            f"no Ray cluster answers at {host.hostname}:{host.port or 6379} ({error}): "
            "start it, or unset RAY_ADDRESS to run here"
        ) from error


@dataclass(frozen=True)
class Machines:
    """A group of machines that an autoscaler may start: how many at most, and what each has."""

    most: int
    cpus: float
    gpus: float = 0


def growth() -> list[Machines]:
    """What `KINTSUGI_GROWTH` says of the cluster, as Ray's autoscalers do not: `8x16+0 4x30+4` is MOSTxCPUS+GPUS.

    Raises:
        ValueError: it says something else.
    """
    found = []
    for word in os.environ.get("KINTSUGI_GROWTH", "").split():
        group = re.fullmatch(r"(\d+)x(\d+(?:\.\d+)?)(?:\+(\d+(?:\.\d+)?))?", word)
        if not group:
            raise ValueError(f"KINTSUGI_GROWTH has {word!r}: write MOSTxCPUS+GPUS for each group, such as 4x30+4")
        found.append(Machines(int(group[1]), float(group[2]), float(group[3] or 0)))
    return found


def capacity() -> tuple[float, float]:
    """(CPUs, GPUs) that steps may take, there or to come: two of the CPUs are Ray Data's own."""
    import ray

    have, groups = ray.cluster_resources(), growth()
    cpus = max(have.get("CPU", 0), sum(group.most * group.cpus for group in groups))
    return max(1.0, cpus - 2), max(have.get("GPU", 0), sum(group.most * group.gpus for group in groups))


@functools.cache
def board() -> Any:
    """The actor to which running steps post; one for the cluster session, made at first use.

    Ray Train's own reports reach callbacks in another process and only at the controller's pace; posting costs a
    worker one asynchronous call. It stands on this machine, where it lives as long as who reads it.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)

    @ray.remote(num_cpus=0, max_restarts=-1)
    class Board:
        def __init__(self) -> None:
            self.posts: dict[str, list[dict[str, Any]]] = {}
            self.over: set[str] = set()
            self.going = 0

        def post(self, topic: str, content: dict[str, Any]) -> None:
            self.posts.setdefault(topic, []).append(content)

        def take(self, topic: str) -> list[dict[str, Any]]:
            return self.posts.pop(topic, [])

        def end(self, topic: str) -> None:
            self.over.add(topic)

        def ended(self, topic: str) -> bool:
            return topic in self.over

        def sweeps(self, more: int = 0) -> int:
            """How many this process has going, after so many more."""
            self.going += more
            return self.going

    name = uuid.uuid4().hex  # so that others' sweeps find it
    return Board.options(scheduling_strategy=here, name=name, namespace=BOARDS).remote()


def call(scale: Scale, function: Callable[..., T], *arguments: Any, fresh: bool = False) -> T:
    """Run a picklable function once on the cluster, with one worker's share of `scale`, and return its result.

    What it warns of is said here.
    `fresh`: in a process that does nothing else before or afterwards.

    Raises: what the function raised.
    """
    import ray
    import ray.exceptions

    alone: dict[str, Any] = {"max_calls": 1} if fresh else {}

    posts, topic = board(), uuid.uuid4().hex

    @ray.remote(num_cpus=scale.cpus, num_gpus=scale.gpus, max_retries=3, **alone)
    def run() -> T:
        with aloud(posts, topic, "the task"):
            return function(*arguments)

    try:
        with relayed(posts, topic):
            return ray.get(run.remote())
    except ray.exceptions.RayTaskError as error:
        cause = getattr(error, "cause", None)
        raise (cause if isinstance(cause, Exception) else error) from None
