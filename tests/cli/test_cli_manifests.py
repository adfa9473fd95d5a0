"""One damaged manifest costs one artifact: what needs it is refused, with the command that mends it, nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.store import Store

DAMAGED = ["", "{", "[]", "null", "{}", "\0" * 400, '{"format": 1}']


@pytest.fixture
def rot(kintsugi, toy, tmp_path):
    """`rot(text)`: of two steps that were made, the second's manifest becomes this; gives (the first, the second)."""

    def make(text: str) -> tuple[str, str]:
        assert kintsugi("run", "toy").code == 0
        store = Store(str(tmp_path / "runs"))
        first, second = store.find("toy/first"), store.find("toy/second")
        (tmp_path / "runs/objects" / second / "manifest.json").write_text(text)
        return first, second

    return make


@pytest.mark.parametrize("text", DAMAGED)
def test_ls_lists_the_rest_and_marks_it(kintsugi, rot, text):
    first, second = rot(text)
    rows = {row["address"]: row for row in kintsugi("ls", "--json").json}
    assert rows.keys() == {first, second}
    assert (rows[first]["damaged"], rows[first]["error"], rows[first]["label"]) == (False, None, "first")
    assert (rows[second]["damaged"], rows[second]["created"], rows[second]["names"]) == (True, None, ["toy/second"])
    said = kintsugi("ls")
    assert said.code == 0
    assert [("damaged" in line, "first" in line) for line in said.out.splitlines()[1:]] == [
        (True, False),
        (False, True),
    ]
    assert said.err.startswith(f"kintsugi: the manifest of {second} is damaged: delete it with")


def test_ls_does_not_call_damaged_what_another_version_wrote(kintsugi, rot):
    _, second = rot('{"format": 99}')
    (row,) = (row for row in kintsugi("ls", "--json").json if row["address"] == second)
    assert (row["damaged"], row["error"]) == (False, f"{second} was written in format 99, this version reads 1")
    assert "unreadable" in kintsugi("ls").out
    kintsugi("gc", "--damaged", "--yes").refused("format 99")


@pytest.mark.slow
@pytest.mark.parametrize("text", DAMAGED)
def test_what_needs_it_is_refused_and_gc_mends_it(kintsugi, rot, tmp_path, text):
    first, second = rot(text)
    mend = f"kintsugi gc --damaged --yes --store file://{tmp_path}/runs"
    for words in (("run", "toy"), ("plan", "toy"), ("show", "toy/second"), ("diff", first, "toy/second"), ("gc",)):
        kintsugi(*words).refused(second, mend)
    assert kintsugi("gc", "--damaged", "--json").json == {"found": [f"objects/{second}"]}
    assert Path(tmp_path / "runs/objects" / second).exists()
    assert kintsugi(*mend.split()[1:], "--json").json == {"deleted": [f"objects/{second}"]}
    assert kintsugi("run", "toy", "--json").json["steps"] == {"run": 1, "cached": 1}


def test_what_does_not_need_it_does_not_care(kintsugi, rot):
    _, second = rot("{")
    lines = kintsugi("plan", "toy", "--value", "3", "--json").json["steps"]
    assert [line["why"] for line in lines] == ["cached", "never made, and what had its name cannot be read"]
    assert kintsugi("run", "toy", "--value", "3", "--json").json["steps"] == {"run": 1, "cached": 1}
    assert kintsugi("show", "toy/second").code == 0
    assert kintsugi("gc", "--json").json == {"found": [f"objects/{second}"]}  # no name leads to it now


def test_what_only_a_damaged_artifact_needs_goes_with_it(kintsugi, rot, tmp_path):
    first, second = rot("{")
    kintsugi("run", "toy", "--seed", "1")  # takes both names
    store = Store(str(tmp_path / "runs"))
    store.point("kept", {"second": second})
    kintsugi("gc", "--yes").refused(second)  # nobody knows what it needs
    assert json.loads((tmp_path / "runs/objects" / first / "manifest.json").read_text())["label"] == "first"
    assert set(kintsugi("gc", "--damaged", "--json").json["found"]) == {f"objects/{first}", f"objects/{second}"}
