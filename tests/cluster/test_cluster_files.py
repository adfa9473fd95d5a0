"""Every file of cluster/ is what its reader takes: KubeRay's and the launcher's own schemas, bash, our own versions."""

from __future__ import annotations

import copy
import json
import os
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.engine.cluster import Machines, growth
from stages.__main__ import VERBS

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "cluster"
KUBERAY = ("raycluster.yaml", "rayjob.yaml")
CLOUDS = ("aws.yaml", "gcp.yaml")
SCRIPTS = ("local.sh", "several.sh", "slurm.sh")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)


def test_every_file_is_looked_at():
    seen = {*KUBERAY, *CLOUDS, *SCRIPTS, "Dockerfile", "Dockerfile.dockerignore", "README.md"}
    assert {path.name for path in HERE.rglob("*") if path.is_file()} == seen


def manifest(name: str) -> Any:
    return yaml.safe_load((HERE / "kuberay" / name).read_text())


def cluster_of(name: str) -> Any:
    spec = manifest(name)["spec"]
    return spec.get("rayClusterSpec", spec)


def strict(schema: Any) -> Any:
    """A custom resource's schema as jsonschema takes it, where unknown keys are errors."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = {name: strict(value) for name, value in schema.items()}
    if made.pop("x-kubernetes-int-or-string", False) is True:
        made = {"anyOf": [{"type": "integer"}, {"type": "string"}]}
    open_ended = made.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in made
    if isinstance(made.get("properties"), dict) and made.get("type") == "object" and not open_ended:
        made["additionalProperties"] = False
    return made


def errors(document: Any) -> list[str]:
    import jsonschema

    home = os.environ.get("KINTSUGI_CRDS")
    if not home:
        pytest.skip("KINTSUGI_CRDS does not name the folder of KubeRay's custom resource definitions")
    definition = yaml.load(
        (Path(home) / f"ray.io_{document['kind'].lower()}s.yaml").read_text(),
        getattr(yaml, "CSafeLoader", yaml.SafeLoader),
    )
    group, version = document["apiVersion"].split("/")
    assert definition["spec"]["group"] == group
    schema = next(v["schema"]["openAPIV3Schema"] for v in definition["spec"]["versions"] if v["name"] == version)
    schema["properties"].pop("status")
    schema["properties"]["metadata"] = {"type": "object"}
    return [error.message for error in jsonschema.Draft7Validator(strict(schema)).iter_errors(document)]


def broken(document: Any) -> Iterator[Any]:
    """The document with one thing wrong at a time."""
    spec = document["spec"].get("rayClusterSpec", document["spec"])
    for path, value in [
        (("enableInTreeAutoscaling",), "yes"),
        (("enableInTreeAutoscalling",), True),
        (("headGroupSpec", "rayStartParams", "num-cpus"), 0),
        (("workerGroupSpecs", 1, "maxReplicas"), "8"),
        (("workerGroupSpecs", 1, "template", "spec", "tolerations", 0, "operater"), "Exists"),
        (("workerGroupSpecs", 0, "template", "spec", "volumes", 0, "emptyDir", "medium"), 1),
        (("authOptions", "mode"), "tokens"),
    ]:
        mutated = copy.deepcopy(document)
        at = mutated["spec"]["rayClusterSpec"] if spec is not document["spec"] else mutated["spec"]
        for name in path[:-1]:
            at = at[name]
        at[path[-1]] = value
        yield mutated


@pytest.mark.slow
@pytest.mark.parametrize("name", KUBERAY)
def test_kuberay_takes_the_manifest_and_no_broken_one(name):
    document = manifest(name)
    assert errors(document) == []
    assert [len(errors(wrong)) > 0 for wrong in broken(document)] == [True] * 7


@pytest.mark.parametrize("name", KUBERAY)
def test_a_manifest_keeps_what_it_promises(name, monkeypatch):
    spec = cluster_of(name)
    assert spec["rayVersion"] == PINS["ray"]
    assert spec["authOptions"] == {"mode": "token"}
    head = spec["headGroupSpec"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    groups, expected = spec["workerGroupSpecs"], []
    for group in groups:
        pod = group["template"]["spec"]
        container = pod["containers"][0]
        asked = container["resources"]["requests"]
        assert group["rayStartParams"]["num-cpus"] == asked["cpu"]
        assert group["rayStartParams"].get("num-gpus") == asked.get("nvidia.com/gpu")
        memory = next(v for v in pod["volumes"] if v["name"] == "shared-memory")["emptyDir"]
        assert memory["medium"] == "Memory"
        assert {"name": "shared-memory", "mountPath": "/dev/shm"} in container["volumeMounts"]
        expected.append(Machines(group["maxReplicas"], float(asked["cpu"]), float(asked.get("nvidia.com/gpu", 0))))
    assert groups[0]["minReplicas"] >= 1, "reading data must not wait for a machine"
    spot = groups[1]["template"]["spec"]
    assert any("spot" in key for key in spot["nodeSelector"])
    assert spot["terminationGracePeriodSeconds"] > 30
    assert "nodeSelector" not in head["template"]["spec"]
    said = {word["name"]: word["value"] for word in head["template"]["spec"]["containers"][0]["env"]}
    monkeypatch.setenv("KINTSUGI_GROWTH", said["KINTSUGI_GROWTH"])
    assert growth() == expected


def test_the_jobs_command_is_one_of_ours():
    words = shlex.split(manifest("rayjob.yaml")["spec"]["entrypoint"])
    assert words[:5] == ["python", "-m", "stages", "preflight", "--"]
    assert words[5] in VERBS
    environment = yaml.safe_load(manifest("rayjob.yaml")["spec"]["runtimeEnvYAML"])
    assert all(isinstance(value, str) for value in environment["env_vars"].values())


@pytest.mark.parametrize("name", CLOUDS)
def test_the_launcher_takes_the_configuration_and_no_broken_one(name, monkeypatch):
    from jsonschema import ValidationError
    from ray.autoscaler._private.util import prepare_config, validate_config

    def check(config: Any) -> None:
        validate_config(prepare_config(copy.deepcopy(config)))

    config = yaml.safe_load((HERE / name).read_text())
    check(config)
    for path, value in [(("idle_timeout",), 1), (("max_workers",), "12"), (("docker", "imgae"), "x"),
                        (("available_node_types", "data", "min_worker"), 1)]:  # fmt: skip
        wrong = copy.deepcopy(config)
        at = wrong
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = value
        with pytest.raises(ValidationError):
            check(wrong)
    kinds = config["available_node_types"]
    assert config["max_workers"] >= sum(kind.get("max_workers", 0) for kind in kinds.values())
    start = " ".join(config["head_start_ray_commands"])
    monkeypatch.setenv("KINTSUGI_GROWTH", re.findall(r'KINTSUGI_GROWTH="(.*?)"', start)[0])
    asked = [kinds[name] for name in ("data", "training")]
    assert growth() == [Machines(k["max_workers"], k["resources"]["CPU"], k["resources"].get("GPU", 0)) for k in asked]
    assert all("RAY_AUTH_MODE=token" in command for side in ("head", "worker")
               for command in config[f"{side}_start_ray_commands"] if "ray start" in command)  # fmt: skip
    assert any(path.endswith(".ray/auth_token") for path in config["file_mounts"])


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_is_bash(name):
    path = HERE / name
    assert os.access(path, os.X_OK)
    assert subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True).stderr == ""
    assert subprocess.run(["bash", "-n"], input=path.read_text() + "\nif", text=True, capture_output=True).returncode


def test_slurm_hands_its_command_to_ray(tmp_path):
    """With stand-ins for Slurm's programs, so that what they are handed is seen."""
    for tool, does in {
        "scontrol": "echo node1; echo node2",
        "srun": 'printf "%s\\n" "$@" >> "$SAID"; echo 10.0.0.1 x',
    }.items():
        (tmp_path / tool).write_text(f"#!/bin/bash\n{does}\n")
        (tmp_path / tool).chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SAID": str(tmp_path / "said"),
        "SLURM_JOB_NUM_NODES": "2",
    }
    environment |= {"SLURM_JOB_NODELIST": "node[1-2]", "SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "16"}
    words = ["run", "partial_views", "--store", "/shared/my runs"]
    subprocess.run(["bash", str(HERE / "slurm.sh"), *words], env=environment, check=True)
    said = (tmp_path / "said").read_text().splitlines()
    assert said[-len(words) :] == words
    assert said[said.index("symmetric-run") + 1 :][:4] == ["--address", "10.0.0.1:6379", "--min-nodes", "2"]
    assert said[-11:-4] == ["env", "RAY_ADDRESS=10.0.0.1:6379", "python", "-m", "stages", "preflight", "--"]
    refused = subprocess.run(["bash", str(HERE / "slurm.sh")], env=environment, capture_output=True, text=True)
    assert (refused.returncode, refused.stderr[:28]) == (2, "slurm.sh: there is no comman")


def test_several_refuses_what_is_no_number():
    refused = subprocess.run(["bash", str(HERE / "several.sh"), "none"], capture_output=True, text=True)
    assert refused.returncode == 2
    assert "give two whole numbers" in refused.stderr


def test_the_image_is_built_of_what_there_is():
    text = (HERE / "Dockerfile").read_text()
    ignored = (HERE / "Dockerfile.dockerignore").read_text().split()
    assert ignored[0] == "*"
    for line in re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE):
        for source in line.split():
            assert (ROOT / source).exists()
            assert f"!{source}" in ignored
    extras = re.findall(r'"\.\[(.*?)\]"', text)[0].split(",")
    assert set(extras) <= set(PROJECT["optional-dependencies"])
    assert {"cluster", "s3", "gcs"} <= set(extras)
    python = re.findall(r"^ARG PYTHON=(\S+)", text, re.MULTILINE)[0]
    assert PROJECT["requires-python"] == f">={python}"
    instructions = {"ARG", "FROM", "RUN", "WORKDIR", "COPY", "USER", "ENV"}
    joined = text.replace("\\\n", " ")
    assert {line.split()[0] for line in joined.splitlines() if line and line[0] != "#"} <= instructions
    users = [line for line in joined.splitlines() if line.startswith("USER")]
    assert users == ["USER ray"]


def test_what_sending_jobs_needs_is_an_extra_and_pinned():
    assert PROJECT["optional-dependencies"]["cluster"] == ["ray[default]>=2.60,<2.61"]
    assert json.dumps(PROJECT["optional-dependencies"]["test"]).count("ray[default]") == 1
    assert {"opencensus", "aiohttp-cors", "py-spy", "smart_open"} <= {name.lower() for name in PINS}
