"""docs/scale.md has the tables of benchmarks/scale.py, whose arithmetic is right where it can be done by hand."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "benchmarks"))

import scale  # noqa: E402

USUAL = scale.Assumed()


@pytest.mark.parametrize("name", scale.tables(USUAL))
def test_the_page_has_the_table_that_the_script_prints(name):
    page = (ROOT / "docs" / "scale.md").read_text()
    assert scale.tables(USUAL)[name] in page, (
        "PYTHONPATH=. python benchmarks/scale.py has other figures: bring them over"
    )


def test_one_gpu_is_fed_and_exchanges_nothing():
    found = scale.limits(USUAL, 1, USUAL.image, USUAL.read_image, shared=False)
    assert min(found, key=found.__getitem__) == "GPUs"
    assert found["gradients"] == float("inf")
    assert found["requests"] == pytest.approx(5_500 * 256 / USUAL.requests)


def test_shares_lift_what_is_read_by_the_number_of_workers_and_leave_the_rest():
    all_of_it, share = (
        scale.limits(USUAL, 64, USUAL.latent, USUAL.read_latent, shared=shared) for shared in (False, True)
    )
    for name in ("reading", "network", "requests"):
        assert share[name] == pytest.approx(64 * all_of_it[name])
    assert (share["GPUs"], share["gradients"]) == (all_of_it["GPUs"], all_of_it["gradients"])


def test_a_batch_four_times_as_large_exchanges_gradients_a_quarter_as_often():
    one, four = (
        scale.limits(a, 256, a.latent, a.read_latent, shared=True)["gradients"]
        for a in (USUAL, replace(USUAL, batch=4 * USUAL.batch))
    )
    assert four == pytest.approx(4 * one)


def test_gradients_of_two_machines_take_half_of_what_endless_ones_would():
    assert scale.limits(USUAL, 16, 1, 1, False)["gradients"] == pytest.approx(2_048 * 50e9 / 4e9)
