"""What views and residual are worth, on Gaussians: against traces, and a total correlation in nats."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from known import Correction, exact_base, exact_views
from test_combine import LEFT, OVERLAP, RIGHT, SHAPE, field

from pipeline.backbones.mlp import Config as MLP
from pipeline.diffusion.account import account, residual_energy
from pipeline.diffusion.bins import Bins, weighted
from pipeline.diffusion.calibrate import calibrate_base
from pipeline.diffusion.combine import Mode
from pipeline.diffusion.compose import View
from pipeline.diffusion.exact import Gaussian
from pipeline.diffusion.telling import Windows
from pipeline.diffusion.told import Asked, Told
from pipeline.diffusion.unseen import fill
from pipeline.keys import Key
from pipeline.physics.views import Crop, Pool

HALVES = [Crop(SHAPE, 0, 0, 8, 4), Crop(SHAPE, 0, 4, 8, 4)]
ROWS = [Crop(SHAPE, 0, 0, 4, 8), Crop(SHAPE, 4, 0, 4, 8)]


def images(law, count):
    return law.sample(count, Key(1)).reshape(-1, *SHAPE), [str(i) for i in range(count)]


@pytest.mark.slow
def test_without_a_view_its_half_is_left_to_the_fallback():
    """Of white pixels of variance v in known halves, each entry's error is v σ²/(v + σ²) with a view or without."""
    v = 0.5
    law = Gaussian(torch.zeros(64), v * torch.eye(64).double())
    base = exact_base(law, HALVES, Mode.SUM, 0.25)
    base.null.fill_(1e-8)  # a fallback that knows nothing but the mean
    base.bare.fill_(1e-8)
    told = account(base, *images(law, 4000), Key(2), draws=1)
    s2 = base.config.bins.centres().double() ** 2
    with_it = v * s2 / (v + s2)
    torch.testing.assert_close(told.error, with_it, rtol=0.02, atol=0)
    for row in told.without:
        torch.testing.assert_close(row, (with_it + v) / 2, rtol=0.02, atol=0)
    lift = (v**2 / (v + s2)) / 2  # E|D_k|² on half of the entries
    torch.testing.assert_close(told.lift, lift.expand(2, -1), rtol=0.03, atol=0)
    assert told.weight.tolist() == [[1, 1], [1, 1]]
    assert told.harm == pytest.approx(1, rel=1e-6)


@pytest.mark.slow
def test_the_harm_of_summing_overlapping_views_is_told():
    law = field()
    x0, ids = images(law, 500)
    harmed = account(exact_base(law, [LEFT, RIGHT], Mode.SUM, 1.0), x0, ids, Key(2), draws=1)
    fine = account(exact_base(law, [LEFT, RIGHT], Mode.LS, 1.0), x0, ids, Key(2), draws=1)
    counted = account(exact_base(law, [LEFT, RIGHT, OVERLAP], Mode.BETHE, 1.0), x0, ids, Key(2), draws=1)
    summed, solved = (weighted(Bins(1, 2, 2).centres(), told.error) for told in (harmed, fine))
    assert harmed.harm == pytest.approx(float(summed / solved), rel=1e-5)
    assert harmed.harm > 1.2
    assert fine.harm == 1
    by_squares = weighted(Bins(1, 2, 2).centres(), counted.compared)
    assert counted.harm == pytest.approx(float(weighted(Bins(1, 2, 2).centres(), counted.error) / by_squares), rel=1e-5)
    assert counted.harm < 1
    assert counted.weight[:, 0].tolist() == [1, 1, -1]
    torch.testing.assert_close(counted.compared, fine.error, rtol=0.05, atol=0)


@pytest.mark.parametrize("mode", [Mode.LS, Mode.SUM, Mode.STACK, Mode.BLUE])
def test_without_a_view_is_the_combination_of_the_others_made_anew(mode):
    """With their own variance of what they do not see, which the views together may see whole: here they do."""
    law, bins = field(), Bins(0.05, 5, 4)
    (x0, ids), maps = images(law, 30), HALVES if mode is Mode.SUM else [LEFT, RIGHT, Pool(SHAPE, 2)]

    def told(maps):
        base = exact_views(law, maps, bins, mode)
        fill(base, x0)
        calibrate_base(base, x0, ids, Key(3), 1)
        return account(base, x0, ids, Key(2), draws=1)

    for k, row in enumerate(told(maps).without):
        others = told([A for j, A in enumerate(maps) if j != k])
        torch.testing.assert_close(row, others.compared, rtol=1e-4, atol=1e-7)


def test_below_its_noise_a_view_leaves_the_same_behind_whether_it_is_there_or_not():
    law, bins = field(), Bins(0.05, 5, 4)
    (x0, ids), whole = images(law, 30), Crop(SHAPE, 0, 0, 8, 8)
    plain = exact_views(law, [HALVES[0], whole], bins, Mode.LS)
    config = replace(plain.config, views=(plain.config.views[0], replace(plain.config.views[1], least=0.5)))
    base = config.build().double().eval().requires_grad_(False)
    base.models = plain.models
    fill(base, x0)
    calibrate_base(base, x0, ids, Key(3), 1)
    found = account(base, x0, ids, Key(2), draws=1)
    low = bins.centres() < 0.5
    torch.testing.assert_close(found.without[1, low], found.error[low])
    assert (found.without[1, ~low] > found.error[~low]).all()
    assert base.bare[0, 1] == base.null[1], "above, the other sees it all"


def test_places_of_one_network_are_worth_something_together():
    law = field()
    maps = [Crop(SHAPE, 0, 0, 8, 5), Crop(SHAPE, 0, 0, 8, 4), Crop(SHAPE, 0, 4, 8, 4)]
    alone = exact_views(law, maps[:1], Bins(0.05, 5, 4), Mode.LS)
    how = Windows(SHAPE, (8, 4))
    network = Told.Config(how, MLP(width=8, blocks=1))
    shared = (View(maps[1], Asked.Config(maps[1], network, how)), View(maps[2], Asked.Config(maps[2], None, how)))
    base = replace(alone.config, views=(*alone.config.views, *shared)).build().double().eval().requires_grad_(False)
    assert base.groups == [[0], [1, 2]]
    base.models = exact_views(law, maps, Bins(), Mode.LS).models
    x0, ids = images(law, 30)
    fill(base, x0)
    fill(alone, x0)
    for each in (base, alone):
        calibrate_base(each, x0, ids, Key(3), 1)
    found = account(base, x0, ids, Key(2), draws=1)
    assert found.without.shape == (2, 4)
    assert found.lift.shape == found.weight.shape == (3, 4)
    torch.testing.assert_close(found.without[1], account(alone, x0, ids, Key(2), draws=1).error, rtol=1e-4, atol=1e-7)


def test_a_copy_of_a_view_is_worth_nothing_and_a_half_is_worth_its_error():
    law = field()
    base, (x0, ids) = exact_base(law, [HALVES[0], HALVES[0], HALVES[1]], Mode.LS, 1.0), images(law, 50)
    fill(base, x0)
    worth = account(base, x0, ids, Key(2), draws=1).worth(base.config.bins)
    assert abs(worth[0]) < 1e-3
    assert abs(worth[1]) < 1e-3
    assert worth[2] > 0.1


def test_stacked_views_of_independent_halves_are_the_posterior_mean_and_each_is_worth_its_half():
    """D₀ + Σ L_k(D₀) is it: scalars of 1 on the lifts, and 0 on x."""
    law = Gaussian(torch.zeros(64), torch.block_diag(*[0.3 * torch.ones(32, 32) + 0.4 * torch.eye(32)] * 2).double())
    base, (x0, ids) = exact_base(law, ROWS, Mode.STACK, 0.7), images(law, 600)
    base.bare.fill_(1)
    calibrate_base(base, x0, ids, Key(3), 2)
    torch.testing.assert_close(base.stack[:2], torch.ones(2, 2).double(), rtol=0, atol=0.03)
    assert float(base.stack[2].abs().max()) < 0.03
    told = account(base, x0, ids, Key(2), draws=2)
    for k, s in enumerate(base.config.bins.centres().double()):
        x = x0 + s * torch.randn(x0.shape, generator=Key(9).fold(k).torch(), dtype=torch.float64)
        error = float((base(x, s.expand(len(x))) - x0).square().mean())
        assert float(told.error[k]) == pytest.approx(error, rel=0.03)
    assert told.harm == pytest.approx(1, abs=0.02)
    for row in told.without:
        assert (row > told.error * 1.05).all()
        assert (row < 0.7).all(), "the variance of a pixel"


def test_the_weights_of_a_stack_are_its_scalars_whatever_their_sign():
    base = exact_base(field(), ROWS, Mode.STACK, 0.7)
    base.bare.fill_(1)
    base.stack.copy_(torch.tensor([[0.5, -0.3], [-1.5, 0.2], [0.1, 0.4]]))
    assert torch.equal(account(base, *images(field(), 4), Key(2), draws=1).weight, base.stack[:2])


def test_the_weight_of_a_pooled_view_in_blue_is_of_what_it_sees_of_each_entry():
    """A crop of 40 entries and 16 sums of blocks, each weighed by itself: 40/mse to 16/mse."""
    base, (x0, ids) = exact_views(field(), [LEFT, Pool(SHAPE, 2)], Bins(0.05, 5, 4), Mode.BLUE), images(field(), 8)
    fill(base, x0)
    calibrate_base(base, x0, ids, Key(3), 1)
    crop, pooled = account(base, x0, ids, Key(2), draws=1).weight
    torch.testing.assert_close(crop / pooled, (40 / base.error[0]) / (16 / base.error[1]), rtol=1e-3, atol=0)


def test_a_stack_can_undo_an_overlap_and_return_the_image_itself():
    """Without a scalar on x, all that is seen twice would be moved twice, however little noise there is."""
    law = field()
    base, (x0, ids) = exact_base(law, [LEFT, RIGHT], Mode.STACK, 1e-3), images(law, 300)
    base.null.fill_(1e-8)  # the views see everything, so that what is known without them is the mean
    calibrate_base(base, x0, ids, Key(3), 2)
    for k, s in enumerate(base.config.bins.centres().double()):
        x = x0 + s * torch.randn(x0.shape, generator=Key(9).fold(k).torch(), dtype=torch.float64)
        assert (base(x, s.expand(len(x))) - x0).square().mean() < 1.01 * s**2


@pytest.mark.slow
@pytest.mark.parametrize("rho", [0.0, 0.5, 0.8])
def test_the_residual_of_two_marginals_is_worth_their_mutual_information(rho):
    """½ ∫ E|r|² dσ² = −½ ln(1 − ρ²) nats (methods, F3), measured as a report measures it."""
    shape = (1, 1, 2)
    law = Gaussian(torch.zeros(2).double(), torch.tensor([[1.0, rho], [rho, 1.0]]).double())
    maps = [Crop(shape, 0, 0, 1, 1), Crop(shape, 0, 1, 1, 1)]
    base = exact_views(law, maps, Bins(1e-3, 50.0, 64))
    assert base.mode is Mode.SUM
    x0 = law.sample(4000, Key(1)).reshape(-1, *shape)
    ids = [str(i) for i in range(len(x0))]
    energy, nats = residual_energy(base, Correction(law), torch.ones(64), x0, ids, Key(3), draws=1)
    assert nats == pytest.approx(-0.5 * math.log(1 - rho**2), rel=0.05, abs=1e-6)
    quarter = residual_energy(base, Correction(law), torch.full((64,), 0.5), x0, ids, Key(3), draws=1)
    torch.testing.assert_close(quarter[0], energy / 4)
