"""`sample` and `evaluate` take a model by name, make what is missing once, and write what was asked for."""

from __future__ import annotations

import contextlib

import pytest
from doubles import Silent
from PIL import Image

from pipeline.engine import cluster, track

pytestmark = pytest.mark.ray


@pytest.fixture
def models(kintsugi, one_ray, monkeypatch):
    """The command with two untrained models in the store, of 8x8 and of 4x4."""
    monkeypatch.setattr(track, "Tracking", Silent)
    with monkeypatch.context() as patch:
        patch.setattr(cluster, "connect", lambda: contextlib.nullcontext((1.0, 0.0)))
        small = kintsugi("run", "model", "--side", "4", "--json").json["target"]
        assert kintsugi("run", "model").code == 0
    return kintsugi, small


def test_images_are_drawn_once_and_measured(models, tmp_path):
    kintsugi, small = models
    words = ("sample", "model/model", "--count", "3", "--steps", "2", "--json")
    said = kintsugi(*words, "--out", "new/picture.png")
    assert said.code == 0, said.err
    assert said.json == {"samples": said.json["samples"], "picture": "new/picture.png"}
    first = (tmp_path / "new/picture.png").read_bytes()
    assert Image.open(tmp_path / "new/picture.png").format == "PNG"
    again = kintsugi(*words)
    assert again.err == "", "it was made again"
    assert again.json["samples"] == said.json["samples"]
    assert (tmp_path / "samples.png").read_bytes() == first
    assert "wrote samples.png" in kintsugi(*words[:-1]).out
    assert kintsugi(*words, "--seed", "1").json["samples"] != said.json["samples"]

    judged = kintsugi("evaluate", "model/model", "--test", "model/model", "--samples", "4", "--json")
    assert judged.code == 0, judged.err
    assert set(judged.json["metrics"]) == {"denoising_error", "frechet", "kernel", "sliced_wasserstein"}, "too few"
    assert judged.json["cards"]["frechet"]["samples"] == 4

    kintsugi("evaluate", small, "--test", "model/model", "--samples", "0").refused("(1, 4, 4)", "(1, 8, 8)")
    kintsugi(*words[:2], "--count", "0").refused("give at least 1")
    kintsugi(*words[:2], "--steps", "0").refused("steps")
    kintsugi("sample", said.json["samples"]).refused(said.json["samples"], "no model")
    kintsugi("evaluate", said.json["samples"], "--test", "model/model").refused("no model")
    kintsugi(*words, "--out", str(tmp_path)).refused("Is a directory")


def test_any_sampler_draws_and_a_guide_is_taken(models, tmp_path):
    kintsugi, small = models

    def drawn(*words):
        said = kintsugi("sample", "model/model", "--count", "2", "--steps", "3", "--json", *words)
        assert said.code == 0, said.err
        return said.json["samples"], (tmp_path / "samples.png").read_bytes()

    room = "pipeline.diffusion"
    kinds = [f"{room}.sample.Euler", f"{room}.sample.DDIM, eta: 0.5", f"{room}.sample.Ancestral"]
    kinds += [f"{room}.multistep.DPMSolver2M", f"{room}.churn.Churn, s_churn: 1.0"]
    made = [drawn("--sampler", f"{{is: {kind}}}") for kind in kinds]
    plain = drawn()
    assert drawn("--sampler", f"{{is: {room}.sample.Heun, steps: 9}}") == plain, "--steps wins, and Heun is the default"
    assert len({picture for _, picture in (plain, *made)}) == 6
    guided = drawn("--guide", "model/model"), drawn("--guide", "model/model", "--weight", "3")
    assert len({address for address, _ in (plain, *guided)}) == 3
    assert {picture for _, picture in guided} == {plain[1]}, "a model differs from itself"

    words = ("sample", "model/model")
    kintsugi(*words, "--sampler", "Euler").refused("sampler", "Euler")
    kintsugi(*words, "--sampler", f"{{is: {room}.sample.Eule}}").refused("no pipeline.diffusion.sample.Sampler")
    kintsugi(*words, "--sampler", f"{{is: {room}.sample.DDIM, eta: 2}}").refused("eta is 2")
    kintsugi(*words, "--guide", small).refused("(1, 8, 8)", "(1, 4, 4)")
    kintsugi(*words, "--weight", "3").refused("name a guide")
    kintsugi(*words, "--guide", "model/model", "--interval", "2", "1").refused("the lower one first")
