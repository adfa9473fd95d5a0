"""Weights by the covariance of views' errors: against Aitken's formula, and the variance that it promises."""

from __future__ import annotations

import pytest
import torch
from known import Known, exact_views

from pipeline.diffusion import blue, calibrate
from pipeline.diffusion.bins import Bins
from pipeline.diffusion.blue import common, weights
from pipeline.diffusion.combine import Mode
from pipeline.diffusion.denoiser import expand
from pipeline.diffusion.exact import Gaussian
from pipeline.keys import Key
from pipeline.physics.linear import Identity
from pipeline.physics.views import Channel, Crop, Pool

SHAPE = (1, 4, 4)
WHOLE, LEFT, RIGHT, POOL = Identity(SHAPE), Crop(SHAPE, 0, 0, 4, 3), Crop(SHAPE, 0, 1, 4, 3), Pool(SHAPE, 2)
E = torch.tensor([[1.0, 0.6, 0.2], [0.6, 1.5, 0.1], [0.2, 0.1, 2.0]]).double()
ALL = torch.ones(1, 3, dtype=torch.bool)


@pytest.fixture(autouse=True)
def exactly(monkeypatch):
    monkeypatch.setattr(blue, "RIDGE", 0.0)


def base_of(maps, mode=Mode.BLUE):
    law = Gaussian(torch.zeros(16).double(), 0.5 * torch.eye(16).double())
    return exact_views(law, maps, Bins(0.1, 1.0, 2), mode)


class Says(torch.nn.Module):
    """A model that always says the same."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, x, sigma, cond=None):
        return torch.full_like(x, self.value)


def said(maps, covariance, values, mode=Mode.BLUE):
    """What comes of views that say so, before it is stacked."""
    base = base_of(maps, mode)
    base.models = torch.nn.ModuleList(Says(value) for value in values)
    base.error.copy_(covariance.diagonal()[:, None].expand(-1, 2))
    if base.shares is not None:
        base.shares.set(covariance[..., None].expand(-1, -1, 2), base.config.bins.centres(), [0.0] * len(maps))
    x, sigma = torch.zeros(1, *SHAPE).double(), torch.full((1,), 0.1).double()
    return base.combine(x, sigma, base.shown(x, sigma))[0, 0]


def test_weights_are_aitkens():
    found = weights(E[..., None], ALL)[0, :, 0]
    torch.testing.assert_close(found, torch.linalg.inv(E).sum(1), rtol=1e-6, atol=0)
    w = found / found.sum()
    assert float(w @ E @ w) == pytest.approx(1 / float(torch.linalg.inv(E).sum()))
    for k in range(3):  # no other unbiased combination has less
        moved = w + 0.1 * (torch.eye(3).double()[k] - 1 / 3)
        assert moved @ E @ moved > w @ E @ w


def test_each_entry_is_weighed_by_the_views_that_see_it():
    """Columns 0, 1 and 2, 3 of 4 are seen by {whole, left}, all three, and {whole, right}."""
    values = torch.tensor([1.0, 3.0, 7.0]).double()
    image = said([WHOLE, LEFT, RIGHT], E, values.tolist())
    for column, views in ((0, [0, 1]), (1, [0, 1, 2]), (2, [0, 1, 2]), (3, [0, 2])):
        inverse = torch.linalg.inv(E[views][:, views])
        wanted = (inverse.sum(0) @ values[views]) / inverse.sum()
        torch.testing.assert_close(image[:, column], wanted.expand(4), rtol=1e-5, atol=0)


def test_without_covariance_they_are_those_of_least_squares():
    maps, alone, values = [WHOLE, LEFT, POOL], torch.diag(E.diagonal()), [1.0, 3.0, 7.0]
    torch.testing.assert_close(said(maps, alone, values), said(maps, alone, values, Mode.LS), rtol=1e-5, atol=1e-6)


def test_what_all_views_err_by_changes_nothing():
    one, more = (weights((E + c)[..., None], ALL)[0, :, 0] for c in (0.0, 50.0))
    torch.testing.assert_close(one / one.sum(), more / more.sum(), rtol=1e-6, atol=1e-8)


def test_copies_of_a_view_share_one_say():
    """Least squares with 1/mse would let a copy that is no use beside its original count a second time."""
    copied = E[[0, 0, 2]][:, [0, 0, 2]]
    found, alone = weights(copied[..., None], ALL)[0, :, 0], weights(E[[0, 2]][:, [0, 2]][..., None], ALL[:, :2])
    assert float(found[:2].sum() / found.sum()) == pytest.approx(float(alone[0, 0, 0] / alone.sum()), rel=1e-4)
    assert float(found[0]) == pytest.approx(float(found[1]), rel=1e-3)


def test_a_view_that_would_be_held_against_another_is_left_out():
    """E = (1, 1.5; 1.5, 4) wants weights (1.25, −0.25): a view is worth nothing, never less."""
    found = weights(torch.tensor([[1.0, 1.5], [1.5, 4.0]])[..., None], ALL[:, :2])[0, :, 0]
    torch.testing.assert_close(found, torch.tensor([1.0, 0.0]).double(), rtol=1e-6, atol=0)


def test_the_ridge_draws_weights_together_and_does_not_mind_what_all_err_by(monkeypatch):
    monkeypatch.setattr(blue, "RIDGE", 0.5)
    drawn, more = (weights((E + c)[..., None], ALL)[0, :, 0] for c in (0.0, 50.0))
    free = torch.linalg.inv(E).sum(1)
    assert (drawn / drawn.sum()).std() < 0.9 * (free / free.sum()).std()
    torch.testing.assert_close(drawn / drawn.sum(), more / more.sum(), rtol=1e-6, atol=1e-8)


def test_a_view_has_no_say_below_its_least_noise():
    base = base_of([WHOLE, LEFT])
    assert base.shares is not None
    base.shares.set(E[:2, :2, None].expand(-1, -1, 2), base.config.bins.centres(), [0.0, 0.5])
    assert bool((base.shares.table[:, 1, 0] == 0).all())
    assert bool((base.shares.table[:, 1, 1] > 0).any())


def test_directions_that_two_views_share_are_counted():
    maps = [WHOLE, LEFT, RIGHT, POOL]
    wanted = [[16, 12, 12, 4], [12, 12, 8, 3], [12, 8, 12, 3], [4, 3, 3, 4]]
    torch.testing.assert_close(common(maps), torch.tensor(wanted).double())
    three = (3, 2, 2)
    torch.testing.assert_close(common([Channel(three, (0, 2)), Channel(three, (2,))])[0, 1], torch.tensor(4.0).double())


def test_the_covariance_is_measured_as_the_closed_form_and_lowers_the_error():
    """Of linear D_k = W_k x the errors have covariance tr(W_k C W_lᵀ − W_k Σ − Σ W_lᵀ + Σ)/n."""
    points = torch.cartesian_prod(torch.arange(4.0), torch.arange(4.0)).double()
    law = Gaussian(torch.zeros(16).double(), torch.exp(-torch.cdist(points, points) / 2))
    wrong = [Gaussian(law.mean, law.cov * 3), Gaussian(law.mean, torch.eye(16).double())]
    found = {}
    for mode in (Mode.LS, Mode.BLUE):
        base = exact_views(law, [WHOLE, WHOLE], Bins(0.5, 2.0, 2), mode)
        base.models = torch.nn.ModuleList(Known(each) for each in wrong)
        x0 = law.sample(3000, Key(1)).reshape(-1, *SHAPE)
        covariance = calibrate.calibrate_base(base, x0, [str(i) for i in range(len(x0))], Key(2), draws=1)
        for n, s in enumerate(base.config.bins.centres().double()):
            C = law.cov + s**2 * torch.eye(16)
            W = [each.cov @ torch.linalg.inv(each.cov + s**2 * torch.eye(16)) for each in wrong]
            for k in range(2):
                for l in range(2):
                    exact = (W[k] @ C @ W[l].T - W[k] @ law.cov - law.cov @ W[l].T + law.cov).trace() / 16
                    assert float(covariance[k, l, n]) == pytest.approx(float(exact), rel=0.03)
        fresh = law.sample(3000, Key(3)).reshape(-1, *SHAPE)
        sigma = base.config.bins.centres().double()[:1].expand(len(fresh))
        x = fresh + expand(sigma, fresh) * torch.randn(fresh.shape, generator=Key(4).torch(), dtype=fresh.dtype)
        found[mode] = float(((base.combine(x, sigma, base.shown(x, sigma)) - fresh) ** 2).mean())
    assert found[Mode.BLUE] < found[Mode.LS]
