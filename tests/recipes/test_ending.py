"""No model is sampled or judged below the σ down to which it was trained, whoever knew that σ beforehand."""

from __future__ import annotations

from typing import Any

import alone
import numpy as np
import pytest
import torch
from kept import seen

from pipeline import graph
from pipeline.backbones import mlp
from pipeline.data.digits import Digits
from pipeline.data.source import Piece
from pipeline.diffusion.sample import Heun
from pipeline.graph import Given, step
from pipeline.keys import Key
from pipeline.learning.weights import DESCRIPTION, WEIGHTS
from pipeline.objectives.masking import Masking
from pipeline.objectives.measuring import Measuring
from pipeline.physics.corruption import Noisy
from pipeline.physics.hadamard import Hadamard
from pipeline.physics.masks import PixelMask
from pipeline.physics.mixture import Mixture
from pipeline.store import Store
from stages.average import Average
from stages.corrupt import load as rows
from stages.ingest import Ingest
from stages.masked import TrainMasked, course
from stages.notebook import load
from stages.recipes.ambient_linear import ambient_linear
from stages.recipes.ambient_masks import ambient_masks
from stages.recipes.gsure import gsure
from stages.sample import Sample
from stages.train import Fit
from stages.verb_register import drawing

TOY, FIT = mlp.Config(width=16, blocks=1), Fit(images=640, batch=32)
HOW = {"count": 120, "test": 20, "samples": 2, "backbone": TOY, "fit": FIT}
LOUD = Masking().least(0.5)
QUIET = Masking().least(0.05)


def mixed(*parts) -> Mixture:
    """Parts alike but for their share and noise."""
    return Mixture(tuple((share, PixelMask(0.2, noise=noise)) for share, noise in parts))


def ends(target) -> tuple[float, float]:
    """The σ at which samples of a recipe's own model end, and below which its error is that there."""
    found: dict[str, Any] = {node.label: node.stage for node in graph.walk(target)}
    (name,) = (label for label in ("ambient", "gsure") if f"samples/{label}" in found)
    return found[f"samples/{name}"].sampler.sigma_min, found[f"evaluate/{name}"].least


def test_noise_that_all_rows_share_is_where_samples_end_before_any_work():
    assert ends(ambient_masks(masks=PixelMask(0.2, noise=0.5))) == pytest.approx((LOUD, LOUD))
    assert ends(ambient_masks(masks=PixelMask(0.2, noise=0.5), clean=20)) == (Heun().sigma_min, 0)
    least = Measuring().least(0.5)
    assert ends(ambient_linear(corruption=Hadamard(32, noise=0.5))) == pytest.approx((least, least))
    assert ends(ambient_linear(corruption=Hadamard(32))) == (Heun().sigma_min, 0)


def own(folder) -> str:
    """Digits that say how noisy each is: .2 or .5."""
    images = np.stack([np.asarray(raw.image) for raw in Digits().read(Piece(start=600, stop=720))])
    np.savez(folder / "own.npz", images=images, sigma=np.where(np.arange(120) % 2, 0.2, 0.5).astype(np.float32))
    return str(folder / "own.npz")


@pytest.mark.parametrize(
    ("build", "least"),
    [
        (lambda at: gsure(measured=own(at), zero_filled=False, **HOW), 0.5),
        (lambda at: gsure(corruption=mixed((0.9, 0.05), (0.1, 0.5)), zero_filled=False, **HOW), 0.5),
        (lambda at: ambient_linear(corruption=Mixture(((1.0, Hadamard(48, noise=0.5)),)), **HOW), LOUD),
        (lambda at: ambient_masks(masks=mixed((0.5, 0.5), (0.5, 0.5)), **HOW), LOUD),
        (lambda at: ambient_masks(masks=mixed((0.9, 0.05), (0.1, 0.5)), **HOW), QUIET),
        (lambda at: ambient_masks(masks=mixed((0.5, 0.0), (0.5, 0.5)), **HOW), 0.0),
        (lambda at: ambient_masks(masks=mixed((1.0, 0.5)), clean=20, clean_backbone=TOY, clean_fit=FIT, **HOW), 0.0),
    ],
    ids=["gsure, own", "gsure", "linear", "masks", "masks, two", "masks, some without", "masks, some whole"],
)
def test_where_only_the_rows_know_their_noise_samples_and_errors_end_where_training_did(
    build, least, tmp_path, monkeypatch
):
    alone.installed(monkeypatch)
    made = alone.made(build(tmp_path), Store(str(tmp_path / "store")))
    assert made["model"].json("metrics.json")["least"] == pytest.approx(least)
    (name,) = (label for label in ("ambient", "gsure") if f"samples/{label}" in made)
    down = float(made[f"samples/{name}"].json("card.json")["sampler"].split("sigma_min=")[1].split(",")[0])
    assert down == pytest.approx(max(least, Heun().sigma_min))
    card = made[f"evaluate/{name}"].json("metrics.json")["cards"]["denoising_error"]
    assert card.get("least", 0.0) == pytest.approx(least)


def test_a_mixture_of_masks_teaches_each_row_above_its_own_noise(tmp_path):
    masks = mixed((0.5, 0.05), (0.5, 0.5))
    asked = {node.label: node.stage for node in graph.walk(ambient_masks(masks=masks))}["model"]
    assert isinstance(asked, TrainMasked)
    assert asked.noise is None
    x0 = (torch.randn(200, 1, 4, 4, generator=Key(0).torch()) * 0.3).clamp(-1, 1)
    full = step(Ingest(Digits(), (1, 4, 4)))
    run = course(
        TrainMasked(full, masks, None, backbone=TOY, fit=FIT), [seen(tmp_path, masks, x0)], torch.device("cpu")
    )
    floors = set()
    for _, batch in zip(range(40), run.batches(0, 0, 1), strict=False):
        assert batch.sigma is not None
        assert batch.floor is not None
        assert (batch.sigma > batch.floor).all()
        assert (batch.sigma >= run.found["least"]).all()
        floors |= {round(floor, 2) for floor in batch.floor.tolist()}
    assert floors == {0.05, 0.5}


def test_masked_rows_that_are_left_out_for_their_noise_count_in_no_spread(tmp_path):
    masks = mixed((0.97, 0.05), (0.03, 30.0))
    x0 = (torch.randn(400, 1, 4, 4, generator=Key(0).torch()) * 0.3).clamp(-1, 1)
    asked = TrainMasked(step(Ingest(Digits(), (1, 4, 4))), masks, None, backbone=TOY, fit=FIT)
    run = course(asked, [seen(tmp_path, masks, x0)], torch.device("cpu"))
    assert run.state.model.config.precond.sigma_data == pytest.approx(0.3, rel=0.05)


def test_noise_said_of_rows_that_each_have_their_own_is_refused(tmp_path):
    x0 = (torch.randn(200, 1, 4, 4, generator=Key(0).torch()) * 0.3).clamp(-1, 1)
    full = step(Ingest(Digits(), (1, 4, 4)))
    noisy, still = mixed((0.5, 0.05), (0.5, 0.5)), mixed((0.5, 0.0), (0.5, 0.0))
    with pytest.raises(ValueError, match=r"each say their own noise: leave out noise, which is 0\.0"):
        course(TrainMasked(full, noisy), [seen(tmp_path / "noisy", noisy, x0)], torch.device("cpu"))
    course(TrainMasked(full, still, backbone=TOY), [seen(tmp_path / "still", still, x0)], torch.device("cpu"))


def test_other_averages_and_notebooks_end_where_the_training_did(tmp_path, monkeypatch):
    alone.installed(monkeypatch)
    store = Store(str(tmp_path))
    target = gsure(corruption=Noisy(noise=0.5), zero_filled=False, **HOW)
    made = alone.made({node.label: node for node in graph.walk(target)}["model"], store)["model"]
    average = step(Average(Given(known=made.address), 0.1), "average")
    with store.writing(average) as out:
        for file in (DESCRIPTION, WEIGHTS):
            out.write(file, made.read(file))
    drawn = alone.made(step(Sample(average, 2), "samples"), store)["samples"]
    assert "sigma_min=0.5," in drawn.json("card.json")["sampler"]
    assert torch.equal(load(average.address, store).sample(2).x, rows(drawn).x())
    assert drawing(store, store.artifact(average.address)).least == 0.5, "as a registered model"
