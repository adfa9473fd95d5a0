"""`kintsugi ls --sort`: runs and trials by a number that they report; what cannot be read costs itself alone."""

from __future__ import annotations

import json
import math

import pytest

from pipeline.engine.ledger import FAILED, Ledger, Trial
from pipeline.store import Store


@pytest.fixture
def ridges(kintsugi, alone):
    """Three runs of one recipe, in a store, by penalty: what `ls --sort` should say of each."""
    made = {}
    for penalty in (0.01, 30.0, 3000.0):
        said = kintsugi("run", "ridge", "--penalty", penalty, "--json").json
        made[penalty] = (f"run {said['target']}", said["metrics"]["error"])
    return made


def test_runs_are_ranked_with_the_options_that_differ_alone(kintsugi, ridges):
    want = sorted(ridges.items(), key=lambda item: item[1][1])
    rows = kintsugi("ls", "--sort", "error", "--json").json
    assert [(row["options"], row["what"], row["error"]) for row in rows] == [
        ({"penalty": penalty}, what, error) for penalty, (what, error) in want
    ]
    assert kintsugi("ls", "--sort", "error", "--json", "--reverse").json[0]["what"] == want[-1][1][0]
    (best,) = kintsugi("ls", "--sort", "error", "--top", "1", "--json").json
    assert best["place"] == 1
    assert best["options"] == {}, "there is nothing that it differs from"
    lines = kintsugi("ls", "--sort", "error").out.splitlines()
    assert len(lines) == 4
    assert f"penalty={want[0][0]}" in lines[1]
    assert "rows=" not in lines[1]


def test_how_wide_something_ran_is_no_option_of_what_came_of_it(kintsugi, tmp_path):
    for i, name in enumerate("ab"):
        home = Store(str(tmp_path / "runs")).place / f"results/wide/{name * 20}"
        home.write("metrics.json", json.dumps({"error": i}))
        home.write("config.yaml", f"scale:\n  cpus: {i + 1}\n  workers: {i + 1}\nscaled: {i}\n")
    rows = kintsugi("ls", "--sort", "error", "--json").json
    assert [row["options"] for row in rows] == [{"scaled": 0}, {"scaled": 1}]


def test_trials_stand_beside_runs_and_their_losers_stay_when_collected(kintsugi, ridges, tmp_path):
    store = Store(str(tmp_path / "runs"))
    home = store.place / f"results/ridge/search/{'ab' * 10}"
    home.write("options.yaml", "penalty: 1.0\nnoise: 0.5\nrows: 200\n")
    home.write("sweep.json", json.dumps({"metric": "error"}))
    ledger = Ledger(home)
    address = f"ridge/{ridges[30.0][0].split()[1]}"
    ledger.write(Trial(0, {"penalty": 30.0}, "finished", 0.01, address=address))
    ledger.write(Trial(1, {"noise": 0.25}, "finished", -1.0, address="ridge/" + "0" * 20))
    ledger.write(Trial(2, {"noise": 0.3}, FAILED))
    rows = kintsugi("ls", "--sort", "error", "--json").json
    assert len(rows) == 5
    assert rows[0]["what"] == f"trial 1 of {'ab' * 10}"
    assert rows[0]["options"] == {"penalty": 1.0, "noise": 0.25}
    assert rows[1]["what"] == f"trial 0 of {'ab' * 10}"
    assert rows[1]["address"] == address


def test_what_is_no_number_comes_last_and_what_is_damaged_is_named(kintsugi, ridges, tmp_path):
    store = Store(str(tmp_path / "runs"))
    lost = ridges[30.0][0].split()[1]
    broken = next((tmp_path / f"runs/objects/ridge/{lost}").glob("manifest.json"))
    broken.write_text(broken.read_text()[:40])
    (store.place / "results/ridge").write(f"{'c' * 20}/metrics.json", '{"error": NaN}')
    (store.place / "results/ridge").write(f"{'c' * 20}/config.yaml", "penalty: 7.0\n")
    (store.place / "results/ridge").write(f"{'d' * 20}/metrics.json", '{"other": 1}')
    (store.place / "results/ridge").write(f"{'d' * 20}/config.yaml", "penalty: 8.0\n")
    (store.place / "results/ridge").write(f"{'e' * 20}/metrics.json", "{")
    for way in ([], ["--reverse"]):
        said = kintsugi("ls", "--sort", "error", "--json", *way)
        rows = said.json
        assert len(rows) == 3
        assert rows[-1]["what"] == f"run {'c' * 20}"
        assert rows[-1]["error"] is None
        assert all(math.isfinite(row["error"]) for row in rows[:-1])
        assert f"run {lost} of ridge is left out" in said.err
        assert f"run {'e' * 20} of ridge is left out" in said.err
        assert "1 others report no error" in said.err
    assert "nan" in kintsugi("ls", "--sort", "error").out.splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--sort", "eror"], ["reports 'eror'", "did you mean 'error'?"]),
        (["--sort", "error", "--recipe", "rigde"], ["is of 'rigde'", "did you mean 'ridge'?"]),
        (["--sort", "error", "--top", "0"], ["--top is 0"]),
        (["--top", "3"], ["name what to rank by with --sort"]),
        (["--reverse"], ["name what to rank by with --sort"]),
    ],
)
def test_what_cannot_be_ranked_is_refused_in_a_sentence(kintsugi, ridges, words, parts):
    kintsugi("ls", *words).refused(*parts)
