"""The options of training work from the command line: what changes the result has another address, speed has not."""

from __future__ import annotations

import pytest
import torch
from doubles import Silent

from pipeline.engine import track
from pipeline.learning.weights import unpack
from pipeline.store import Store

pytestmark = [pytest.mark.ray, pytest.mark.slow]
FIT = (
    *("--set", "fit.weigh_levels=true", "--set", "fit.bf16=true", "--set", "fit.posthoc={snapshots: 10}"),
    *("--set", "fit.cosine=false"),
    *("--set", "fit.optim.schedule={is: pipeline.learning.optim.InverseSqrt, images: 100}"),
)
SPEED = ("--scale.micro", "8", "--scale.checkpointing", "--scale.channels-last", "--scale.deterministic")


def test_options_reach_training_and_an_average_is_chosen_after_it(kintsugi, one_ray, monkeypatch):
    monkeypatch.setattr(track, "Tracking", Silent)

    def learn(*words):
        said = kintsugi("run", "learn", "--json", *words)
        assert said.code == 0, said.err
        store = Store("runs")
        artifact = store.artifact(store.refs()["learn/averaged" if "--sigma-rel" in words else "learn/learnt"])
        return artifact, unpack(artifact.read)

    kept, model = learn(*FIT, *SPEED)
    assert len([name for name in kept.names() if name.startswith("averages/")]) == 10
    assert all(bool(p.isfinite().all()) and p.dtype == torch.float32 for p in model.parameters())
    assert learn(*FIT)[0].manifest == kept.manifest, "speed had part in the address, or it was made again"
    wide, flat = learn(*FIT, "--sigma-rel", "0.2")
    sharp, late = learn(*FIT, "--sigma-rel", "0.05")
    assert wide.address != sharp.address
    assert not torch.equal(next(flat.parameters()), next(late.parameters()))
    assert torch.equal(flat.centre, model.centre)
    said = kintsugi("average", kept.address, "--width", "0.2", "0.05", "--name", "digits", "--json")
    assert said.json == {"averaged/digits-0.2": wide.address, "averaged/digits-0.05": sharp.address}, "made again"
    assert said.err == ""
    new = kintsugi("average", kept.address, "--width", "0.1")
    assert Store("runs").find(f"averaged/{kept.address.replace('/', '-')}-0.1") in new.out
    kintsugi("average", wide.address, "--width", "0.1").refused("kept no averages: train with posthoc")
    kintsugi("average", kept.address, "--width", "0.5").refused("sigma_rel is 0.5")
    kintsugi("run", "learn", *FIT, "--sigma-rel", "0.5").refused("sigma_rel is 0.5")
    kintsugi("plan", "learn", "--scale.micro", "0").refused("micro is 0")
    many = ("--set", "fit.batch=128", "--scale.workers", "128", "--scale.cpus", "0.01")
    kintsugi("run", "learn", *many).refused("128 workers cannot share 64 examples: give at most 64")
