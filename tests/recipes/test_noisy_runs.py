"""Recipes of noisy and masked images from end to end, at toy sizes: one on a cluster, the others in this process."""

from __future__ import annotations

import json
from dataclasses import replace

import alone
import pytest
import torch

from pipeline import graph
from pipeline.backbones import mlp
from pipeline.diffusion.sample import Ancestral
from pipeline.graph import step
from pipeline.learning.optim import AdamW
from pipeline.learning.weights import unpack
from pipeline.physics.masks import BoxMask
from pipeline.store import Store
from stages.__main__ import main
from stages.bootstrap import Bootstrap
from stages.corrupt import load
from stages.noisy import Harm
from stages.recipes.ambient import ambient
from stages.recipes.ambient_masks import ambient_masks
from stages.recipes.compare import compare
from stages.recipes.memorisation import memorisation
from stages.recipes.sfbd import Begin, sfbd
from stages.rounds import Rounds
from stages.train import Fit, Train

SMALL = [
    *("--clean", "40", "--test", "60", "--samples", "20"),
    *("--backbone", "{is: pipeline.backbones.mlp.Config, width: 32, blocks: 1}"),
]


@pytest.mark.ray
@pytest.mark.slow
def test_a_toy_sfbd_goes_through_its_rounds_and_ends_with_the_best(one_ray, tmp_path, capsys):
    words = ["run", "sfbd", "--store", str(tmp_path / "runs"), "--json", "--count", "200", "--rounds.most", "2", *SMALL]
    words += ["--set", "fit.images=1280", "--set", "clean_fit.images=1280"]
    assert main(words) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {"denoising_error/sfbd", "denoising_error/clean only", "ratio"} <= said["metrics"].keys()
    store = Store(str(tmp_path / "runs"))
    refs = {name: store.artifact(address) for name, address in store.refs().items()}
    told = refs["sfbd/round/2/proximal"].json("proximal.json")
    nearest = f"round/{told['round']}" if told["round"] else "pretrained"
    chosen, best = (unpack(refs[f"sfbd/{at}"].read) for at in ("round", nearest))
    for found, given in zip(chosen.state_dict().values(), best.state_dict().values(), strict=True):
        assert torch.equal(found, given)
    restored, noisy = (load(refs[f"sfbd/{at}"]) for at in ("round/1/restored", "data/noisy"))
    assert sorted(restored.ids) == sorted(noisy.ids)
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["steps"]["run"] == 0


TOY = mlp.Config(width=32, blocks=1)
FEW = Harm(clean=30, count=120, test=40)
SHORT = Fit(images=640)
FITS = {"fit": SHORT, "clean_fit": SHORT}


@pytest.fixture
def run(tmp_path, monkeypatch):
    alone.installed(monkeypatch)
    return lambda target: alone.made(target, Store(str(tmp_path / "store")))


def test_a_toy_of_rounds_that_begin_with_partial_views(run):
    """The composed model restores first; what is fine-tuned are the clean images' weights; no image has two uses."""
    how = Bootstrap(TOY, SHORT, TOY, SHORT)
    asked = sfbd(harm=FEW, rounds=Rounds(most=2), views=20, bootstrap=how, samples=20, backbone=TOY, **FITS)
    nodes = {node.label: node for node in graph.walk(asked)}
    assert nodes["round/1/restored"].stage.model.label == "bootstrap/composed"
    assert nodes["round/1"].stage.start.label == "pretrained"
    assert nodes["round/1"].stage.unless is None
    assert nodes["round/2/restored"].stage.model.label == "round/1"
    found = run(asked)
    names = ("test", "clean", "noisy")
    ids = [i for n in names for i in load(found[f"data/{n}"]).ids]
    ids += [i for n in ("left", "right", "pooled") for i in load(found[f"bootstrap/data/{n}"]).ids]
    assert len(set(ids)) == len(ids) == 40 + 30 + 120 + 60
    assert {"denoising_error/bootstrapped", "denoising_error/sfbd"} <= found["report"].json("metrics.json").keys()
    with pytest.raises(ValueError, match="give at least 8 whole images"):
        sfbd(harm=Harm(clean=7), views=20)
    with pytest.raises(ValueError, match="views is -1"):
        sfbd(views=-1)


def test_a_toy_ambient_runs_with_and_without_clean_images(run):
    how = {"samples": 20, "backbone": TOY, "clean_backbone": TOY, "fit": SHORT, "clean_fit": SHORT}
    found = run(ambient(harm=FEW, ceiling=True, **how))
    assert {"ratio", "gap_closed"} <= found["report"].json("metrics.json").keys()
    noisy = run(ambient(harm=Harm(clean=0, count=120, test=40), **how))
    assert noisy["report"].json("metrics.json")["denoising_error/ambient"] > 0
    assert noisy["evaluate/ambient"].json("metrics.json")["cards"]["denoising_error"]["least"] > 0.2
    run(ambient(harm=Harm(clean=0, count=120, test=40), consistency=1.0, **how))


@pytest.mark.parametrize("more", [{}, {"clean": 30}, {"guidance": 0.5}, {"masks": BoxMask(0.2, 0.4, noise=0.1)}])
def test_a_toy_ambient_of_masks_runs(run, more):
    how = {"samples": 20, "backbone": TOY, "clean_backbone": TOY, "fit": SHORT, "clean_fit": SHORT}
    found = run(ambient_masks(count=120, test=40, **how, **more))
    assert found["report"].json("metrics.json")["denoising_error/ambient"] > 0
    model = unpack(found["model"].read)
    assert bool(model.masks.all()) == ("clean" in more)
    assert len(model.masks) == (4 if "guidance" in more else 1)
    with pytest.raises(ValueError, match="learned as grey"):
        run(step(Train(step(found_stage(more)), TOY, SHORT)))


def found_stage(more):
    """The masked rows of the recipe, for a training that takes them for whole."""
    labels = {node.label: node for node in graph.walk(ambient_masks(count=120, test=40, **more))}
    return labels["data/masked"].stage


def test_a_toy_comparison_has_every_method_in_its_table(run):
    found = run(compare(harm=FEW, seeds=2, rounds=1, samples=20, backbone=TOY, clean_backbone=TOY, fit=SHORT))
    table = found["report"].json("versus.json")
    assert set(table) == {
        "clean_early",
        "clean_only",
        "truncated",
        "ambient",
        "omni",
        "sfbd",
        "online",
        "omni_sfbd",
        "mixed",
        "all_clean",
    }
    assert all(len(numbers["denoising_error"]["seeds"]) == 2 for numbers in table.values())
    loops = {node.label: node for node in graph.walk(compare(methods="dataloops,sfbd", seeds=1))}
    assert loops["seed 0/dataloops/1"].stage.rows[1].noise == pytest.approx(0.2 / 8)


def test_a_toy_comparison_without_clean_images_has_what_needs_none(run):
    none = replace(FEW, clean=0)
    found = run(compare(harm=none, seeds=1, rounds=2, samples=20, backbone=TOY, clean_backbone=TOY, fit=SHORT))
    table = found["report"].json("versus.json")
    assert set(table) == {"truncated", "consistent", "em", "em_omni", "all_clean"}
    labels = {node.label: node for node in graph.walk(compare(harm=none, seeds=1))}
    assert labels["seed 0/em/1"].stage.start is None, "a Gaussian has no weights to go on with"
    assert labels["seed 0/em/2"].stage.start.address == labels["seed 0/em/1"].address
    assert labels["seed 0/em_omni/2/restored"].stage.sampler == Ancestral(steps=64), "draws, not means"


def test_a_toy_sfbd_begins_with_a_gaussian_where_nothing_is_clean(run):
    how = Rounds(most=1, stochastic=True, direct=True, only_below=True)
    found = run(sfbd(harm=replace(FEW, clean=0), begin=Begin.GAUSSIAN, rounds=how, samples=20, backbone=TOY, **FITS))
    numbers = found["report"].json("metrics.json")
    assert {"denoising_error/sfbd", "denoising_error/gaussian", "ratio"} <= numbers.keys()
    assert "denoising_error/clean only" not in numbers


def test_a_model_that_learned_ten_images_by_heart_is_found_out(run):
    """Trained long on ten images it gives them back; one that saw them under heavy noise cannot."""
    fit = Fit(images=64_000, batch=32, optim=AdamW(lr=4e-3, betas=(0.9, 0.99), warmup=640))
    harm = Harm(clean=0, noise=1.0, count=10, test=40)
    found = run(memorisation(harm=harm, samples=60, backbone=mlp.Config(64, 2, dropout=0.0), fit=fit))
    numbers = found["judge"].json("judgement.json")["numbers"]
    near = {name: numbers[name]["similar_0.90"]["value"] for name in numbers}
    assert min(near["clean"], near["clean, from noise"]) > 0.5
    assert max(near["noisy"], near["noisy, from noise"]) < 0.1


@pytest.mark.parametrize("attack", [0.1, 100.0])
def test_an_attack_has_more_noise_than_the_images_and_no_more_than_the_sampler(attack):
    with pytest.raises(ValueError, match=f"attack is {attack}"):
        memorisation(attack=attack)
