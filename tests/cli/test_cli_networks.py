"""`show` counts the networks of a recipe and of a model, and what it prints is still a file of options."""

from __future__ import annotations

import re

import pytest
import yaml

from pipeline.backbones import unet
from pipeline.backbones.count import count


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
