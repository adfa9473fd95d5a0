"""Rows that were seen in part: restored by what each went through, learned from, and refused where nothing can be."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from kept import context, model, rows, seen

from pipeline.backbones import mlp
from pipeline.data.damaged import HIDES, NOISY
from pipeline.data.declared import SEEN_THROUGH
from pipeline.data.digits import Digits
from pipeline.data.records import Examples
from pipeline.diffusion.conditioning import DPS, MomentMatching
from pipeline.diffusion.gaussian import Gaussian
from pipeline.diffusion.sample import Heun
from pipeline.graph import step
from pipeline.keys import Key
from pipeline.objectives.gsure import Probe
from pipeline.physics.blackbox import BlackBox, Gamma
from pipeline.physics.blur import GaussianBlur
from pipeline.physics.corruption import Noisy, Through
from pipeline.physics.masks import FixedMask, PixelMask
from pipeline.physics.mixture import Mixture
from pipeline.physics.sensors import Measured, Poisson
from stages.corrupt import Corrupt
from stages.fill import _fill
from stages.gaussian import FitGaussian, _fit
from stages.gsure import TrainGSURE, _batches, _course, by_modes
from stages.ingest import Ingest
from stages.measured import require_coverage, require_shape, rows_at, through, whole_of
from stages.restore import Restore, _restore
from stages.seen import least_level
from stages.train import Fit

SHAPE = (1, 4, 4)
X0 = (torch.randn(24, *SHAPE, generator=Key(0).torch()) * 0.3).clamp(-1, 1)
FULL = step(Ingest(Digits(), SHAPE), "full")
DATA, MODEL = step(Corrupt(FULL, corruption=PixelMask(0.5)), "data"), step(Corrupt(FULL), "model")
SMALL = Fit(images=256, batch=16)


def gaussian(shape=SHAPE) -> Gaussian:
    network = Gaussian.Config(shape, 16).build()
    network.values.fill_(0.09)
    return network


def restored(data, damage, of, steps=10, **options):
    stage = Restore(MODEL, DATA, sampler=Heun(steps=steps, sigma_min=0.02, sigma_max=20.0), **options)
    return _restore(stage, of, data, damage, (0, 0))[0]


@pytest.mark.parametrize("corruption", [PixelMask(0.5), Through(GaussianBlur(SHAPE, 0.5))], ids=["masks", "blur"])
def test_rows_without_noise_show_again_what_each_of_them_showed(tmp_path, corruption):
    data, of = seen(tmp_path / "data", corruption, X0), model(tmp_path / "model", gaussian())
    damage = through(data, SHAPE)
    made = restored(data, damage, of)
    again = rows_at(damage, _rows(data), np.arange(24))
    torch.testing.assert_close(again.A(made.x()), again.y, rtol=0, atol=4e-3)
    assert made.ids[:2] == ("image-0~0", "image-1~0")
    hidden = made.x() - again.A.project(made.x())
    assert hidden.std() > (0.1 if isinstance(corruption, PixelMask) else -1)


def test_a_row_is_restored_the_same_alone_and_in_company(tmp_path):
    corruption = PixelMask(0.5, noise=0.1)
    data, of = seen(tmp_path / "data", corruption, X0), model(tmp_path / "model", gaussian())
    damage = through(data, SHAPE)
    together, few = (restored(data, damage, of, batch=size).x() for size in (24, 5))
    torch.testing.assert_close(together, few, rtol=0, atol=2e-3)
    other = restored(data, damage, of, seed=1).x()
    assert (other - together).abs().max() > 0.1


def test_noise_is_taken_off_and_not_shown_again(tmp_path):
    """Of white images of variance 0.09 and noise 0.3 the posterior has mean y/2 and variance 0.045."""
    x0 = 0.3 * torch.randn(400, *SHAPE, generator=Key(2).torch())
    data, of = seen(tmp_path / "data", Noisy(noise=0.3), x0), model(tmp_path / "model", gaussian())
    y = _rows(data).x()
    made = restored(data, through(data, SHAPE), of, 40, by=MomentMatching(bound=None, ridge=0.0)).x()
    slope = float((made * y).sum() / (y * y).sum())
    assert slope == pytest.approx(0.5, abs=0.02)
    assert float((made - slope * y).var()) == pytest.approx(0.045, rel=0.1)


def test_rows_restored_to_nan_are_refused_by_name_and_so_are_steps_too_long(tmp_path):
    data = seen(tmp_path / "data", PixelMask(0.5), X0)
    broken = gaussian()
    broken.centre.fill_(torch.nan)
    with pytest.raises(
        ValueError, match=r"24 rows, the first of them 'image-0', were restored to NaN or infinity by made"
    ):
        restored(data, through(data, SHAPE), model(tmp_path / "model", broken), by=DPS())


def test_a_model_of_another_shape_and_a_black_box_are_refused(tmp_path):
    data = seen(tmp_path / "data", PixelMask(0.5), X0)
    wrong = model(tmp_path / "model", gaussian((1, 4, 5)))
    with pytest.raises(ValueError, match=r"made/model makes images \(1, 4, 5\), and these rows are of \(1, 4, 4\)"):
        require_shape(wrong, SHAPE)
    at = context(data=data, model=wrong)
    with pytest.raises(ValueError, match=r"makes images \(1, 4, 5\)"):
        Restore(MODEL, DATA).run(at)
    dark = seen(tmp_path / "dark", BlackBox(Gamma(2.0)), X0)
    with pytest.raises(ValueError, match="rows that went through BlackBox cannot be restored by their operator"):
        _fill(dark, through(dark, SHAPE), 0)


def test_pixels_that_no_row_shows_are_named(tmp_path):
    hides = FixedMask(("1101", "1111", "1111", "0111"))
    data = seen(tmp_path / "data", hides, X0)
    with pytest.raises(
        ValueError, match=r"2 of 16 pixels are seen by none of the 24 rows .*, at \(0, 2\), \(3, 0\): noth"
    ):
        require_coverage(data, through(data, SHAPE), context())
    with pytest.raises(ValueError, match="2 of 16 pixels"):
        FitGaussian(DATA).run(context(data=data))
    with pytest.raises(ValueError, match="2 of 16 pixels"):
        TrainGSURE(DATA).run(context(data=data))
    fine = seen(tmp_path / "fine", PixelMask(0.5), X0)
    require_coverage(fine, through(fine, SHAPE), context())
    blurred = seen(tmp_path / "blurred", Through(GaussianBlur(SHAPE, 2.0)), X0)
    with pytest.raises(ValueError, match="waves are seen by none of the 24 rows"):
        by_modes(_rows(blurred), through(blurred, SHAPE))


def test_rows_that_do_not_say_how_noisy_they_are_have_to_be_told(tmp_path):
    mask = np.packbits(np.ones((24, 16), bool), axis=1)
    ids = [f"image-{i}" for i in range(24)]
    arrived = rows(tmp_path / "arrived", Examples.from_x(ids, X0, operator={"mask": mask}), {}, {"damage": ["mask"]})
    with pytest.raises(ValueError, match="arrived damaged and nobody says how noisy they are: give noise"):
        through(arrived, SHAPE)
    told = rows_at(through(arrived, SHAPE, 0.2), _rows(arrived), np.arange(24))
    torch.testing.assert_close(told.noise, torch.full((24,), 0.2, dtype=torch.float64))
    sigma = np.linspace(0.1, 0.5, 24).astype(np.float32)
    saying = Examples.from_x(ids, X0, operator={"mask": mask, "sigma": sigma})
    known = rows(tmp_path / "known", saying, {}, {"damage": ["mask", "sigma"]})
    own = rows_at(through(known, SHAPE), _rows(known), np.arange(24)).noise
    torch.testing.assert_close(own, torch.from_numpy(sigma).double())
    for data in (known, seen(tmp_path / "made", PixelMask(0.5), X0, {HIDES: True, NOISY: True})):
        with pytest.raises(ValueError, match=r"say what noise they have: leave out noise = 0\.2"):
            through(data, SHAPE, 0.2)


def test_what_all_rows_are_declared_to_have_gone_through_is_what_they_went_through(tmp_path):
    declared = {SEEN_THROUGH: {"is": "pipeline.physics.corruption.Noisy", "noise": 0.25}, "damage": ["operator"]}
    data = rows(tmp_path / "data", Examples.from_x([f"{i}" for i in range(24)], X0), {}, declared)
    found = rows_at(through(data, SHAPE), _rows(data), np.arange(24))
    torch.testing.assert_close(found.noise, torch.full((24,), 0.25, dtype=torch.float64))


def test_the_images_behind_rows_have_the_shape_of_what_was_corrupted():
    assert whole_of(DATA) == SHAPE
    assert whole_of(FULL) == SHAPE
    assert Restore(MODEL, DATA).shape == SHAPE


def test_the_gaussian_of_a_set_is_that_of_its_rows(tmp_path):
    x0 = 0.2 + 0.3 * torch.randn(1500, *SHAPE, generator=Key(2).torch())
    data = seen(tmp_path / "data", PixelMask(0.3, noise=0.1), x0)
    law, told = _fit(FitGaussian(DATA, rank=1, rows=1000), data, through(data, SHAPE))
    assert float(law.mean.mean()) == pytest.approx(0.2, abs=0.02)
    assert float(law.cov.diagonal().mean()) == pytest.approx(0.09, rel=0.1)
    assert told[-1] > told[0]


def test_numbers_that_no_row_shows_together_are_warned_of(tmp_path, caplog):
    data = seen(tmp_path / "data", PixelMask(0.9), X0[:6])
    with caplog.at_level("WARNING", "kintsugi"):
        _fit(FitGaussian(DATA, rank=1, iterations=2), data, through(data, SHAPE))
    assert "of 136 pairs of numbers are shown together by no row, such as (0, 0, 0) and" in caplog.text


def test_zero_filling_shows_what_was_seen_and_nothing_else(tmp_path):
    data = seen(tmp_path / "data", PixelMask(0.5), X0)
    made, _ = _fill(data, through(data, SHAPE), 0)
    np.testing.assert_array_equal(made.images, _rows(data).images)


@pytest.mark.parametrize("corruption", [PixelMask(0.3, noise=0.1), Through(GaussianBlur(SHAPE, 0.4), noise=0.05)])
@pytest.mark.parametrize("probe", list(Probe))
def test_gsure_trains_on_rows_of_a_set_and_never_below_their_noise(tmp_path, corruption, probe):
    stage = TrainGSURE(DATA, mlp.Config(width=16, blocks=1, dropout=0.1), SMALL, probe=probe)
    run = _course(stage, seen(tmp_path / "data", corruption, X0), torch.device("cpu"))
    least = least_level(corruption, SHAPE)
    assert run.levels.draw(4000, Key(0)).min() >= least * (1 - 1e-6)
    posts = []
    state = run.run([_listen(posts)])
    assert state.images == 256
    assert posts
    assert all(np.isfinite(post["loss"]) and post["too_noisy"] == 0 for post in posts)


def test_the_centre_and_spread_of_gsure_are_those_of_the_images(tmp_path):
    x0 = 0.2 + 0.3 * torch.randn(3000, *SHAPE, generator=Key(2).torch())
    data = seen(tmp_path / "data", PixelMask(0.4, noise=0.2), x0)
    known = by_modes(_rows(data), through(data, SHAPE))
    assert float(known.centre.mean()) == pytest.approx(0.2, abs=0.01)
    assert known.spread == pytest.approx(0.3, rel=0.03)
    assert known.least == pytest.approx(0.2)
    hidden = known.singular == 0
    torch.testing.assert_close(known.x[hidden], known.centre.expand_as(known.x)[hidden])
    torch.testing.assert_close(known.weight.mean(), torch.tensor(1 / 0.6), rtol=0.03, atol=0)


def test_batches_of_gsure_are_the_same_for_any_world_and_masks_turn_with_their_images(tmp_path):
    data = seen(tmp_path / "data", PixelMask(0.4, noise=0.2), X0)
    known = by_modes(_rows(data), through(data, SHAPE))
    for fit in (SMALL, replace(SMALL, dihedral=True)):
        whole = next(islice(_batches(known, fit, 3, None, 32, 0, 1), 1, 2))
        parts = [next(islice(_batches(known, fit, 3, None, 32, rank, 2), 1, 2)) for rank in range(2)]
        for field in ("x", "singular", "level", "index"):
            assert torch.equal(torch.cat([getattr(part, field) for part in parts]), getattr(whole, field))
        same = [torch.equal(known.x[i], x) for i, x in zip(whole.index, whole.x, strict=True)]
        assert all(same) != fit.dihedral
        for i, x, S in zip(whole.index, whole.x, whole.singular, strict=True):
            torch.testing.assert_close(x[S > 0].sort().values, known.x[i][known.singular[i] > 0].sort().values)


def test_what_gsure_cannot_learn_from_is_refused(tmp_path):
    sensed = seen(tmp_path / "sensed", Measured(Noisy(), Poisson(20.0)), X0)
    with pytest.raises(ValueError, match="a sensor's is not: choose em"):
        TrainGSURE(DATA).run(context(data=sensed))
    both = seen(tmp_path / "both", Mixture(((0.5, PixelMask(0.5)), (0.5, Through(GaussianBlur(SHAPE, 0.5))))), X0)
    with pytest.raises(ValueError, match="no basis makes both diagonal"):
        by_modes(_rows(both), through(both, SHAPE))
    blurred = seen(tmp_path / "blurred", Through(GaussianBlur(SHAPE, 0.4), noise=0.05), X0)
    with pytest.raises(ValueError, match="these rows are blurred: leave it out"):
        _course(TrainGSURE(DATA, fit=replace(SMALL, dihedral=True)), blurred, torch.device("cpu"))
    with pytest.raises(ValueError, match="leave both out"):
        TrainGSURE(DATA, fit=Fit(shift=1))
    with pytest.raises(ValueError, match="too coarse for finite differences"):
        TrainGSURE(DATA, fit=Fit(bf16=True), probe=Probe.DIFFERENCE)
    noisy = seen(tmp_path / "noisy", Noisy(noise=30.0), X0)
    with pytest.raises(ValueError, match="of the levels lie above"):
        _course(TrainGSURE(DATA, fit=SMALL), noisy, torch.device("cpu"))


def _rows(data) -> Examples:
    from stages.corrupt import load

    return load(data)


def _listen(posts):
    from pipeline.learning.loop import Every

    return Every(64, lambda state, metrics: posts.append(metrics))
