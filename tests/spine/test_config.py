"""A configuration survives JSON, one value of it can be replaced, and a hostile file can do neither harm nor crash."""

from __future__ import annotations

import dataclasses
import enum
import json
import sys
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import config, flat
from pipeline.config import ConfigError, from_json, replace, to_json


class Mode(enum.Enum):
    FAST = "quick"
    EXACT = 2


class Levels(ABC):
    @abstractmethod
    def draw(self) -> float: ...


@dataclass(frozen=True)
class LogNormal(Levels):
    mean: float = -1.2
    std: float = 1.2

    def __post_init__(self) -> None:
        if self.std <= 0:
            raise ValueError(f"std is {self.std}: make it positive")

    def draw(self) -> float:
        return self.mean


@dataclass(frozen=True)
class Mixed(Levels):
    parts: tuple[Levels, ...] = ()
    weights: tuple[float, ...] = ()

    def draw(self) -> float:
        return 0.0


@dataclass(frozen=True)
class Adam:
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    fused: bool = False


@dataclass(frozen=True)
class Lion:
    lr: float = 1e-4


@dataclass(frozen=True)
class Train:
    name: str
    levels: Levels = LogNormal()
    optimizer: Adam | Lion = Adam()
    finetune: Adam | None = None
    mode: Mode = Mode.FAST
    fallback: Mode | None = None
    images: int = 1000
    limit: int | None = None
    shape: tuple[int, int] | tuple[int, int, int] = (8, 8)
    stages: tuple[Adam, ...] = ()
    pair: tuple[str, Levels] = ("a", LogNormal())
    table: dict[str, Levels] = field(default_factory=dict)
    extra: dict[str, int] | None = None
    seed: int | str = 0
    kind: Literal["a", "b"] = "a"


@dataclass(frozen=True)
class Stranger:
    x: int = 1


HERE = __name__
floats = st.floats(allow_nan=False, allow_infinity=False)
adam = st.builds(Adam, floats, st.tuples(floats, floats), st.booleans())
levels = st.recursive(
    st.builds(LogNormal, floats, st.floats(0.1, 9)),
    lambda inner: st.builds(Mixed, st.lists(inner, max_size=2).map(tuple), st.lists(floats, max_size=2).map(tuple)),
    max_leaves=4,
)
words = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
trains = st.builds(
    Train,
    name=words,
    levels=levels,
    optimizer=adam | st.builds(Lion, floats),
    finetune=st.none() | adam,
    mode=st.sampled_from(Mode),
    fallback=st.none() | st.sampled_from(Mode),
    images=st.integers(),
    limit=st.none() | st.integers(),
    shape=st.tuples(st.integers(), st.integers()) | st.tuples(st.integers(), st.integers(), st.integers()),
    stages=st.lists(adam, max_size=3).map(tuple),
    pair=st.tuples(words, levels),
    table=st.dictionaries(words, levels, max_size=2),
    extra=st.none() | st.dictionaries(words, st.integers(), max_size=2),
    seed=st.integers() | words,
    kind=st.sampled_from(["a", "b"]),
)


@pytest.mark.slow
@given(trains)
def test_a_tree_survives_json(train):
    text = config.dumps(train)
    back = from_json(Train, json.loads(text))
    assert back == train
    assert config.dumps(back) == text  # 1 and 1.0 are written as they were


@given(trains)
def test_every_field_is_written_and_a_class_is_named_only_where_it_could_be_another(train):
    tree = to_json(train)
    assert tree.keys() == {"is", *(f.name for f in dataclasses.fields(Train))}
    assert tree["levels"]["is"] == f"{HERE}.{type(train.levels).__name__}"
    assert tree["optimizer"]["is"] == f"{HERE}.{type(train.optimizer).__name__}"
    assert train.finetune is None or "is" not in tree["finetune"]
    assert all("is" not in item for item in tree["stages"])


@pytest.mark.slow
@given(trains, trains)
def test_replacing_every_leaf_turns_one_tree_into_the_other(a, b):
    for f in dataclasses.fields(Train):
        a = replace(a, f.name, to_json(b, None)[f.name])
    assert a == b


PLAIN = Train("t", stages=(Adam(), Adam(lr=2.0)), table={"a": Mixed((LogNormal(),))}, extra={"n": 1})


@pytest.mark.parametrize(
    ("path", "value", "seen"),
    [
        ("images", "2000", 2000),
        ("optimizer.lr", "1e-3", 1e-3),
        ("optimizer.lr", 1, 1.0),
        ("optimizer.betas.1", "0.5", 0.5),
        ("optimizer.fused", "true", True),
        ("stages.1.lr", "1e-5", 1e-5),
        ("levels.std", "0.5", 0.5),
        ("pair.1.mean", 2, 2.0),
        ("table.a.parts.0.mean", 3, 3.0),
        ("extra.n", "7", 7),
        ("extra.new", 7, 7),
        ("mode", "EXACT", Mode.EXACT),
        ("fallback", "EXACT", Mode.EXACT),
        ("limit", None, None),
        ("limit", 4, 4),
        ("kind", "b", "b"),
        ("shape", [1, 2, 3], (1, 2, 3)),
        ("finetune", {"lr": 2}, Adam(lr=2.0)),
        ("levels", {"is": f"{HERE}.Mixed", "weights": ["1", 2]}, Mixed((), (1.0, 2.0))),
        ("optimizer", {"is": f"{HERE}.Lion"}, Lion()),
        ("optimizer", Lion(3.0), Lion(3.0)),
    ],
)
def test_replace_touches_one_value(path, value, seen):
    new = replace(PLAIN, path, value)
    at: Any = new
    for name in path.split("."):
        at = at[int(name)] if isinstance(at, tuple) else at[name] if isinstance(at, dict) else getattr(at, name)
    assert at == seen
    assert type(at) is type(seen)
    moved = {p for p, _, _ in flat.differences(to_json(PLAIN), to_json(new))}
    assert all(p == path or p.startswith(f"{path}.") for p in moved)
    assert to_json(PLAIN)["images"] == 1000  # the original is as it was


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        ("optimiser.lr", 1, "there is no 'optimiser.lr'; did you mean 'optimizer.lr'?"),
        ("optimizer.rl", 1, "there is no 'optimizer.rl'"),
        ("stages.1.rl", 1, "there is no 'stages.1.rl'; did you mean 'stages.1.lr'?"),
        ("optimiser." + "x" * 9999, 1, "did you mean 'optimizer.xxx"),
        ("", 1, "there is no ''"),
        ("stages.2.lr", 1, "it has 2 positions, counted from 0"),
        ("stages.-1.lr", 1, "it has 2 positions"),
        ("stages.²", 1, "it has 2 positions"),
        ("stages." + "9" * 9999, 1, "it has 2 positions"),
        ("images.deep", 1, "1000 has nothing below it"),
        ("finetune.lr", 1, "None has nothing below it"),
        ("images", "many", "'images' must be of type int, not 'many'"),
        ("images", 1.5, "'images' must be of type int, not 1.5"),
        ("images", True, "'images' must be of type int, not True"),
        ("limit", True, "'limit' must be of type int | None, not True"),
        ("images", None, "'images' must be of type int, not None"),
        ("optimizer.lr", False, "'optimizer.lr' must be of type float"),
        ("optimizer.lr", "nan", "finite"),
        ("optimizer.lr", float("inf"), "finite"),
        ("optimizer.fused", "perhaps", "'optimizer.fused' must be of type bool"),
        ("optimizer", "adam", "'optimizer' must be of type"),
        ("optimizer", [1], "'optimizer' must be of type"),
        ("finetune", 3, "'finetune' must be of type"),
        ("levels", "lognormal", "'levels' must be of type Levels"),
        ("levels", {}, "'levels' must say which Levels it is, under 'is'"),
        ("levels.std", -1, "std is -1.0: make it positive"),
        ("mode", "FSAT", "'mode' must be of type Mode, not 'FSAT'; did you mean 'FAST'?"),
        ("mode", "quickly", "'mode' must be of type Mode"),
        ("mode", {"is": f"{HERE}.Mode"}, "no test_config.Mode known"),
        ("shape", [1], "'shape' needs 2 values, not 1"),
        ("shape", "12", "'shape' must be of type"),
        ("optimizer.betas", [1, 2, 3], "needs 2 values, not 3"),
        ("stages", [{"lr": 1}, {"rl": 2}], "there is no 'stages.1.rl'; did you mean 'stages.1.lr'?"),
        ("table", [1], "'table' must be of type"),
        ("extra", {"n": "x"}, "'extra.n' must be of type int"),
        ("kind", "c", "'kind' must be of type"),
        ("finetune", {3: 4}, "there is no 'finetune.3'"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(path, value, sentence):
    with pytest.raises(ConfigError) as caught:
        replace(PLAIN, path, value)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_missing_and_unknown_fields():
    with pytest.raises(ConfigError, match="'name' is missing"):
        from_json(Train, {})
    with pytest.raises(ConfigError, match=r"there is no 'imges'; did you mean 'images'\?"):
        from_json(Train, {"name": "t", "imges": 3})
    for data in ("train", 3, [1], None, True):
        with pytest.raises(ConfigError, match="the configuration must be of type Train"):
            from_json(Train, data)


@pytest.mark.parametrize(
    "path",
    [
        "os.system",
        "subprocess.Popen",
        "builtins.eval",
        "eval",
        "",
        ".",
        "..",
        f"{HERE}.Stranger",
        f"{HERE}.Levels",
        f"{HERE}.Mode",
        f"{HERE}.PLAIN",
        f"{HERE}.LogNormal.draw",
        f"{HERE}.sys.modules",
        f"{HERE}.Nothing",
        "pipeline.no_such_room.Thing",
        "pipeline.config.no.Thing",
        "pipeline.config.ConfigError",
        "pipeline..config",
        "pipeline.\0",
        "stages",
        "wave.Wave_read",
        "colorsys.X",
        "pipeline." + "a." * 5_000_000 + "X",
        7,
        None,
        ["os"],
        {"is": "os"},
    ],
    ids=lambda path: str(path)[:24],
)
def test_a_hostile_class_is_neither_built_nor_imported(path):
    sys.modules.pop("wave", None)
    sys.modules.pop("colorsys", None)
    from_json(Train, {"name": "t"})  # what reading itself imports
    before = set(sys.modules)
    with pytest.raises(ConfigError) as caught:
        from_json(Train, {"name": "t", "levels": {"is": path}})
    assert len(str(caught.value)) < 600
    new = {name for name in set(sys.modules) - before if not name.startswith(("pipeline", "stages"))}
    assert not new
    with pytest.raises(ConfigError):
        from_json(Train, {"is": path})


def test_looking_a_class_up_runs_no_code_of_a_module(monkeypatch):
    called = []
    monkeypatch.setattr(sys.modules[HERE], "__getattr__", called.append, raising=False)
    with pytest.raises(ConfigError):
        config.find_class(f"{HERE}.lazy.Thing", Levels, "levels")
    assert called == []


def test_a_broken_module_of_ours_says_so_and_is_not_taken_for_a_missing_one(monkeypatch, tmp_path):
    (tmp_path / "broken.py").write_text("import no_such_library_at_all")
    import pipeline

    monkeypatch.setattr(pipeline, "__path__", [*pipeline.__path__, str(tmp_path)])
    with pytest.raises(ModuleNotFoundError, match="no_such_library_at_all"):
        config.find_class("pipeline.broken.Thing", Levels, "levels")


def nested(levels: int) -> Any:
    tree: Any = {"is": f"{HERE}.LogNormal"}
    for _ in range(levels):
        tree = {"is": f"{HERE}.Mixed", "parts": [tree]}
    return tree


def deep(levels: int) -> Any:
    tree: Any = []
    for _ in range(levels):
        tree = [tree]
    return tree


@pytest.mark.parametrize(
    "data",
    [
        {"name": "x" * 10_000_000, "images": "x" * 10_000_000},
        {"x" * 10_000_000: 1},
        {"name": "t", "images": 10**4000 + 1, "limit": 0.5},
        {"name": "t", "levels": nested(60)},
        {"name": "t", "levels": nested(5000)},
        {"name": "t", "images": deep(5000)},
        {"name": "t", "stages": deep(5000)},
        {"name": deep(5000)},
        {"name": "t", "shape": list(range(1_000_000))},
        {"name": "t", "stages": [{"lr": "x"}] * 1_000_000},
        {"name": "t", "mode": "x" * 10_000_000},
        {"name": "t", "optimizer": {"lr": 10**400}},
    ],
    ids=range(12),
)
def test_deep_or_huge_files_end_in_a_short_sentence_soon(data):
    start = time.process_time()
    with pytest.raises(ConfigError) as caught:
        from_json(Train, data)
    assert len(str(caught.value)) < 600
    assert time.process_time() - start < 1


def test_reasonable_depth_is_fine():
    tree = from_json(Train, {"name": "t", "levels": nested(30)})
    assert from_json(Train, to_json(tree)) == tree


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.just(f"{HERE}.Mixed"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["is", "name", "lr", "parts", "std"]), inner, max_size=3)
    ),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from([f.name for f in dataclasses.fields(Train)] + ["is"]), json_values, max_size=3))
def test_any_json_is_either_read_or_refused(data):
    try:
        train = from_json(Train, {"name": "t"} | data)
    except ConfigError:
        return
    assert from_json(Train, json.loads(config.dumps(train))) == train


@given(trains, trains)
def test_differences_are_empty_only_between_equals_and_leaves_are_all_scalars(a, b):
    old, new = to_json(a), to_json(b)
    assert flat.differences(old, old) == []
    assert (flat.differences(old, new) == []) == (a == b)
    assert all(not isinstance(v, dict | list) or not v for v in flat.leaves(old).values())


def test_differences_name_the_path_and_both_sides():
    new = replace(replace(PLAIN, "optimizer.betas.1", 0.5), "stages", [{}])
    assert flat.differences(to_json(PLAIN), to_json(new)) == [
        ("optimizer.betas.1", 0.999, 0.5),
        ("stages.1.lr", 2.0, None),
        ("stages.1.betas.0", 0.9, None),
        ("stages.1.betas.1", 0.999, None),
        ("stages.1.fused", False, None),
    ]
