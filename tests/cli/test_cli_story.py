"""Every run leaves its story, and the store an index that leads to all of them."""

from __future__ import annotations

import contextlib
import re

import pytest
from doubles import Silent

from pipeline.engine import cluster, track


@pytest.fixture
def alone_cli(kintsugi, monkeypatch):
    monkeypatch.setattr(cluster, "connect", lambda: contextlib.nullcontext((1.0, 0.0)))
    monkeypatch.setattr(cluster, "call", lambda scale, function, *given, **how: function(*given))
    monkeypatch.setattr(track, "Tracking", Silent)
    return kintsugi


def test_every_run_leaves_its_story_and_an_index_that_leads_to_it(alone_cli, tmp_path):
    first = alone_cli("run", "toy", "--json").json["target"]
    second = alone_cli("run", "toy", "--value", "7", "--json").json["target"]
    page = (tmp_path / "runs/index.html").read_text()
    links = re.findall(r'href="([^"]+)"', page)
    assert {f"results/toy/{target}/story.html" for target in (first, second)} <= {*links}
    assert all((tmp_path / "runs" / link).is_file() for link in links)
    story = tmp_path / f"runs/results/toy/{first}/story.html"
    for link in re.findall(r'href="([^"]+)"', story.read_text()):
        assert (story.parent / link).is_file()
    story.unlink()
    assert "stories written: 2" in alone_cli("report").out
    assert story.is_file()
    assert alone_cli("report", "toy/second", "--out", "one.html").code == 0
    assert "toy/second" in (tmp_path / "one.html").read_text()
    alone_cli("report", "toy/thrid").refused("there is no 'toy/thrid'")
    alone_cli("report", "--store", "empty").refused("no runs")
