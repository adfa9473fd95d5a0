"""The loop, and the benchmark of it, run where torch and numpy are all there is."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent

WITH_TORCH = {"torch", "numpy", "typing_extensions", "fsspec", "jinja2"}  # numpy, and what torch itself needs
CODE = """
import runpy, sys
for name in sys.argv.pop(1).split(","):
    sys.modules[name] = None
runpy.run_path("../benchmarks/training.py", run_name="__main__")
"""


@pytest.mark.slow
def test_the_loop_is_measured_beside_a_plain_one_with_torch_alone(fresh):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    others = {re.split(r"[\[>=]", name)[0].replace("-", "_") for name in project["dependencies"]} - WITH_TORCH
    absent = {"pyyaml": "yaml", "pillow": "PIL", "scikit_learn": "sklearn"}
    blocked = ",".join(sorted({absent.get(name, name) for name in others}))
    small = ["--side", "8", "--batch", "2", "--steps", "4", "--repeats", "1"]
    said = fresh(CODE, blocked, "--parts", "plain", *small).splitlines()
    assert {"ray", "mlflow", "pydantic", "tyro"} < set(blocked.split(","))
    assert said[0].startswith("torch ")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in said[2:] if line]
    assert [row[0] for row in rows[2:]] == ["plain", "plain, fused", "ours"]
    assert all(re.fullmatch(r"[\d.]+ \([\d.]+ to [\d.]+\)", row[2]) for row in rows[2:])
    assert rows[-1][2] == "1.000 (1.000 to 1.000)"
