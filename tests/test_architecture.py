"""The house stands as drawn: arrows point down, files are short and captioned, `import pipeline` is light."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted(p for top in ("pipeline", "stages") for p in (ROOT / top).rglob("*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CEILING = 300

BELOW_PHYSICS = {"identity", "keys"}
BELOW_OBJECTIVES = {"diffusion", "backbones", "physics"} | BELOW_PHYSICS
BELOW_LEARNING = {"objectives", "config", "place"} | BELOW_OBJECTIVES
BELOW_ENGINE = {
    "flat",
    "learning",
    "data",
    "metrics",
    "stage",
    "graph",
    "scale",
    "store",
    "artifact",
    "lease",
} | BELOW_LEARNING
MAY_IMPORT = {  # room -> the rooms below it; a room may always import from itself
    "pipeline": set(),
    "identity": set(),
    "keys": set(),
    "place": set(),
    "config": {"identity"},
    "scale": set(),
    "flat": set(),
    "shown": set(),
    "lease": {"place"},
    "artifact": {"lease", "place", "config", "shown"},
    "store": {"artifact", "lease", "place", "config", "identity", "shown"},
    "schedule": {"store", "lease"},
    "stage": {"artifact", "place", "scale"},
    "graph": {"flat", "schedule", "scale", "stage", "store", "lease", "config", "identity", "keys", "shown"},
    "physics": BELOW_PHYSICS,
    "backbones": {"physics"} | BELOW_PHYSICS,
    "diffusion": {"backbones", "physics"} | BELOW_PHYSICS,
    "objectives": BELOW_OBJECTIVES,
    "learning": BELOW_LEARNING,
    "data": BELOW_LEARNING,
    "metrics": BELOW_LEARNING,
    "engine": BELOW_ENGINE,
    "stages": {"engine", "shown"} | BELOW_ENGINE,
    "recipes": {"stages", "engine"} | BELOW_ENGINE,
}
WITHOUT_TORCH = {
    "pipeline",
    "identity",
    "config",
    "flat",
    "place",
    "lease",
    "artifact",
    "store",
    "scale",
    "schedule",
    "shown",
    "stage",
    "graph",
}
CLUSTER = {"ray", "mlflow"}


def module_of(path: Path) -> str:
    """The dotted name of a file."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    """The room that a module of this project belongs to."""
    parts = module.split(".")
    if parts[0] == "stages":
        return "recipes" if parts[1:2] == ["recipes"] else "stages"
    return parts[1] if len(parts) > 1 else "pipeline"


def is_ours(module: str) -> bool:
    return module.split(".")[0] in ("pipeline", "stages")


def imports(tree: ast.AST, module: str, is_package: bool, types_too: bool = True) -> Iterator[tuple[str, int]]:
    """Every module imported anywhere in a file, inside functions too: (dotted name, line)."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test) and not types_too:
            for below in node.orelse:
                yield from imports(ast.Module([below], []), module, is_package, types_too)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = module.split(".")
            base = base[: len(base) - node.level + is_package] if node.level else []
            start = ".".join([*base, *([node.module] if node.module else [])])
            rooms = start in ("pipeline", "stages", "stages.recipes")  # `from pipeline import config`: pipeline.config
            yield from ((f"{start}.{alias.name}" if rooms else start, node.lineno) for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            if node.args and isinstance(node.args[0], ast.Constant):
                yield str(node.args[0].value), node.lineno
            yield from imports(ast.Module([ast.Expr(a) for a in node.args], []), module, is_package, types_too)
        else:
            yield from imports(node, module, is_package, types_too)


def broken_arrows(source: str, path: Path) -> list[str]:
    """What a file imports although its room may not."""
    tree, module, is_package = ast.parse(source), module_of(path), path.name == "__init__.py"
    room = room_of(module)
    wrong = []
    for name, line in imports(tree, module, is_package, types_too=False):
        listing = name == "stages.recipes"  # the empty package, in which the command line looks recipes up by name
        if is_ours(name) and not listing and room_of(name) != room and room_of(name) not in MAY_IMPORT.get(room, set()):
            wrong.append(f"{module}:{line} imports {name}: {room} is not above {room_of(name)}")
        if name.split(".")[0] == "torch" and room in WITHOUT_TORCH:
            wrong.append(f"{module}:{line} imports {name}")
    for name, line in imports(tree, module, is_package):
        if name.split(".")[0] in CLUSTER and room != "engine":
            wrong.append(f"{module}:{line} imports {name}: only pipeline/engine may")
    return wrong


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_arrows_point_down_and_the_file_is_short_and_captioned(path):
    source = path.read_text()
    assert broken_arrows(source, path) == []
    assert len(source.splitlines()) <= CEILING
    caption = (ast.get_docstring(ast.parse(source)) or "").split("\n")[0]
    assert caption, f"{path.name} has no docstring"
    assert caption[-1] in ".;:!?", f"the caption {caption!r} is no sentence"
    assert path.name not in ("utils.py", "common.py", "helpers.py", "misc.py")


def test_every_room_is_drawn_and_the_drawing_has_no_cycle():
    rooms = {room_of(module_of(path)) for path in FILES}
    assert rooms <= set(MAY_IMPORT), f"draw {rooms - set(MAY_IMPORT)} into MAY_IMPORT"
    left = dict(MAY_IMPORT)
    while left:
        bottom = [room for room, below in left.items() if not below & set(left)]
        assert bottom, f"a cycle among {sorted(left)}"
        for room in bottom:
            del left[room]


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("pipeline/physics/x.py", "from ..diffusion import denoiser"),
        ("pipeline/physics/x.py", "from .. import graph"),
        ("pipeline/physics/__init__.py", "from ..graph import Step"),
        ("pipeline/physics/x.py", "from pipeline import store"),
        ("pipeline/physics/x.py", "import pipeline.learning.loop as loop"),
        (
            "pipeline/physics/x.py",
            "class A:\n    def f(self):\n        try:\n            import ray.data\n        finally:\n            pass",
        ),
        ("pipeline/physics/x.py", "if x:\n    pass\nelse:\n    from mlflow import log_metric"),
        ("pipeline/data/x.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import ray"),
        ("pipeline/data/x.py", "import importlib\nray = importlib.import_module('ray')"),
        ("pipeline/data/x.py", "from pipeline.learning import loop"),
        ("pipeline/engine/x.py", "from stages.train import Train"),
        ("stages/x.py", "from stages.recipes import sfbd"),
        ("stages/x.py", "import ray"),
        ("pipeline/config.py", "def f():\n    import torch"),
        ("pipeline/store.py", "from torch import nn"),
        ("pipeline/store.py", "from . import graph"),
    ],
)
def test_the_check_sees_what_is_forbidden(file, source):
    assert len(broken_arrows(source, ROOT / file)) == 1


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("pipeline/engine/x.py", "import ray, mlflow\nfrom ..learning.loop import fit\nfrom ..graph import Step"),
        (
            "stages/recipes/x.py",
            "from stages.train import Train\nfrom ..ingest import Ingest\nfrom pipeline.graph import step",
        ),
        ("pipeline/physics/x.py", "from ..keys import Key\nfrom .linear import LinearMap\nimport torch, rayon"),
        ("pipeline/store.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .graph import Step"),
        ("pipeline/physics/__init__.py", "from .linear import LinearMap\nfrom ..keys import Key"),
    ],
)
def test_the_check_lets_pass_what_is_allowed(file, source):
    assert broken_arrows(source, ROOT / file) == []


def test_the_wheel_holds_every_package():
    packages = {module_of(path) for path in FILES if path.name == "__init__.py"}
    assert {module_of(path / "__init__.py") for path in {file.parent for file in FILES}} == packages
    listed = PROJECT["tool"]["setuptools"]["packages"]
    assert listed == sorted(listed)
    assert set(listed) == packages


def test_the_command_is_the_stages_main():
    assert PROJECT["project"]["scripts"] == {"kintsugi": "stages.__main__:main"}
    main = ROOT / "stages" / "__main__.py"
    if main.exists():
        tree = ast.parse(main.read_text())
        assert any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body)


def test_import_pipeline_loads_neither_torch_nor_ray_and_is_quick(fresh):
    heavy = "{'torch', 'ray', 'mlflow', 'numpy', 'pydantic'}"
    code = "import sys, time; start = time.perf_counter(); import pipeline; end = time.perf_counter(); "
    code += f"print(end - start, *sorted(set(sys.modules) & {heavy}))"
    seconds, *loaded = min((fresh(code).split() for _ in range(3)), key=lambda words: float(words[0]))
    assert loaded == []
    assert float(seconds) < 1


@pytest.mark.parametrize("room", sorted(WITHOUT_TORCH - {"pipeline"}))
def test_the_spine_loads_no_torch(fresh, room):
    code = f"import sys, pipeline.{room}; print(*sorted(set(sys.modules) & {{'torch', 'ray', 'mlflow'}}))"
    assert fresh(code).split() == []
