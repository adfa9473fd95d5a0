"""A recipe's options: the signature's defaults, --config, plain options, --set, each stronger than the one before."""

from __future__ import annotations

import dataclasses
import json
import time

import pytest
import yaml

from pipeline import graph
from pipeline.config import ConfigError
from stages.recipe import build, find, names, options_of, read_yaml, resolve
from stages.recipes.partial_views import partial_views
from stages.running import Common


@pytest.fixture
def toy_options(toy, tmp_path):
    """`toy_options("--value", "3", config={...})`: the toy recipe's options."""

    def fill(*words, config=None):
        (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
        words += ("--config", str(tmp_path / "c.yaml")) if config is not None else ()
        return resolve(toy.toy, words, Common, "kintsugi run toy")[0]

    return fill


def test_every_option_is_a_parameter_with_its_default(toy):
    made = options_of(toy.toy)()
    assert dataclasses.asdict(made) == {
        "value": 1,
        "name": "x",
        "size": None,
        "seed": 0,
        "inner": {"rate": 0.5, "names": ("a", "b")},
    }


def test_a_parameter_without_default_is_a_recipe_that_cannot_run_as_it_is():
    def bad(value: int):
        """Nothing."""

    with pytest.raises(TypeError, match="must run as it is"):
        options_of(bad)


def test_what_is_written_later_wins(toy_options):
    config = {"value": 2, "name": "file", "seed": 5, "inner": {"rate": 0.25}}
    assert toy_options().value == 1
    assert toy_options(config=config) == dataclasses.replace(
        toy_options(), value=2, name="file", seed=5, inner=type(toy_options().inner)(0.25)
    )
    assert toy_options("--value", "3", config=config).value == 3
    assert toy_options("--value", "1", config=config).value == 1  # also where it is the signature's default
    assert toy_options("--value", "3", "--set", "value=4", config=config).value == 4
    assert toy_options("--set", "value=4", "--value", "3", config=config).value == 4  # wherever it stands
    assert toy_options("--set", "value=4", "--set", "value=5").value == 5
    assert toy_options("--value", "3", config=config).name == "file"
    deep = toy_options("--set", "inner.names.1=c", "--set", "size=7", config=config)
    assert (deep.inner.rate, deep.inner.names, deep.size) == (0.25, ("a", "c"), 7)
    assert toy_options("--size", "None", config={"size": 3}).size is None
    assert toy_options("--set", "inner.rate=1e-3").inner.rate == 1e-3
    assert toy_options("--set", "inner={rate: 2, names: [q]}").inner.names == ("q",)


def test_the_last_config_wins_and_both_spellings_are_read(toy, tmp_path):
    for i in (2, 3):
        (tmp_path / f"{i}.yaml").write_text(f"value: {i}")
    words = ["--config", str(tmp_path / "2.yaml"), f"--config={tmp_path / '3.yaml'}"]
    assert resolve(toy.toy, words, Common, "k")[0].value == 3


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("vlaue: 3", "did you mean 'value'?"),
        ("inner: {rat: 3}", "did you mean 'inner.rate'?"),
        ("value: abc", "'value' must be of type int"),
        ("value: true", "'value' must be of type int"),
        ("value: .nan", "'value'"),
        ("1: 2", "there is no '1'"),
        ("", "must hold options by name"),
        ("[1, 2]", "must hold options by name"),
        ("a: !!python/object/apply:os.system [id]", "is not plain YAML"),
        ("value: !mine 3", "is not plain YAML"),
        ("a: &a [1]\nb: *a", "aliases"),
        ("value: 3\n---\nvalue: 4", "single document"),
        ("value: " + "9" * 5000, "is not plain YAML"),
        ("value: 2020-13-45", "is not plain YAML"),
        ("{? [1, 2] : 3}", "is not plain YAML"),
        ("value: " + "[" * 200_000, "deeper than 100 levels"),
        ("value:\n  " + "- " * 200_000, "deeper than 100 levels"),
        ("value: " + "{a: " * 200_000, "deeper than 100 levels"),
        ("value: " + "x" * (1 << 20), "over 1 MiB"),
        ("inner: {is: os.system}", "os.system"),
        ("inner: {is: stages.recipes.toy.Number}", "stages.recipes.toy.Number"),
    ],
)
def test_a_hostile_or_mistaken_config_is_one_sentence_and_quick(kintsugi, toy, tmp_path, text, part):
    (tmp_path / "c.yaml").write_text(text)
    start = time.monotonic()
    kintsugi("plan", "toy", "--config", "c.yaml").refused(part)
    assert time.monotonic() - start < 10


def test_a_billion_laughs_are_not_laughed():
    bomb = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))
    with pytest.raises(ConfigError, match="aliases"):
        read_yaml(bomb, "c.yaml")


@pytest.mark.parametrize(("name", "data"), [("c.yaml", b"\xff\xfe\x00"), ("folder", None), ("missing.yaml", None)])
def test_a_config_that_cannot_be_read(kintsugi, toy, tmp_path, name, data):
    (tmp_path / "folder").mkdir()
    if data:
        (tmp_path / name).write_bytes(data)
    kintsugi("plan", "toy", "--config", name).refused(f"--config {name} cannot be read")


def test_the_dumped_configuration_leads_to_the_same_target(kintsugi, toy, tmp_path):
    words = ("--value", "3", "--size", "2", "--set", "inner.names=[ä, '1', 'null', yes]", "--set", "inner.rate=1e-7")
    if (refused := kintsugi("run", "toy", *words)).code:  # `yes` is a bool of YAML, no name
        refused.refused("inner.names")
    said = kintsugi("run", "toy", *words[:-3], "inner.names=[ä, '1', 'null', 'yes']", *words[-2:], "--json")
    target = said.json["target"]
    dumped = tmp_path / "runs/results/toy" / target / "config.yaml"
    assert yaml.safe_load(dumped.read_text())["inner"] == {"rate": 1e-7, "names": ["ä", "1", "null", "yes"]}
    again = kintsugi("run", "toy", "--config", dumped, "--json").json
    assert (again["target"], again["steps"]) == (target, {"run": 0, "cached": 2})


@pytest.mark.parametrize("name", names())
def test_what_show_prints_is_a_config_of_the_defaults(kintsugi, tmp_path, name):
    recipe = find(name)
    declared = options_of(recipe)
    shown = kintsugi("show", name)
    assert all(f"{field.name}:" in shown.out for field in dataclasses.fields(declared))
    told = [line for line in shown.out.splitlines() if line.startswith("# ") and "FLOP" not in line]
    assert len(told) == len(dataclasses.fields(declared))
    assert "# \n" not in shown.out, "a parameter of which the docstring says nothing"
    (tmp_path / "c.yaml").write_text(shown.out)
    options, _ = resolve(recipe, ["--config", str(tmp_path / "c.yaml")], Common, "k")
    assert options == declared()
    assert yaml.safe_load(shown.out) == kintsugi("show", name, "--json").json
    assert build(recipe, options).fingerprint == build(recipe, declared()).fingerprint


@pytest.mark.slow
def test_the_shipped_recipe_has_one_fingerprint_in_every_process(fresh):
    code = (
        "from stages.recipe import build, find, options_of; from pipeline.graph import walk; "
        "f = find('partial_views'); print(*[step.address for step in walk(build(f, options_of(f)()))])"
    )
    here = [step.address for step in graph.walk(partial_views())]
    assert fresh(code, PYTHONHASHSEED="1").split() == here
    assert len(here) > 10


def test_what_bears_no_identity_changes_no_address(kintsugi):
    def addresses(*words):
        return [step["address"] for step in kintsugi("plan", "partial_views", "--json", *words).json["steps"]]

    assert addresses("--scale.workers", "2", "--store", "elsewhere") == addresses()
    assert addresses("--scale.most", "4", "--scale.hang-after", "60") == addresses()
    assert not set(addresses("--seed", "1")[1:]) & set(addresses()[1:])  # only the ingest is shared
    assert addresses("--seed", "1")[0] == addresses()[0]
    assert json.dumps(addresses()) == json.dumps(addresses())


def test_workers_who_cannot_share_a_batch_are_refused_by_plan_and_run(kintsugi):
    for verb in ("plan", "run"):
        kintsugi(verb, "learn", "--scale.workers", "3").refused("cannot share a batch of 32 evenly: give 2 or 4")
        kintsugi(verb, "learn", "--scale.workers", "33").refused("33 workers cannot share 32 images in a batch")
    kintsugi("plan", "learn", "--scale.workers", "2", "--scale.most", "1").refused("most is 1")
    assert kintsugi("plan", "learn", "--scale.workers", "2", "--scale.most", "3").code == 0


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("view_fit.optim.lr=-1", "lr is -1"),
        ("view_fit.optim.lr=.nan", "lr' must be of type float, not nan"),
        ("view_fit.optim.weight_decay=-0.1", "weight_decay is -0.1"),
        ("view_fit.optim.clip=0", "clip is 0"),
        ("view_fit.optim.eps=-1", "eps is -1"),
        ("view_fit.optim.warmup=-5", "warmup is -5"),
        ("view_fit.optim.betas=[0.9, 1.0]", "betas is (0.9, 1.0)"),
        ("view_fit.ema.halflife=-1", "halflife is -1"),
        ("view_fit.ema.ramp=-0.1", "ramp -0.1"),
    ],
)
def test_values_that_cannot_train_are_refused_by_plan(kintsugi, setting, says):
    kintsugi("plan", "partial_views", "--set", setting).refused(says)


def test_a_name_that_stands_twice_in_a_file_is_refused(kintsugi, tmp_path):
    (tmp_path / "twice.yaml").write_text("clean: 96\nview_fit: {images: 640, batch: 64}\nclean: 32\n")
    kintsugi("plan", "partial_views", "--config", "twice.yaml").refused("twice.yaml has clean twice")
    (tmp_path / "deep.yaml").write_text("clean: 96\nview_fit: {images: 640, batch: 64, images: 1280}\n")
    kintsugi("plan", "partial_views", "--config", "deep.yaml").refused("deep.yaml has images twice")
