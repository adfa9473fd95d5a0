"""A fingerprint is a function of what a configuration says, and of nothing else."""

from __future__ import annotations

import collections
import dataclasses
import enum
import functools
import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.identity import FINGERPRINT_LENGTH, canonical, class_path, dumps, fingerprint

GOLDEN = """
import dataclasses, enum, typing
class Mode(enum.Enum):
    FAST = 1
    EXACT = "exact"
@dataclasses.dataclass(frozen=True)
class Inner:
    size: int = 8
    rate: float = 0.1
@dataclasses.dataclass(frozen=True)
class Outer:
    version: typing.ClassVar[int] = 3
    inner: Inner
    mode: Mode = Mode.FAST
    names: tuple = ()
    table: dict = dataclasses.field(default_factory=dict)
    note: typing.Any = None
VALUES = [
    Inner(),
    Inner(size=9, rate=1e-5),
    Outer(Inner()),
    Outer(Inner(size=2), Mode.EXACT, ("a", 1, True), {"z": 1.5, "a": None, "é": {}}, "σ"),
]
"""
TEXTS = [
    '{"is":"golden.Inner"}',
    '{"is":"golden.Inner","rate":1e-05,"size":9}',
    '{"inner":{"is":"golden.Inner"},"is":"golden.Outer","version":3}',
    '{"inner":{"is":"golden.Inner","size":2},"is":"golden.Outer","mode":{"is":"golden.Mode","name":"EXACT"},'
    '"names":["a",1,true],"note":"\\u03c3","table":{"a":null,"z":1.5,"\\u00e9":{}},"version":3}',
]
FINGERPRINTS = [
    "9232a7fe32be342edeac",
    "2f706e5ca6e4717a379d",
    "a948c91b4a3be14a8fc4",
    "8530a5698b17c1c162a3",
]


def golden(source: str = GOLDEN) -> dict[str, Any]:
    """The names of `source` as if it were a module called golden."""
    names: dict[str, Any] = {"__name__": "golden"}
    exec(compile(source, "golden.py", "exec", dont_inherit=True), names)
    return names


def test_golden_texts_and_fingerprints():
    values = golden()["VALUES"]
    assert [dumps(canonical(value)) for value in values] == TEXTS
    assert [fingerprint(value) for value in values] == FINGERPRINTS
    assert [hashlib.sha256(text.encode()).hexdigest()[:FINGERPRINT_LENGTH] for text in TEXTS] == FINGERPRINTS


@pytest.mark.slow
@pytest.mark.parametrize("seed", ["0", "4711"])
def test_a_fresh_process_with_another_hash_seed_agrees(fresh, seed):
    code = "import test_identity as t; print(*map(t.fingerprint, t.golden()['VALUES']))"
    assert fresh(code, PYTHONHASHSEED=seed).split() == FINGERPRINTS


def test_a_new_field_with_a_default_orphans_nothing():
    grown = golden(GOLDEN.replace("    note:", "    fresh: float = 0.5\n    deep: Inner = Inner(size=3)\n    note:"))
    grown["VALUES"][3] = grown["Outer"](
        grown["Inner"](size=2), grown["Mode"].EXACT, ("a", 1, True), {"z": 1.5, "a": None, "é": {}}, note="σ"
    )
    assert [fingerprint(value) for value in grown["VALUES"]] == FINGERPRINTS
    moved = dataclasses.replace(grown["VALUES"][2], deep=grown["Inner"](size=4))
    assert fingerprint(moved) != FINGERPRINTS[2]


def test_version_and_class_path_are_part_of_it():
    bumped = golden(GOLDEN.replace("[int] = 3", "[int] = 4"))["VALUES"]
    assert fingerprint(bumped[2]) != FINGERPRINTS[2]
    assert fingerprint(bumped[0]) == FINGERPRINTS[0]
    renamed = golden(GOLDEN.replace("Inner", "Other"))["VALUES"]
    assert not set(map(fingerprint, renamed)) & set(FINGERPRINTS)
    assert class_path(golden()["Inner"]) == "golden.Inner"


# Two values are the same when they are equal as mathematics, bool being no number and tuple and list one kind.


def same(a: Any, b: Any) -> bool:
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    return (type(a) in (int, float) and type(b) in (int, float) and a == b) or (type(a) is type(b) and a == b)


close = st.sampled_from([0, -0.0, 1, 1.0, True, False, None, "", "1", "true", "null", 0.1, 1e16, 10**16, 10**16 + 1])
scalars = close | st.none() | st.booleans() | st.integers() | st.text(max_size=3)
scalars |= st.floats(allow_nan=False, allow_infinity=False)
trees = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=6,
)


@given(trees, trees)
def test_two_fingerprints_agree_exactly_when_the_values_are_the_same(a, b):
    assert (fingerprint(a) == fingerprint(b)) == same(a, b)


@given(close, close)
def test_scalars_that_look_alike(a, b):
    assert (fingerprint((a,)) == fingerprint((b,))) == same(a, b)
    assert fingerprint({"x": 1.0, "y": -0.0}) == fingerprint({"y": 0, "x": 1}) != fingerprint({"y": 0, "x": True})


@given(st.dictionaries(st.text(max_size=3), scalars, min_size=2, max_size=5), st.randoms(use_true_random=False))
def test_the_order_of_keys_is_irrelevant(table, random):
    keys = list(table)
    random.shuffle(keys)
    assert fingerprint({key: table[key] for key in keys}) == fingerprint(table)


@dataclass(frozen=True)
class Leafy:
    number: float = 1.0
    flag: bool = True
    word: str = "w"
    many: tuple[Any, ...] = (1, 2)
    inner: Any = None


def flat(tree: Any, path: tuple = ()) -> list[tuple]:
    """The path of every leaf."""
    if isinstance(tree, Leafy):
        return [found for f in dataclasses.fields(tree) for found in flat(getattr(tree, f.name), (*path, f.name))]
    if isinstance(tree, tuple) and tree:
        return [found for i, item in enumerate(tree) for found in flat(item, (*path, i))]
    return [path]


def changed(tree: Any, path: tuple, value: Any) -> Any:
    if not path:
        return value
    if isinstance(tree, Leafy):
        return dataclasses.replace(tree, **{path[0]: changed(getattr(tree, path[0]), path[1:], value)})
    return tuple(changed(item, path[1:], value) if i == path[0] else item for i, item in enumerate(tree))


def leaf(tree: Any, path: tuple) -> Any:
    for name in path:
        tree = getattr(tree, name) if isinstance(tree, Leafy) else tree[name]
    return tree


leafy = st.recursive(
    st.builds(Leafy, scalars, scalars, scalars, st.lists(scalars, max_size=3).map(tuple)),
    lambda inner: st.builds(Leafy, scalars, scalars, scalars, st.lists(inner, max_size=2).map(tuple), inner),
    max_leaves=4,
)


@given(leafy, scalars, st.data())
def test_any_changed_leaf_changes_the_fingerprint(tree, value, data):
    path = data.draw(st.sampled_from(flat(tree)))
    other = changed(tree, path, value)
    assert (fingerprint(other) == fingerprint(tree)) == same(leaf(tree, path), value)


def test_a_field_at_its_default_counts_as_absent_but_never_as_an_equal_looking_value():
    assert dumps(canonical(Leafy())) == f'{{"is":"{class_path(Leafy)}"}}'
    assert fingerprint(Leafy(number=1)) == fingerprint(Leafy())
    assert fingerprint(Leafy(number=True)) != fingerprint(Leafy())  # type: ignore[arg-type]
    assert fingerprint(Leafy(flag=1)) != fingerprint(Leafy())  # type: ignore[arg-type]


@dataclass
class Mutable:
    x: int = 1


@dataclass(frozen=True)
class BadDefault:
    limit: float = math.inf


class Plain:
    version: ClassVar[int] = 1


class Colour(enum.IntEnum):
    RED = 1


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        math.inf,
        -math.inf,
        Path("runs"),
        {1},
        frozenset(),
        b"bytes",
        np.zeros(2),
        np.float64(1),
        np.int64(1),
        Mutable(),
        Mutable,
        Plain(),
        lambda x: x,
        functools.partial(print),
        len,
        1j,
        object(),
        {1: "a"},
        range(2),
        collections.deque(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_has_no_canonical_form_raises_with_its_path(value):
    with pytest.raises((TypeError, ValueError), match=r"^configuration\.inner\.many\.1\b"):
        canonical(Leafy(inner=Leafy(many=(1, value))))
    with pytest.raises((TypeError, ValueError), match=r"^configuration\.table\b"):
        fingerprint({"table": value})


def test_a_default_without_canonical_form_is_named():
    with pytest.raises(ValueError, match=r"the default of configuration\.limit is inf"):
        fingerprint(BadDefault(3.0))


def test_an_enum_is_neither_its_value_nor_its_name():
    assert len({fingerprint(v) for v in (Colour.RED, 1, "RED", True)}) == 4
