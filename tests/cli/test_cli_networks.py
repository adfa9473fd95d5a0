"""`show` counts the networks of a recipe and of a model, and what it prints is still a file of options."""

from __future__ import annotations

import re

import pytest
import yaml

from pipeline import config
from pipeline.backbones import unet
from pipeline.backbones.backbone import Backbone
from pipeline.backbones.count import count
from pipeline.backbones.presets import Preset


def test_a_model_is_shown_with_its_network(kintsugi, toy, tmp_path):
    assert kintsugi("run", "model").code == 0
    wanted = count(unet.Config(), (1, 8, 8), 1, 1)
    said = kintsugi("show", "model/model")
    assert said.out.splitlines()[-1] == f"# network  {wanted}"
    told = kintsugi("show", "model/model", "--json").json
    assert told.pop("networks") == {"network": {**wanted._asdict(), "shape": [1, 8, 8]}}
    assert yaml.safe_load(said.out) == told

    (described,) = tmp_path.rglob("denoiser.json")
    described.chmod(0o644)
    described.write_text("[")
    kintsugi("show", "model/model").refused("denoiser.json")


def test_the_networks_of_a_recipe_are_counted_before_anything_is_made(kintsugi, tmp_path):
    said = kintsugi("show", "partial_views")
    found = dict(re.findall(r"^# (\S+) +([\d.]+ k) parameters, .* at \S+$", said.out, re.MULTILINE))
    assert found.keys() == {"joint", "view/left", "view/right", "view/pooled", "composed", "clean_only"}
    assert found["view/pooled"] < found["view/left"] == found["view/right"] < found["clean_only"] < found["joint"]
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("error", [ValueError("no data"), OSError("no data")])
def test_options_are_shown_even_where_the_data_are_not(kintsugi, toy, monkeypatch, error):
    def fails(*options):
        raise error

    monkeypatch.setattr("stages.recipe.build", fails)
    said = kintsugi("show", "toy")
    assert said.code == 0
    assert said.out.splitlines()[-1] == "# networks are counted where the data are: no data"
    assert yaml.safe_load(said.out)["value"] == 1


@pytest.mark.slow
def test_presets_are_shown_with_their_counts_and_taken_by_name(kintsugi, tmp_path):
    shown = kintsugi("show", "presets", "--shape", "1", "16", "16", "--json").json
    assert shown.keys() == {preset.name for preset in Preset}
    wanted = count(Preset.DIT_1M.value, (1, 16, 16), 1, 1)
    assert shown["DIT_1M"] == {**wanted._asdict(), "shape": [1, 16, 16]}
    said = kintsugi("show", "DIT_1M", "--shape", "1", "16", "16").out
    assert said.splitlines()[-1] == f"# DIT_1M  {wanted}"
    assert config.from_json(Backbone, yaml.safe_load(said)) == Preset.DIT_1M.value
    kintsugi("show", "DIT_2M").refused("no preset 'DIT_2M'; did you mean 'DIT_1M'?")
    kintsugi("show", "presets", "--shape", "3").refused("give channels and sides")


def test_a_preset_is_what_it_stands_for_wherever_a_network_is_asked_for(kintsugi, tmp_path):
    def target(*words):
        return kintsugi("plan", "plain", "--json", *words).json["target"]

    (tmp_path / "options.yaml").write_text("backbone: DIT_1M")
    full = target("--backbone", "{is: pipeline.backbones.dit.Config, width: 96, depth: 6, heads: 3}")
    assert target("--backbone", "DIT_1M") == target("--set", "backbone=DIT_1M") == full
    assert target("--config", tmp_path / "options.yaml") == full
    assert target("--backbone", "{is: DIT_1M, depth: 7}") == target("--backbone", "DIT_1M", "--set", "backbone.depth=7")
    kintsugi("plan", "plain", "--backbone", "DIT_2M").refused("no 'DIT_2M' for 'backbone'; did you mean 'DIT_1M'?")
    kintsugi("plan", "plain", "--backbone", "{is: DIT_1M, dept: 7}").refused("did you mean 'backbone.depth'?")
