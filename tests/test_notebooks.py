"""Notebooks import and never define; what is committed was executed from the sources beside it, without an error."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"
SOURCES = sorted(FOLDER.glob("*.py"))


def cells(source: str) -> list[tuple[str, str]]:
    """(kind, text) of the cells of a source in the percent format."""
    _, *parts = re.split(r"^# %%(.*)$", source, flags=re.MULTILINE)
    found = []
    for mark, text in zip(parts[::2], parts[1::2], strict=True):
        kind = "markdown" if "[markdown]" in mark else "code"
        lines = [line.removeprefix("#").removeprefix(" ") if kind == "markdown" else line for line in text.split("\n")]
        found.append((kind, "\n".join(lines).strip()))
    return found


def test_there_are_six():
    assert [source.stem[:2] for source in SOURCES] == [f"0{i}" for i in range(1, 7)]


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_a_notebook_was_executed_from_its_source(source):
    notebook = json.loads(source.with_suffix(".ipynb").read_text())
    held = [(cell["cell_type"], "".join(cell["source"]).strip()) for cell in notebook["cells"]]
    assert held == cells(source.read_text()), "run `make notebooks`"
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1)), "run `make notebooks`"
    outputs = [output for cell in code for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert not [output["text"] for output in outputs if output.get("name") == "stderr"], (
        "warnings are for nobody to read"
    )
    assert any("image/png" in json.dumps(output) for output in outputs), "nothing to look at"
    text = json.dumps(
        [
            {**output, "data": {k: v for k, v in output.get("data", {}).items() if k != "image/png"}}
            for output in outputs
        ]
    )
    assert not re.search(r"(?<![\w+/])/(tmp|work|home|root|Users)/", text), "a path of somebody's machine"


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_a_notebook_imports_and_never_defines(source):
    tree = ast.parse(source.read_text())
    defined = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Lambda)]
    assert not defined, "what is worth a name belongs to the library"
