"""Spaces are read without being evaluated, and draw what they say."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import ConfigError
from pipeline.engine.draws import Plan, _listed
from pipeline.engine.spaces import Space, read, read_all


@pytest.mark.parametrize(
    ("text", "kind", "arguments"),
    [
        ("loguniform(1e-4,10)", "loguniform", (1e-4, 10)),
        (" uniform( -1 , 1.5 ) ", "uniform", (-1, 1.5)),
        ("quniform(64, 640, 64)", "quniform", (64, 640, 64)),
        ("randint(0, 5)", "randint", (0, 5)),
        ("choice(6400,12800)", "choice", (6400, 12800)),
        ("choice([DISAGREEMENT], [COVERAGE, 'b'], [])", "choice", (["DISAGREEMENT"], ["COVERAGE", "b"], [])),
        ("choice(adamw, 'two words', null, true, -1)", "choice", ("adamw", "two words", None, True, -1)),
        ("grid([1, 2], {'is': 'a.B'})", "grid", ([1, 2], {"is": "a.B"})),
    ],
)
def test_what_can_be_written(text, kind, arguments):
    assert read(text) == Space(kind, arguments)
    assert read(str(read(text))) == read(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "cannot be read"),
        ("1", "is no space"),
        ("uniform(0, 1", "cannot be read"),
        ("unifrom(0, 1)", "did you mean 'uniform'"),
        ("choice({is: 3})", "cannot be read"),
        ("uniform(0)", "must be uniform"),
        ("uniform(1, 1)", "is empty"),
        ("uniform(0, x)", "none of the finite numbers"),
        ("uniform(0, 1e999)", "none of the finite numbers"),
        ("uniform(low=0, high=1)", "is no space"),
        ("loguniform(0, 1)", "above 0"),
        ("quniform(0, 1, 2)", "steps of 2"),
        ("randint(0, 1.5)", "whole numbers"),
        ("randint(True, 3)", "whole numbers"),
        ("choice()", "no values"),
        ("choice(1, 1)", "twice"),
        ("choice(open('x'))", "write it out"),
        ("choice(*a)", "write it out"),
        ("choice({1, 2})", "write it out"),
        ("choice(b'x')", "write it out"),
        ("__import__('os').system('false')", "is no space"),
        ("(lambda: 1)()", "is no space"),
        ("(" * 5000, "cannot be read"),
        ("choice(" + "1," * 9000 + ")", "too long"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(text, said):
    with pytest.raises(ConfigError, match=said) as refused:
        read(text)
    assert len(str(refused.value)) < 300


@given(st.text("choiceunfrmglk(),.0123[]{}'*=:_ -", max_size=40))
def test_no_text_does_more_than_be_refused(text):
    with contextlib.suppress(ConfigError):
        assert isinstance(read(text), Space)


def test_paths_are_searched_once():
    assert list(read_all(["a=uniform(0,1)", "ab=choice(1,2)"])) == ["a", "ab"]
    assert read_all({"a": "uniform(0,1)"}) == read_all({"a": Space("uniform", (0, 1))})
    for over, said in [
        (["a=uniform(0,1)", "a=choice(1)"], "also searched"),
        (["a.b=choice(1)", "a=choice(2)"], "also searched"),
        (["a"], "names no space"),
        ([], "nothing is searched"),
    ]:
        with pytest.raises(ConfigError, match=said):
            read_all(over)


def drawn(text: str, count: int = 4000, seed: int = 0) -> np.ndarray:
    plan = Plan({"x.y": read(text)}, count, seed=seed)
    return np.array([options["x.y"] for options in _listed(plan)])


def furthest(uniform: np.ndarray) -> float:
    """Kolmogorov's distance of numbers within [0, 1] from the uniform distribution."""
    return float(np.abs(np.sort(uniform) - (np.arange(len(uniform)) + 0.5) / len(uniform)).max())


def test_draws_have_the_distribution_that_they_are_called_after():
    x = drawn("loguniform(1e-4, 10)")
    assert (x.min() >= 1e-4) & (x.max() <= 10)
    assert furthest(np.log(x / 1e-4) / np.log(1e5)) < 1.63 / np.sqrt(len(x))  # the 1% point
    assert furthest((x - x.min()) / np.ptp(x)) > 0.5, "every order of magnitude, not every number, is as likely"
    assert furthest((drawn("uniform(-1, 3)") + 1) / 4) < 1.63 / np.sqrt(len(x))
    assert set(drawn("randint(2, 5)")) == {2, 3, 4}
    steps = drawn("quniform(64, 640, 64)")
    assert np.allclose(steps % 64, 0)
    assert set(drawn("choice(3, 5)")) == {3, 5}


def test_more_trials_begin_with_the_fewer_and_another_seed_draws_others():
    assert (drawn("uniform(0, 1)", 30)[:10] == drawn("uniform(0, 1)", 10)).all()
    assert not np.isin(drawn("uniform(0, 1)", 10), drawn("uniform(0, 1)", 10, seed=1)).any()


def test_a_grid_has_each_combination_once():
    plan = Plan({"a": read("choice(1, 2, 3)"), "b.c": read("grid(x, y)")}, None, "grid")
    found = [(options["a"], options["b.c"]) for options in _listed(plan)]
    assert plan.count == len(found) == len(set(found)) == 6
    assert Plan(plan.spaces, 4, "grid").count == 4


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"trials": 0}, "--trials is 0"),
        ({"mode": "least"}, "min or max"),
        ({"searcher": "annealing"}, "random or grid or optuna"),
        ({"scheduler": "fifo"}, "none or asha"),
        ({"searcher": "grid"}, "needs listed values"),
    ],
)
def test_what_does_not_go_together_is_refused(options, said):
    with pytest.raises(ConfigError, match=said):
        Plan({"a": read("uniform(0, 1)")}, **options)


@pytest.mark.parametrize("searcher", ["random", "optuna"])
def test_a_grid_is_for_the_grid(searcher):
    with pytest.raises(ConfigError, match="needs --searcher grid"):
        Plan({"a": read("grid(1, 2)")}, searcher=searcher)
