"""`kintsugi search`: refusals before anything starts; a sweep that is killed goes on, and its winner is the best."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import yaml

from pipeline.store import Store

SPACE = "--over", "penalty=loguniform(1e-2,1e3)"


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--over", "penalti=uniform(0,1)"], ["there is no 'penalti'", "did you mean 'penalty'?"]),
        (["--over", "penalty.deep=uniform(0,1)"], ["there is no 'penalty.deep'"]),
        (["--over", "rows=uniform(0,1)"], ["must be of type int"]),
        (["--over", "penalty=unifrom(0,1)"], ["--over penalty", "did you mean 'uniform'"]),
        (["--over", "penalty"], ["names no space"]),
        ([], ["nothing is searched"]),
        ([*SPACE, "--trials", "0"], ["--trials is 0"]),
        ([*SPACE, "--searcher", "grid"], ["a grid needs listed values"]),
        (["--over", "penalty=grid(1,2)", "--searcher", "optuna"], ["grid(...) needs --searcher grid"]),
        ([*SPACE, "--scheduler", "asha"], ["nothing that is searched is trained"]),
        ([*SPACE, "--watch", "fitted"], ["--watch fitted is no training"]),
        ([*SPACE, "--name", "fitted"], ["--name fitted is what a step"]),
    ],
)
def test_what_cannot_be_searched_is_refused_before_anything_starts(kintsugi, tmp_path, words, parts):
    kintsugi("search", "ridge", "--metric", "error", *words).refused(*parts)
    assert not (tmp_path / "runs/objects").exists()


def test_metrics_that_partial_views_does_not_report_and_options_that_change_nothing(kintsugi):
    over = ["--over", "residual.output_l2=loguniform(1e-4,10)"]
    kintsugi("search", "partial_views", *over, "--metric", "selektion").refused("did you mean 'selection'?")
    said = kintsugi("search", "partial_views", "--over", "samples=choice(16,32)")
    said.refused("--over samples changes nothing that selection depends on")
    said = kintsugi("search", "partial_views", *over, "--watch", "view/left", "--scheduler", "asha")
    said.refused("--watch view/left is no training that depends on what is searched; there are composed")


KILLED = """if True:
    import os, signal, sys
    sys.path.insert(0, sys.argv[1])
    from stages import recipes
    recipes.__path__.append(sys.argv[1] + "/recipes")
    import stages.recipes.ridge as ridge
    begun = []
    def fault(penalty):
        begun.append(penalty)
        if len(begun) == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
    ridge.faults.append(fault)
    from stages.__main__ import main
    sys.exit(main(sys.argv[3:]))
"""


@pytest.mark.ray
@pytest.mark.slow
def test_a_sweep_that_is_killed_goes_on_and_its_winner_is_the_best(kintsugi, background, tmp_path):
    words = ["search", "ridge", "--metric", "error", "--over", "penalty=choice(0.01, 30.0, -1.0, 3000.0)", "--json"]
    words += ["--searcher", "grid", "--at-once", "1", "--store", str(tmp_path / "runs")]
    first = background(KILLED, os.path.dirname(__file__), "3", *words)
    _, err = first.communicate(timeout=200)
    assert first.returncode == -signal.SIGKILL, err
    runs = _runs(tmp_path / "runs/mlflow.db")  # as many as were told of by then
    assert {*runs} <= {"rows", "search ridge", "trial 0", "trial 1", "trial 2"}

    second = background(KILLED, os.path.dirname(__file__), "-1", *words)
    out, err = second.communicate(timeout=200)
    assert second.returncode == 0, err
    lines = [json.loads(line) for line in err.splitlines() if line.startswith("{")]
    assert [line["step"] for line in lines if line["event"] == "start"] == ["2: fitted", "3: fitted"]
    said = json.loads(out.splitlines()[-1])
    assert said["steps"] == {"run": 1}
    assert [trial["status"] for trial in said["trials"]] == ["finished", "finished", "failed", "finished"]

    store = Store(str(tmp_path / "runs"))
    errors = {
        trial["options"]["penalty"]: store.artifact(trial["address"]).json("metrics.json")["error"]
        for trial in said["trials"]
        if trial["status"] == "finished"
    }
    assert len(errors) == 3
    assert said["best"]["options"]["penalty"] == min(errors, key=lambda penalty: errors[penalty])
    assert said["best"]["value"] == min(errors.values())
    assert store.find("ridge/best") == said["address"]
    assert yaml.safe_load(Path(said["options"]).read_text())["penalty"] == said["best"]["options"]["penalty"]
    assert kintsugi("run", "ridge", "--config", said["options"], "--json").json["steps"] == {"run": 0, "cached": 2}
    page = Path(said["report"]).read_text()
    assert page.count("data:image/png;base64") == 2
    assert "a penalty of -1.0 cannot be" in page
    assert "http" not in page, "it fetches something"

    after = _runs(tmp_path / "runs/mlflow.db")
    assert {name: after[name][0] for name in runs} == {name: known[0] for name, known in runs.items()}
    assert {name for name, (_, status, _) in after.items() if status == "FAILED"} == {"trial 2"}
    assert {after[name][1] for name in ("rows", "trial 0", "trial 1", "trial 3")} == {"FINISHED"}, "told though killed"
    parent = after["search ridge"][0]
    assert {name for name, (_, _, above) in after.items() if above == parent} == {f"trial {i}" for i in range(4)}


def _runs(database) -> dict[str, tuple[str, str, str | None]]:
    """{name: (id, status, parent's id)}, each name once."""
    import sqlite3

    with sqlite3.connect(database) as connection:
        rows = connection.execute(
            "select name, r.run_uuid, status, value from runs r left join tags t "
            "on t.run_uuid = r.run_uuid and t.key = 'mlflow.parentRunId'"
        ).fetchall()
    assert len({name for name, *_ in rows}) == len(rows), rows
    return {name: (run, status, parent) for name, run, status, parent in rows}
