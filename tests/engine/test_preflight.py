"""What a cluster must have in common is looked at on every machine, and what is not names the machine."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.engine import cluster, preflight
from pipeline.engine.preflight import Failed, check_room, check_store, check_tracking, check_versions, differences
from pipeline.graph import Scale, Step
from pipeline.store import Store


@dataclass
class Nodes:
    """Machines in this process: where `root` leads to a folder of its own on each, their disks are their own."""

    names: dict[str, str]
    root: str = ""
    folders: Any = None
    found: Any = None
    resources: Any = ()

    def __call__(self, function, *given):
        if self.found is not None:
            return {node: self.found.get(node, Failed("away")) for node in self.names}
        own = {node: [str(word).replace(self.root, (self.folders or {}).get(node, self.root)) for word in given]
               for node in self.names}  # fmt: skip
        return {node: preflight._caught(function, node, *own[node]) for node in self.names}


TWO = {"a": "10.0.0.1 (a)", "b": "10.0.0.2 (b)"}


def test_a_store_that_all_see_passes_and_is_left_as_it_was(tmp_path):
    check_store(str(tmp_path), Nodes(TWO))  # pyright: ignore[reportArgumentType]
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_is_another_folder_on_each_machine_is_refused_by_their_names(tmp_path):
    there, here = tmp_path / "there", tmp_path / "here"
    nodes = Nodes(TWO, str(here), {"b": str(there)})
    with pytest.raises(
        ValueError, match=r"is not shared: .*10\.0\.0\.1 \(a\) does not see what 10\.0\.0\.2 \(b\) wrote"
    ):
        check_store(str(here), nodes)  # pyright: ignore[reportArgumentType]
    assert [list(folder.iterdir()) for folder in (here, there)] == [[], []]


def test_one_machine_whose_disk_is_not_the_jobs_is_refused(tmp_path):
    nodes = Nodes({"a": "10.0.0.1 (a)"}, str(tmp_path / "here"), {"a": str(tmp_path / "there")})
    with pytest.raises(ValueError, match="does not see what the job itself wrote"):
        check_store(str(tmp_path / "here"), nodes)  # pyright: ignore[reportArgumentType]


def test_a_machine_that_cannot_write_is_named(tmp_path):
    (tmp_path / "file").write_text("no folder")
    nodes = Nodes(TWO, str(tmp_path / "here"), {"b": str(tmp_path / "file")})
    with pytest.raises(ValueError, match=r"10\.0\.0\.2 \(b\) cannot write the store .*rights"):
        check_store(str(tmp_path / "here"), nodes)  # pyright: ignore[reportArgumentType]


HERE = {"python": "3.11", "ray": "2.60.0", "torch": "2.13.0+cpu", "numpy": "2.4.6"}


@pytest.mark.parametrize(
    ("there", "said"),
    [
        ({}, []),
        ({"torch": "2.13.1+cu130", "numpy": "2.4.0"}, []),
        ({"torch": "2.12.0"}, ["torch is 2.13.0+cpu here and 2.12.0 there"]),
        ({"ray": "2.60.1"}, ["ray is 2.60.0 here and 2.60.1 there"]),
        ({"python": "3.12"}, ["python is 3.11 here and 3.12 there"]),
        ({"numpy": ""}, ["numpy 2.4.6 is missing there"]),
    ],
)
def test_versions_differ_where_results_or_pickles_would(there, said):
    assert differences(HERE, HERE | there) == said


def test_a_machine_with_another_version_is_named_unless_that_is_let_pass():
    nodes = Nodes(TWO, found={"a": HERE, "b": HERE | {"torch": "2.12.0"}})
    with pytest.raises(ValueError, match=r"differ on 10\.0\.0\.2 \(b\): torch is .*: install"):
        check_versions(HERE, nodes)  # pyright: ignore[reportArgumentType]
    check_versions(HERE, nodes, lenient=True)  # pyright: ignore[reportArgumentType]
    nodes.found = {"a": HERE | {"ray": "2.61.0"}, "b": HERE}
    with pytest.raises(ValueError, match="ray is"):
        check_versions(HERE, nodes, lenient=True)  # pyright: ignore[reportArgumentType]


def test_kintsugis_own_needs_are_compared():
    found = preflight.versions()
    assert {"python", "ray", "torch", "mlflow", "numpy", "pyarrow"} <= found.keys()
    assert all(found.values())
    assert preflight.versions(["no-such-thing"])["no-such-thing"] == ""


def steps(**scale) -> list[Step]:
    return [SimpleNamespace(label="model", scale=Scale(**scale))]  # type: ignore[list-item]


@pytest.mark.parametrize(("scale", "fits"), [({"cpus": 4}, True), ({"gpus": 1, "cpus": 2}, True), ({"gpus": 2}, False),
                                             ({"cpus": 5}, False), ({"cpus": 3, "gpus": 1}, False)])  # fmt: skip
def test_a_worker_fits_on_one_machine_not_on_several(monkeypatch, scale, fits):
    nodes: Any = Nodes(TWO, resources=[{"CPU": 4.0}, {"CPU": 2.0, "GPU": 1.0}])
    if fits:
        check_room(steps(**scale), nodes)
    else:
        with pytest.raises(ValueError, match=r"model wants workers of .* 4 CPUs and 0 GPUs, 2 CPUs and 1 GPUs"):
            check_room(steps(**scale), nodes)
        monkeypatch.setenv("KINTSUGI_GROWTH", "2x8+2")
        check_room(steps(**scale), nodes)


def test_machines_to_come_count_as_capacity(monkeypatch):
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 4.0})
    assert cluster.capacity() == (2, 0)
    monkeypatch.setenv("KINTSUGI_GROWTH", "8x16 4x30+4")
    assert cluster.capacity() == (8 * 16 + 4 * 30 - 2, 16)
    for wrong in ("4", "x4", "4x", "4x4+", "-1x4", "4x4+1+1"):
        monkeypatch.setenv("KINTSUGI_GROWTH", wrong)
        with pytest.raises(ValueError, match="MOSTxCPUS"):
            cluster.growth()


def test_a_tracking_server_that_is_none_is_refused(monkeypatch, tmp_path):
    store = Store(str(tmp_path))
    assert check_tracking(store).startswith("sqlite:")
    for uri in ("file:///tmp/x", "/tmp/x", "./mlruns"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        with pytest.raises(ValueError, match=r"is a folder .*name a server"):
            check_tracking(store)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:hush@127.0.0.1:9")
    with pytest.raises(ValueError, match="cannot be used") as refused:
        check_tracking(store)
    assert "hush" not in str(refused.value)
