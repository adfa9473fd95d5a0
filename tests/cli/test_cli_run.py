"""A run makes what is missing, says so in one JSON object, and loses nothing to what goes wrong."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import yaml

from pipeline.artifact import sealed
from pipeline.place import Place
from pipeline.store import Store

KEYS = ["recipe", "target", "steps", "metrics", "report", "story", "seconds"]


def test_run_says_what_it_made_and_makes_it_once(kintsugi, toy, tmp_path):
    said = kintsugi("run", "toy", "--value", "3", "--json")
    assert said.code == 0
    assert list(said.json) == KEYS
    assert said.json["steps"] == {"run": 2, "cached": 0}
    assert said.json["metrics"] == {"value": 3.0}
    assert isinstance(said.json["seconds"], float)
    beside = tmp_path / "runs/results/toy" / said.json["target"]
    assert said.json["report"] == str(beside / "report.html")
    assert (beside / "report.html").read_text() == "<p>done</p>"
    assert said.json["story"] == str(beside / "story.html")
    assert (beside / "story.html").is_file()
    assert json.loads((beside / "metrics.json").read_text()) == {"value": 3.0}
    assert yaml.safe_load((beside / "config.yaml").read_text())["value"] == 3

    again = kintsugi("run", "toy", "--value", "3", "--json").json
    assert again.pop("steps") == {"run": 0, "cached": 2}
    assert {**again, "seconds": 0} == {k: v for k, v in said.json.items() if k != "steps"} | {"seconds": 0}
    assert kintsugi("run", "toy", "--value", "4", "--json").json["steps"] == {"run": 1, "cached": 1}


def test_without_json_people_read_it(kintsugi, toy):
    said = kintsugi("run", "toy")
    assert re.search(r"^value +1\.0000$", said.out, re.MULTILINE)
    assert "2 steps run, 0 cached" in said.out
    assert "report: /" in said.out


def test_progress_is_json_lines_on_standard_error(kintsugi, toy):
    lines = [json.loads(line) for line in kintsugi("run", "toy").err.splitlines()]
    assert [(line["event"], line["step"]) for line in lines] == [
        (event, step) for step in ("first", "second") for event in ("start", "progress", "done")
    ]
    assert lines[1]["loss"] == 1.0
    events = [json.loads(line)["event"] for line in kintsugi("run", "toy").err.splitlines()]
    assert events == ["cached", "cached"]


def test_progress_is_bars_on_a_terminal(kintsugi, toy, monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr("sys.stderr", terminal)
    assert kintsugi("run", "toy").code == 0
    shown = re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", terminal.getvalue())
    assert "✓ first" in shown
    assert "✓ second" in shown
    assert '{"event"' not in shown


def test_plan_says_why_and_makes_nothing(kintsugi, toy, tmp_path):
    first = kintsugi("plan", "toy", "--json").json
    assert (first["missing"], [s["why"] for s in first["steps"]]) == (2, ["never made", "never made"])
    assert not (tmp_path / "runs").exists()
    kintsugi("run", "toy")
    assert [s["why"] for s in kintsugi("plan", "toy", "--json").json["steps"]] == ["cached", "cached"]
    changed = kintsugi("plan", "toy", "--set", "inner.rate=2").out
    assert "changed inner.rate: 0.5 → 2.0" in changed
    assert "1 of 2 steps will run" in changed


def test_ls_show_diff_and_gc_of_what_was_made(kintsugi, toy, tmp_path):
    empty = kintsugi("ls", "--json")
    assert empty.json == []
    assert "there are no artifacts in" in empty.err
    old = kintsugi("run", "toy", "--json").json["target"]
    new = kintsugi("run", "toy", "--value", "2", "--seed", "7", "--json").json["target"]
    rows = {row["address"]: row for row in kintsugi("ls", "--json").json}
    assert len(rows) == 4
    assert rows[f"number/{new}"]["names"] == ["toy/second"]
    assert rows[f"number/{old}"]["names"] == []
    Store(str(tmp_path / "runs")).point("another-recipe", {"a-name-of-some-length": f"number/{new}"})
    lines = kintsugi("ls").out.splitlines()
    assert len(lines) == 5, "a row is cut in two"
    assert any(re.search(rf"number/{new} .*toy/second", line) for line in lines)

    manifest = yaml.safe_load(kintsugi("show", "toy/second").out)
    assert manifest == kintsugi("show", new[:9], "--json").json
    assert manifest["config"]["value"] == 2
    moved = {row["path"]: (row["old"], row["new"]) for row in kintsugi("diff", old, "toy/second", "--json").json}
    assert moved == {"value": (1, 2), "after.value": (0, 7)}
    assert kintsugi("diff", new, "toy/second").out == "no difference\n"

    found = kintsugi("gc", "--json").json["found"]
    assert f"objects/number/{old}" in found
    assert len(found) == 2
    assert (tmp_path / f"runs/objects/number/{old}").exists()
    assert kintsugi("gc", "--yes", "--json").json["deleted"] == found
    assert not (tmp_path / f"runs/objects/number/{old}").exists()
    assert kintsugi("run", "toy", "--value", "2", "--seed", "7", "--json").json["steps"]["run"] == 0


def test_a_name_whose_step_was_never_made(kintsugi, toy):
    toy.faults.append(lambda at: (_ for _ in ()).throw(ValueError("no")))
    assert kintsugi("run", "toy").code == 2
    kintsugi("show", "toy/second").refused("there is no 'toy/second'", "did you mean 'toy/first'?")


@pytest.mark.parametrize("verb", ["run", "gc"])
def test_a_file_stands_where_the_store_should_be(kintsugi, toy, tmp_path, verb):
    (tmp_path / "file").touch()
    if verb == "run":
        kintsugi("run", "toy", "--store", "file/runs").refused("cannot be written to", "--store")
    else:
        assert kintsugi("gc", "--store", "file/runs", "--json").json == {"found": []}


def test_a_store_without_write_permission(kintsugi, toy, tmp_path):
    shut = tmp_path / "shut"
    shut.mkdir(mode=0o500)
    user = os.geteuid()
    os.chmod(tmp_path, 0o755)
    try:
        if user == 0:
            os.seteuid(65534)
        said = kintsugi("run", "toy", "--store", shut / "runs")
    finally:
        os.seteuid(user)
    said.refused("cannot be written to (Permission denied)", "--store")
    assert list(shut.iterdir()) == []


def test_a_disk_that_fills_up_costs_only_the_step_that_was_running(kintsugi, toy, monkeypatch, tmp_path):
    write = Place.write

    def full(place, name, data):
        if name == "metrics.json" and b"3.0" in (data if isinstance(data, bytes) else data.encode()):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path))
        return write(place, name, data)

    monkeypatch.setattr(Place, "write", full)
    kintsugi("run", "toy", "--value", "3").refused("the disk is full", str(tmp_path), "kintsugi gc", code=1)
    assert len(kintsugi("ls", "--json").json) == 1
    monkeypatch.setattr(Place, "write", write)
    assert kintsugi("run", "toy", "--value", "3", "--json").json["steps"] == {"run": 1, "cached": 1}


@pytest.mark.parametrize(
    ("fault", "code", "part"),
    [
        (ValueError("the sigma is 3: give 4"), 2, "second failed: the sigma is 3: give 4"),
        (RuntimeError("the network exploded"), 1, "second failed: the network exploded"),
        (KeyError("x"), 1, "second failed"),
        (PermissionError(errno.EACCES, "Permission denied", "/data/x"), 2, "Permission denied (/data/x)"),
        (MemoryError(), 1, "second failed"),
    ],
)
def test_a_step_that_fails_is_one_sentence_and_leaves_no_artifact(kintsugi, toy, fault, code, part):
    toy.faults.append(lambda at: (_ for _ in ()).throw(fault))
    kintsugi("run", "toy").refused(part, code=code)
    assert [row["label"] for row in kintsugi("ls", "--json").json] == ["first"]
    toy.faults.clear()
    assert kintsugi("run", "toy", "--json").json["steps"] == {"run": 1, "cached": 1}
    assert kintsugi("gc", "--json").json == {"found": []}  # the attempt that failed was taken over


@pytest.mark.slow
def test_a_killed_step_leaves_no_artifact_and_the_next_run_goes_on(kintsugi, toy, background, tmp_path):
    code = """if True:
        import contextlib, os, signal, sys
        sys.path.insert(0, sys.argv[1])
        from stages import recipes
        recipes.__path__.append(sys.argv[1] + "/recipes")
        from doubles import Silent
        from pipeline.engine import cluster, track
        cluster.connect = lambda: contextlib.nullcontext((1.0, 0.0)); track.Tracking = Silent
        import stages.recipes.toy as toy
        toy.faults.append(lambda at: os.kill(os.getpid(), signal.SIGKILL))
        from stages.__main__ import main
        main(["run", "toy", "--store", sys.argv[2]])
    """
    child = background(code, os.path.dirname(__file__), str(tmp_path / "runs"))
    _, err = child.communicate(timeout=100)
    assert child.returncode == -signal.SIGKILL, err
    assert [row["label"] for row in kintsugi("ls", "--json").json] == ["first"]
    assert any((tmp_path / "runs").rglob("half.txt")), "it was not killed in the middle"
    assert kintsugi("run", "toy", "--json").json["steps"] == {"run": 1, "cached": 1}
    assert len(list((tmp_path / "runs/objects").rglob("half.txt"))) == 2
    assert kintsugi("gc", "--json").json == {"found": []}


@pytest.mark.slow
def test_a_cluster_that_does_not_answer_is_told_at_once(kintsugi, monkeypatch):
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", "ray://user:secret@127.0.0.1:9")
    start = time.monotonic()
    kintsugi("run", "toy").refused("no Ray cluster answers at 127.0.0.1:9", "unset RAY_ADDRESS")
    assert time.monotonic() - start < 20
    assert kintsugi("ls", "--json").json == []


@pytest.mark.parametrize("label", ["first", "second"])
def test_a_hit_whose_manifest_disagrees_is_refused_and_kept(kintsugi, toy, tmp_path, label):
    kintsugi("run", "toy", "--value", "3")
    store = Store(str(tmp_path / "runs"))
    path = tmp_path / "runs/objects" / store.find(f"toy/{label}") / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["config"]["inner"]["rate"] = 0.75
    path.write_bytes(sealed(manifest))
    before = path.read_bytes()
    for verb in ("plan", "run"):
        said = kintsugi(verb, "toy", "--value", "3")
        said.refused("same address, other recipe", "inner.rate = 0.75, not 0.5", "bump `version` in Number")
    if label == "first":  # also where what needs it is not made yet
        kintsugi("run", "toy", "--value", "4").refused("same address, other recipe")
    assert path.read_bytes() == before


def test_a_manifest_changed_by_hand_is_found_and_gc_mends_it(kintsugi, toy, tmp_path):
    kintsugi("run", "toy")
    second = Store(str(tmp_path / "runs")).find("toy/second")
    path = tmp_path / "runs/objects" / second / "manifest.json"
    path.write_text(path.read_text().replace("0.5", "0.75"))
    for verb in ("plan", "run"):
        kintsugi(verb, "toy").refused(
            second, "is damaged", f"kintsugi gc --damaged --yes --store file://{tmp_path}/runs"
        )
    assert kintsugi("gc", "--damaged", "--yes", "--json").json["deleted"] == [f"objects/{second}"]
    assert kintsugi("run", "toy", "--json").json["steps"] == {"run": 1, "cached": 1}


def test_a_damaged_file_is_found_when_it_is_read(kintsugi, toy, tmp_path):
    kintsugi("run", "toy")
    store = Store(str(tmp_path / "runs"))
    (file,) = (tmp_path / "runs/objects" / store.find("toy/second")).rglob("metrics.json")
    file.write_text("{}")
    mend = f"kintsugi gc --damaged --yes --store file://{tmp_path}/runs"
    kintsugi("run", "toy").refused("metrics.json of number/", "is damaged", mend)
    assert len(kintsugi("gc", "--damaged", "--yes", "--json").json["deleted"]) == 1
    assert kintsugi("run", "toy", "--json").json["steps"] == {"run": 1, "cached": 1}


@pytest.mark.slow
def test_python_m_stages_is_the_command(tmp_path):
    root = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
    done = subprocess.run(
        [sys.executable, "-m", "stages", "plan", "partial_views", "--json"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["recipe"] == "partial_views"
