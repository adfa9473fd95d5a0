"""What would go wrong on a cluster hours later, looked for before anything runs: versions, the store, MLflow, room.

It runs on the cluster, where the answers are: the machine that submits may reach neither the store nor the nodes.
"""

from __future__ import annotations

import importlib.metadata
import platform
import re
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pipeline.engine.cluster import growth
from pipeline.engine.track import default_uri, patient, without_password
from pipeline.graph import Step
from pipeline.place import Place
from pipeline.store import Store

SECONDS = 120.0  # in which every machine must have answered; the first task on one unpacks the package
EXACT = ("python", "ray")
PACKAGES = ("torch", "ray", "mlflow", "pyarrow", "numpy", "fsspec", "pydantic", "safetensors")
CURE = "install what constraints.txt says on both, or build cluster/Dockerfile anew"


class Nodes:
    """The machines of the cluster that are up; `Nodes()` needs Ray to be connected."""

    def __init__(self) -> None:
        import ray

        alive = [node for node in ray.nodes() if node["Alive"]]
        self.names = {node["NodeID"]: f"{node['NodeManagerAddress']} ({node['NodeID'][:6]})" for node in alive}
        self.resources = [node["Resources"] for node in alive]

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
        """What the function gives on each machine, called with its id and the arguments; or what it raised.

        Raises:
            ValueError: a machine does not answer, or cannot run a task.
        """
        import ray
        import ray.exceptions
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        @ray.remote(num_cpus=0, max_retries=1)
        def run(node: str, given: tuple) -> Any:
            return _caught(function, node, *given)

        asked = {}
        for node in self.names:
            there = NodeAffinitySchedulingStrategy(node, soft=False)
            asked[node] = run.options(scheduling_strategy=there).remote(node, arguments)
        done, _ = ray.wait(list(asked.values()), num_returns=len(asked), timeout=SECONDS)
        silent = [self.names[node] for node, task in asked.items() if task not in done]
        if silent:
            raise ValueError(f"{_listed(silent)} did not run a task within {SECONDS:.0f} s: restart it or take it away")
        found = {}
        for node, answer in asked.items():
            try:
                found[node] = ray.get(answer)
            except ray.exceptions.RayError as error:
                said = " ".join(str(error).split())[:200]
                raise ValueError(
                    f"{self.names[node]} cannot run a task ({said}): see to it, or take it away"
                ) from error
        return found


def _caught(function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except Exception as error:  # as text: not every exception of a library can be unpickled
        return Failed(f"{type(error).__name__}: {error}")


class Failed(str):
    """What a function raised on another machine."""


def versions(names: Iterable[str] | None = None) -> dict[str, str]:
    """Those of Python (minor) and of packages here, "" where there is none; of all that kintsugi needs by default."""
    if names is None:
        try:
            needs = importlib.metadata.requires("kintsugi") or []
            names = sorted(re.split(r"[^\w.-]", need)[0] for need in needs if "extra ==" not in need)
        except importlib.metadata.PackageNotFoundError:  # a checkout that is run as it is
            names = PACKAGES
    found = {"python": ".".join(platform.python_version_tuple()[:2])}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = ""
    return found


def check_versions(wanted: Mapping[str, str], nodes: Nodes, lenient: bool = False) -> None:
    """Compare every machine's versions with the submitter's.

    Python's minor version and Ray must be equal, of other packages the first two numbers; `lenient`: those two only.

    Raises:
        ValueError: they differ.
    """
    names = [name for name in wanted if name != "python" and (not lenient or name in EXACT)]
    here = {name: wanted[name] for name in (*EXACT, *names) if name in wanted}
    for node, found in nodes(_versions, names).items():
        if isinstance(found, Failed):
            raise ValueError(f"{nodes.names[node]} cannot say its versions: {found}")
        if differing := differences(here, found):
            raise ValueError(f"versions differ on {nodes.names[node]}: {_listed(differing)}: {CURE}")


def _versions(node: str, names: list[str]) -> dict[str, str]:
    return versions(names)


def differences(wanted: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """What is not the same, a phrase each."""
    said = []
    for name, version in wanted.items():
        there = found.get(name, "")
        if not there:
            said.append(f"{name} {version} is missing there")
        elif version != there and (name in EXACT or _minor(version) != _minor(there)):
            said.append(f"{name} is {version} here and {there} there")
    return said


def _minor(version: str) -> list[str]:
    return re.findall(r"\d+", version.split("+")[0])[:2]


def check_store(url: str, nodes: Nodes) -> None:
    """Every machine writes a small file below the store and reads those of all others and of this process.

    Raises:
        ValueError: one cannot, or the store is another place for each.
    """
    place, names = Place(url), nodes.names
    folder = f"{place.url}/preflight-{uuid.uuid4().hex[:12]}"
    shown = without_password(url)
    try:
        _write("driver", folder)
        wrote = nodes(_write, folder)
        if refused := {node: said for node, said in wrote.items() if isinstance(said, Failed)}:
            node, said = next(iter(refused.items()))
            raise ValueError(
                f"{names[node]} cannot write the store {shown} ({said}): see to its rights and credentials"
            )
        everything = {"driver", *names}
        for node, seen in nodes(_read, folder).items():
            if isinstance(seen, Failed):
                raise ValueError(
                    f"{names[node]} cannot read the store {shown} ({seen}): see to its rights and credentials"
                )
            if missing := [names.get(other, "the job itself") for other in sorted(everything - set(seen))]:
                raise ValueError(
                    f"the store {shown} is not shared: {names[node]} does not see what {_listed(missing)} wrote to it: "
                    "give a folder that all machines mount, or a URL such as s3://bucket/runs (--store)"
                )
    except BaseException:
        nodes(_remove, folder)  # each its own
        raise
    finally:
        _remove("driver", folder)


def _write(node: str, folder: str) -> None:
    Place(folder).write(node, node)


def _read(node: str, folder: str) -> list[str]:
    place = Place(folder)
    return [name for name in place.names() if place.read(name).decode() == name]


def _remove(node: str, folder: str) -> None:
    Place(folder).remove()


def check_room(steps: Iterable[Step], nodes: Nodes) -> None:
    """Raises: ValueError: a step's worker wants more cores or devices than any one machine has or may come to have."""
    machines = [(have.get("CPU", 0), have.get("GPU", 0)) for have in nodes.resources]
    machines += [(machine.cpus, machine.gpus) for machine in growth()]
    for step in steps:
        cpus, gpus = step.scale.cpus, step.scale.gpus
        if not any(cpus <= have and gpus <= devices for have, devices in machines):
            have = _listed(f"{c:g} CPUs and {g:g} GPUs" for c, g in sorted(set(machines), reverse=True)[:4])
            raise ValueError(
                f"{step.label} wants workers of {cpus:g} CPUs and {gpus:g} GPUs, and no machine has that "
                f"(they have {have}): lower --scale.cpus or --scale.gpus, or add machines"
            )


def check_tracking(store: Store) -> str:
    """The tracking server, asked for its experiments; a database of the store's is not touched.

    Raises:
        ValueError: none is named, none answers, or it does not let us in.
    """
    uri = default_uri(store)
    if uri.startswith("sqlite:"):
        return uri
    patient()
    import mlflow

    try:
        mlflow.MlflowClient(tracking_uri=uri).search_experiments(max_results=1)
    except Exception as error:  # MLflow raises what its transports raise
        said = " ".join(str(error).split())[:200]
        shown = without_password(uri)
        raise ValueError(
            f"MLflow at {shown} cannot be used ({without_password(said)}): see MLFLOW_TRACKING_URI"
        ) from error
    return uri


def whereabouts(nodes: Nodes) -> str:
    """A line about the cluster."""
    total = {kind: sum(have.get(kind, 0) for have in nodes.resources) for kind in ("CPU", "GPU")}
    count = len(nodes.names)
    may = f", {sum(machine.most for machine in growth())} more may come" if growth() else ""
    return f"{count} machine{'s' * (count != 1)} with {total['CPU']:g} CPUs and {total['GPU']:g} GPUs{may}"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
