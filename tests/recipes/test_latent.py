"""latent: a pretrained model tuned to noisy latents; a toy of it from end to end, in latents and in pixels."""

from __future__ import annotations

import math
from dataclasses import replace

import alone
import pytest
import torch
from small_diffusers import pipeline_at

from pipeline import graph
from pipeline.backbones.lowrank import Adapters, Where
from pipeline.diffusion.sample import Heun
from pipeline.learning.posthoc import PostHoc
from pipeline.learning.weights import unpack
from pipeline.objectives.consistency import Consistent
from pipeline.physics.corruption import Noisy
from pipeline.store import Store
from stages.adopt import Adopt, Names, Weights
from stages.corrupt import Corrupt, load
from stages.finetune import Tune
from stages.images import Images
from stages.latents import Encode
from stages.recipes.latent import latent
from stages.train import Fit

SHORT = Fit(images=64, batch=8)
HOW = {"count": 24, "test": 12, "samples": 6, "fit": SHORT, "sampler": Heun(steps=4)}


@pytest.fixture
def diffusers():
    return pytest.importorskip("diffusers", reason="the extra `diffusers` is not installed")


@pytest.mark.slow
def test_a_toy_of_it_in_latents(diffusers, tmp_path, monkeypatch):
    torch.manual_seed(0)
    made = pipeline_at(tmp_path / "model", diffusers)
    alone.installed(monkeypatch)
    asked = latent(pretrained=str(tmp_path / "model"), clean=4, **HOW)
    found, labels = alone.made(asked, Store(str(tmp_path / "store"))), {node.label: node for node in graph.walk(asked)}

    images, latents, noisy = (load(found[name]) for name in ("data/private", "latents/private", "data/noisy"))
    assert latents.ids == images.ids == noisy.ids
    assert latents.images.dtype == "float16"
    with torch.no_grad():
        want = (made["vae"].encode(images.x()).latent_dist.mean - 0.2) * 0.7
    torch.testing.assert_close(latents.x(), want, atol=2e-3, rtol=2e-3)
    assert abs(float((noisy.x() - latents.x()).std()) / 0.5 - 1) < 0.1
    decoded = load(found["decoded/noisy"])
    assert (decoded.ids, decoded.shape) == (images.ids, (1, 8, 8))

    before, after = (unpack(found[name].read) for name in ("pretrained", "model"))
    assert before.config == after.config
    moved = [n for n, p in before.named_parameters() if not torch.equal(p, after.get_parameter(n))]
    assert moved
    assert all(".attentions." in name and name.endswith(".weight") for name in moved)
    assert load(found["samples/tuned"]).shape == (1, 8, 8)
    assert math.isfinite(found["report"].json("metrics.json")["ratio"])
    assert labels["samples/tuned"].stage.sampler.sigma_min == HOW["sampler"].sigma_min


@pytest.mark.slow
def test_a_toy_of_it_in_pixels(diffusers, tmp_path, monkeypatch):
    """Without clean images samples end at the noise; a second tuning begins where the first one ended."""
    torch.manual_seed(0)
    pipeline_at(tmp_path / "model", diffusers, vae=False, side=8)
    alone.installed(monkeypatch)
    asked = latent(pretrained=str(tmp_path / "model"), adapters=Adapters(2, where=Where.LINEAR), **HOW)
    store = Store(str(tmp_path / "store"))
    alone.made(asked, store)
    labels = {node.label: node for node in graph.walk(asked)}
    assert not [name for name in labels if name.startswith(("latents", "decoded", "autoencoder"))]
    assert labels["samples/tuned"].stage.sampler.sigma_min == pytest.approx(0.5773, abs=1e-4)
    again = graph.step(replace(labels["model"].stage, start=labels["model"]), "again")
    first, second = (unpack(alone.made(node, store)[node.label].read) for node in (labels["model"], again))
    assert any(not torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_it_runs_as_it_is_and_consistency_goes_below_the_noise():
    found = {node.label: node for node in graph.walk(latent(consistency=1.0))}
    assert found["model"].stage.start.label == "pretrained"
    assert isinstance(found["model"].stage.objective, Consistent)
    assert found["samples/tuned"].stage.sampler.sigma_min == Heun().sigma_min
    plain = {node.label: node for node in graph.walk(latent(noise=0.7))}
    assert plain["samples/tuned"].stage.sampler.sigma_min == pytest.approx(0.7 * (4 / 3) ** 0.5)
    assert plain["samples/pretrained"].stage.sampler.sigma_min == Heun().sigma_min
    assert plain["data/noisy"].stage.corruption == Noisy(noise=0.7)
    assert plain["model"].stage.rows[0].noise == 0.7
    sets = [found[f"data/{name}"].stage.part for name in ("test", "pretraining", "private")]
    assert [part.first for part in sets] == [0, 256, 656]


def test_what_makes_no_sense_is_refused(tmp_path):
    for wrong, says in [({"noise": 0.0}, "noise is 0.0"), ({"pretrained": str(tmp_path)}, "cannot be read")]:
        with pytest.raises(ValueError, match=says):
            latent(**wrong)
    with pytest.raises(ValueError, match="no rows"):
        Tune(None, ())
    with pytest.raises(ValueError, match=r"leave out fit\.posthoc"):
        Tune(None, (None,), fit=Fit(posthoc=PostHoc()))


def test_noisy_images_are_not_encoded(diffusers, tmp_path, monkeypatch):
    from pipeline.learning import pretrained

    torch.manual_seed(0)
    folder = tmp_path / "model"
    pipeline_at(folder, diffusers)
    alone.installed(monkeypatch)
    described = pretrained.autoencoder(folder, (4, 4, 4))
    coder = graph.step(Adopt(Weights.of(pretrained.weights(folder / "vae")), described, Names.DIFFUSERS), "coder")
    noisy = graph.step(Corrupt(Images().ingest("ingest"), corruption=Noisy(noise=0.1)), "noisy")
    with pytest.raises(ValueError, match="holds noise, which would not be white in latents"):
        alone.made(graph.step(Encode(coder, noisy), "latents"), Store(str(tmp_path / "store")))
