"""The command line in this process: what it returns, prints and leaves; recipes of the tests; one Ray for all."""

from __future__ import annotations

import contextlib
import importlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from doubles import BAD, Quiet, Silent, Tracked, pixels, png

from pipeline import graph
from pipeline.engine import cluster, track
from stages import recipes
from stages.__main__ import main

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Said:
    """What a command gave back: exit code, standard output, standard error."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The last line of standard output."""
        return json.loads(self.out.splitlines()[-1])

    def refused(self, *parts: str, code: int = 2) -> None:
        """One sentence on standard error beside progress, nothing on standard output, the exit code."""
        lines = [line for line in self.err.splitlines() if not line.startswith("{")]
        assert self.code == code, self.err
        assert self.out == ""
        assert len(lines) == 1, self.err
        assert lines[0].startswith("kintsugi: ")
        assert len(lines[0]) < 500
        assert ". " not in lines[0].replace("... ", ""), f"more than one sentence: {lines[0]}"
        assert "Traceback" not in self.err
        assert all(part in lines[0] for part in parts), lines[0]


@pytest.fixture
def kintsugi(tmp_path, monkeypatch, capsys) -> Callable[..., Said]:
    """`kintsugi("run", "toy", ...)` in an empty folder, with the recipes of the tests beside the shipped ones."""
    monkeypatch.chdir(tmp_path)
    for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI", "KINTSUGI_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(recipes, "__path__", [*recipes.__path__, str(HERE / "recipes")])

    def run(*words: str) -> Said:
        capsys.readouterr()
        try:
            code = main([str(word) for word in words])
        except SystemExit as exit:  # --help
            code = exit.code or 0
        said = capsys.readouterr()
        return Said(code, said.out, said.err)

    return run


@pytest.fixture
def toy(kintsugi, monkeypatch) -> Any:
    """The module of the toy recipe, whose steps run without Ray and MLflow; its faults are mended afterwards."""
    monkeypatch.setattr(cluster, "connect", lambda: contextlib.nullcontext((2.0, 0.0)))
    monkeypatch.setattr(track, "Tracking", Silent)
    module = importlib.import_module("stages.recipes.toy")
    yield module
    module.faults.clear()


@pytest.fixture
def pictures(tmp_path) -> Callable[..., Path]:
    """`pictures(n, bad=True)`: a folder with n good pictures of 8x8, and the bad ones."""

    def make(count: int = 6, bad: bool = True) -> Path:
        folder = tmp_path / "pictures"
        folder.mkdir(exist_ok=True)
        for i in range(count):
            (folder / f"good-{i}.png").write_bytes(png(pixels(i)))
        for name, (data, _) in BAD.items() if bad else ():
            (folder / name).write_bytes(data)
        return folder

    return make


@pytest.fixture
def here(monkeypatch):
    """`here(target, store)`: run with everything made in this process."""

    def in_process(function, items, at, load=None):
        return map(function if load is None else lambda item: function(item, load), items)

    monkeypatch.setattr("pipeline.engine.shards.each", in_process)
    monkeypatch.setattr("pipeline.engine.tasks.each", in_process)
    return lambda target, store: graph.run(target, store, lambda step: contextlib.nullcontext(Quiet()), (2, 0))


@pytest.fixture
def alone(kintsugi, here, monkeypatch):
    """The command line without Ray and MLflow."""
    monkeypatch.setattr(cluster, "connect", lambda: contextlib.nullcontext((2.0, 0.0)))
    monkeypatch.setattr(track, "Tracking", Tracked)
    return kintsugi
