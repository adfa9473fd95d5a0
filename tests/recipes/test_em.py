"""em and gsure: what they plan and refuse, and a toy size of each from end to end."""

from __future__ import annotations

import json

import pytest
import torch

from pipeline import graph
from pipeline.diffusion.conditioning import PiGDM
from pipeline.physics.blur import GaussianBlur
from pipeline.physics.corruption import Noisy, Through, corrupt
from pipeline.physics.masks import PixelMask
from pipeline.store import Store
from stages.__main__ import main
from stages.corrupt import load
from stages.images import Images
from stages.recipes.em import em
from stages.recipes.gsure import gsure
from stages.seen import least_level

SMALL = [
    *("--count", "60", "--test", "40", "--samples", "16", "--no-zero-filled", "--set", "fit.images=256"),
    *("--set", "backbone={is: pipeline.backbones.mlp.Config, width: 32, blocks: 1}"),
]


def stages(recipe, **options) -> dict[str, graph.Step]:
    return {node.label: node for node in graph.walk(recipe(**options))}


def test_a_lap_restores_by_the_model_so_far_and_goes_on_from_its_weights():
    found = stages(em, laps=3, draws=2, by=PiGDM(), ceiling=True)
    assert found["data/restored/0"].stage.model is found["gaussian"]
    assert found["lap/0"].stage.start is None
    for lap in (1, 2):
        assert found[f"data/restored/{lap}"].stage.model is found[f"lap/{lap - 1}"]
        assert found[f"lap/{lap}"].stage.start is found[f"lap/{lap - 1}"]
    assert len({found[f"data/restored/{lap}"].stage.seed for lap in range(3)}) == 3
    assert found["data/restored/2"].stage.by == PiGDM()
    assert found["data/restored/2"].stage.draws == 2
    assert {found[name].stage.data for name in ("gaussian", "data/restored/0", "data/filled")} == {found["data/seen"]}
    held, seen = found["data/test"].stage.part, found["data/seen"].stage.part
    assert held.first + held.count == seen.first
    assert found["data/unharmed"].stage.part == seen


@pytest.mark.parametrize("recipe", [em, gsure])
def test_images_that_arrived_damaged_are_not_damaged_again_and_have_no_ceiling(recipe, tmp_path):
    from PIL import Image

    Image.new("L", (8, 8)).save(tmp_path / "0.png")
    found = stages(recipe, measured=str(tmp_path), noise=0.2)
    assert found["data/seen"].stage.corruption.noiseless
    assert found["data/seen"].stage.data is found["ingest/measured"]
    told = [node.stage.noise for node in found.values() if hasattr(node.stage, "noise")]
    assert told
    assert set(told) == {0.2}
    with pytest.raises(ValueError, match="nobody knows them otherwise"):
        recipe(measured=str(tmp_path), ceiling=True)


@pytest.mark.parametrize("recipe", [em, gsure])
@pytest.mark.parametrize(
    ("wrong", "says"),
    [({"test": 1}, "test is 1"), ({"count": 0}, "count 0"), ({"noise": 0.1}, "give it to the corruption")],
)
def test_what_makes_no_sense_is_refused_before_any_work(recipe, wrong, says):
    with pytest.raises(ValueError, match=says):
        recipe(**wrong)
    with pytest.raises(ValueError, match="laps is 0"):
        em(laps=0)


def test_samples_of_gsure_end_at_the_noise_of_the_rows_and_so_does_its_error():
    found = stages(gsure, corruption=PixelMask(0.2, noise=0.3), zero_filled=True)
    assert found["samples/gsure"].stage.sampler.sigma_min == pytest.approx(0.3)
    assert found["evaluate/gsure"].stage.least == pytest.approx(0.3)
    assert found["samples/zero-filled"].stage.sampler.sigma_min == 0.002
    assert found["evaluate/zero-filled"].stage.least == 0


@pytest.mark.parametrize(
    "corruption", [Noisy(noise=0.3), PixelMask(0.4, noise=0.2), Through(GaussianBlur((1, 4, 4), 0.5), noise=0.1)]
)
def test_the_least_level_is_the_largest_std_that_the_inverse_makes_of_the_noise(corruption):
    rows = torch.zeros(1, 1, 4, 4)
    _, drawn = corrupt(corruption, rows, ["0"], 0)
    values = torch.linalg.svdvals(corruption.at(drawn, (1, 4, 4)).dense().reshape(-1, 16))
    least = corruption.noise / values[values > 1e-6].min()
    assert least_level(corruption, (1, 4, 4)) == pytest.approx(float(least), rel=1e-6)


@pytest.mark.ray
@pytest.mark.slow
def test_a_toy_size_of_each_runs(one_ray, tmp_path, capsys):
    store = ["--store", str(tmp_path / "runs"), "--json", *SMALL]
    assert main(["run", "em", "--laps", "2", "--set", "corruption.p=0.3", *store]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said["steps"] == {"run": 16, "cached": 0}
    assert {"denoising_error/em", "denoising_error/gaussian", "ratio"} <= said["metrics"].keys()
    kept = Store(str(tmp_path / "runs"))
    refs = {name: kept.artifact(address) for name, address in kept.refs().items()}
    rows, made = (load(refs[f"em/data/{name}"]) for name in ("seen", "restored/1"))
    assert made.ids == tuple(f"{name}~0" for name in rows.ids)
    A = PixelMask(0.3).at(rows.operator, Images().shape)
    assert (A(made.x()) - A(rows.x())).square().mean().sqrt() < 0.2  # the noise was 0.1
    assert not set(rows.ids) & set(load(refs["em/data/test"]).ids)
    told = refs["em/gaussian"].json("metrics.json")["log_likelihood"]
    assert told == sorted(told)
    assert main(["run", "gsure", *store]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said["steps"] == {"run": 7, "cached": 3}
    assert 0 < said["metrics"]["denoising_error/gsure"] < 10
    assert (
        main(
            [
                "run",
                "em",
                "--set",
                "corruption={is: pipeline.physics.masks.FixedMask, lines: ["
                + ", ".join(["'01111111'"] + ["'11111111'"] * 7)
                + "]}",
                *store,
            ]
        )
        == 2
    )
    assert "1 of 64 pixels are seen by none of the 60 rows" in capsys.readouterr().err
