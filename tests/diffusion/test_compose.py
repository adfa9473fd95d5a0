"""Views with exact denoisers: what their combination must be, on Gaussians, to rounding."""

from __future__ import annotations

import math

import pytest
import torch
from known import Correction, Known, exact_views
from torch import nn

from pipeline.backbones import unet
from pipeline.diffusion import calibrate, unseen
from pipeline.diffusion.bins import Bins
from pipeline.diffusion.compose import Base, View
from pipeline.diffusion.denoiser import expand
from pipeline.diffusion.exact import Gaussian
from pipeline.diffusion.precond import Preconditioned
from pipeline.diffusion.residual import Composed, Residual
from pipeline.keys import Key
from pipeline.objectives.objective import Batch
from pipeline.objectives.residual import ResidualDenoising
from pipeline.physics.linear import LinearMap
from pipeline.physics.views import Crop, Pool

SHAPE = (1, 4, 4)
LEFT, RIGHT = Crop(SHAPE, 0, 0, 4, 2), Crop(SHAPE, 0, 2, 4, 2)
OVER_LEFT, OVER_RIGHT, POOL = Crop(SHAPE, 0, 0, 4, 3), Crop(SHAPE, 0, 1, 4, 3), Pool(SHAPE, 2)


def field(nugget: float = 0.05, length: float = 2.0) -> Gaussian:
    """A stationary Gaussian field on the 4x4 grid."""
    points = torch.cartesian_prod(torch.arange(4.0), torch.arange(4.0)).double()
    cov = 0.25 * torch.exp(-torch.cdist(points, points) / length) + nugget * torch.eye(16)
    return Gaussian(torch.linspace(-0.3, 0.3, 16).double(), cov)


def base_of(law: Gaussian, maps: list[LinearMap]) -> Base:
    base = exact_views(law, maps, Bins(0.05, 5.0, 8))
    base.mean.copy_(law.mean.reshape(SHAPE))
    base.null.fill_(1e-8)
    return base.requires_grad_(False)


def noised(law: Gaussian, count: int = 64, sigma: float = 0.7):
    x0 = law.sample(count, Key(0).fold("x0")).reshape(count, *SHAPE)
    z = torch.randn(x0.shape, generator=Key(0).fold("z").torch(), dtype=x0.dtype)
    level = torch.full((count,), sigma, dtype=x0.dtype)
    return x0, x0 + sigma * z, level


def test_views_of_independent_halves_are_the_whole_denoiser():
    law = field()
    cov = law.cov.clone()
    half = (torch.arange(16) % 4) < 2
    cov[half[:, None] != half[None, :]] = 0
    law = Gaussian(law.mean, cov)
    _, x, sigma = noised(law)
    torch.testing.assert_close(base_of(law, [LEFT, RIGHT])(x, sigma), law(x, sigma), rtol=1e-5, atol=1e-5)


def test_one_view_of_everything_is_the_whole_denoiser_and_twice_is_no_more():
    law = field()
    _, x, sigma = noised(law)
    whole = Crop(SHAPE, 0, 0, 4, 4)
    once, twice = base_of(law, [whole]), base_of(law, [whole, whole])
    torch.testing.assert_close(once(x, sigma), law(x, sigma), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(twice(x, sigma), once(x, sigma), rtol=1e-5, atol=1e-5)


def test_a_lift_is_the_score_of_the_view_pulled_back():
    """A⁺(D_k(Ax) − Ax)/σ² = −Aᵀ (A C Aᵀ)⁻¹ A (x − μ), C = Σ + σ² I (methods, 1.2)."""
    law = field()
    _, x, sigma = noised(law)
    for A in (OVER_LEFT, POOL):
        dense = A.dense()
        C = law.cov + sigma[0] ** 2 * torch.eye(16)
        inverse = dense.T @ torch.linalg.inv(dense @ C @ dense.T) @ dense
        expected = -(x.flatten(1) - law.mean) @ inverse * sigma[0] ** 2
        lift = base_of(law, [A]).lifts(x, sigma, [law.through(dense)(A(x), sigma)])[0]
        torch.testing.assert_close(lift.flatten(1), expected, rtol=1e-8, atol=1e-8)


def test_what_no_view_sees_is_filled_with_its_own_variance():
    """With white unseen pixels of variance v the fallback is exact: μ + v/(v + σ²)(x − μ)."""
    cov = torch.eye(16, dtype=torch.float64) * 0.3
    law = Gaussian(torch.linspace(-0.3, 0.3, 16).double(), cov)
    base = base_of(law, [LEFT])
    base.null.fill_(0.3)
    _, x, sigma = noised(law)
    torch.testing.assert_close(base(x, sigma), law(x, sigma), rtol=1e-5, atol=1e-5)


def test_least_squares_beats_the_sum_and_each_view_on_overlapping_crops():
    law = field()
    _, x, sigma = noised(law, 2000)
    maps = [OVER_LEFT, OVER_RIGHT]
    base = base_of(law, maps)
    D = law(x, sigma)
    lifts = base.lifts(x, sigma, base.shown(x, sigma))

    def error(guess):
        return float(((guess - D) ** 2).mean())

    combined = error(base(x, sigma))
    assert combined < 0.2 * error(x + sum(lifts))
    assert all(combined < error(x + lift) for lift in lifts)


def test_weights_go_to_the_view_that_errs_less():
    law = field()
    base = base_of(law, [Crop(SHAPE, 0, 0, 4, 4)] * 2)
    base.models[1] = Known(Gaussian(law.mean + 1.0, law.cov))
    base.error.copy_(torch.tensor([1.0, 1e6])[:, None].expand_as(base.error))
    _, x, sigma = noised(law)
    torch.testing.assert_close(base(x, sigma), law(x, sigma), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_calibration_measures_view_errors_as_the_closed_form():
    law = field()
    maps = [OVER_LEFT, OVER_RIGHT, POOL]
    base = base_of(law, maps)
    x0 = law.sample(4000, Key(1)).reshape(-1, *SHAPE)
    ids = [str(i) for i in range(len(x0))]
    found = unseen.fill(base, x0)
    calibrate.calibrate_base(base, x0, ids, Key(2), draws=2)
    for k, A in enumerate(maps):
        exact = law.through(A.dense()).mse(base.config.bins.centres().double())
        torch.testing.assert_close(base.error[k], exact, rtol=0.05, atol=0)
    assert found["unseen_share"] < 1e-6


def test_unseen_variance_is_that_of_the_null_space():
    law = Gaussian(torch.zeros(16, dtype=torch.float64), torch.eye(16, dtype=torch.float64) * 0.3)
    base = base_of(law, [LEFT])
    x0 = law.sample(5000, Key(1)).reshape(-1, *SHAPE)
    found = unseen.fill(base, x0)
    assert found["unseen_share"] == pytest.approx(0.5, abs=0.02)
    assert found["null_variance"] == pytest.approx(0.3, abs=0.01), "of each unseen direction, not of all pixels"


def test_unseen_directions_are_counted_over_a_basis_in_pieces_or_by_probes():
    """Of 20x20 images whose upper 8 rows are seen 240 directions are not; n² numbers are never held."""
    Q = torch.zeros(400)
    Q[160:] = 1
    for whole, most in ((400, 256), (399, 1)):
        parts = [(u.double(), share) for u, share in unseen._probes(400, whole)]
        assert max(len(u) for u, _ in parts) <= most
        assert sum(share * float((u * (Q * u)).sum()) for u, share in parts) == pytest.approx(240)
    u = next(unseen._probes(5000))[0]
    assert len(u) == 1, "of large images there is no basis"
    turned = torch.linalg.qr(torch.randn(400, 60, generator=Key(4).torch(), dtype=torch.float64))[0]
    traced = sum(share * float(((u.double() @ turned) ** 2).sum()) for u, share in unseen._probes(400, 0))
    assert traced == pytest.approx(60, rel=4 * math.sqrt(2 / (unseen.PROBES * 60)))


@pytest.mark.slow
def test_stacking_lowers_the_error_where_pixels_err_together():
    law = field(nugget=0.0, length=4.0)
    base = base_of(law, [OVER_LEFT, OVER_RIGHT, POOL])
    x0 = law.sample(2000, Key(1)).reshape(-1, *SHAPE)
    calibrate.calibrate_base(base, x0, [str(i) for i in range(2000)], Key(2), draws=1)
    fresh, x, _ = noised(law, 4000)
    sigma = base.config.bins.centres().double()[4].expand(len(x))
    x = fresh + expand(sigma, x) * (x - fresh) / 0.7
    stacked = ((base(x, sigma) - fresh) ** 2).mean()
    base.stack.zero_()
    assert stacked < ((base(x, sigma) - fresh) ** 2).mean()


def test_sums_merge_whatever_the_split():
    x0 = torch.randn(10, *SHAPE, generator=torch.Generator().manual_seed(0))
    ids = [f"id-{i}" for i in range(10)]

    def energy(clean, x, sigma):
        return [(x**2).flatten(1).sum(1), (clean * x).flatten(1).sum(1)]

    whole = calibrate.measure(energy, x0, ids, Bins(), Key(3), draws=3)
    parts = [calibrate.measure(energy, x0[a:b], ids[a:b], Bins(), Key(3), draws=3) for a, b in ((0, 3), (3, 10))]
    torch.testing.assert_close((parts[0] + parts[1]).mean, whole.mean)
    assert parts[0].count + parts[1].count == whole.count


def calibrated(law):
    base = base_of(law, [OVER_LEFT, OVER_RIGHT])
    x0 = law.sample(3000, Key(1)).reshape(-1, *SHAPE)
    ids = [str(i) for i in range(len(x0))]
    unseen.fill(base, x0)
    calibrate.calibrate_base(base, x0, ids, Key(2), draws=1)
    return base, x0, ids


@pytest.mark.slow
@pytest.mark.parametrize("penalty", [0.0, 0.5, 3.0])
def test_the_penalty_shrinks_the_best_residual_by_one_over_one_plus_lambda(penalty):
    """The objective is stationary at share = 1/(1 + λ) of the exact correction, and not 10% away (methods, 1.5)."""
    law = field()
    base, x0, _ = calibrated(law)
    objective = ResidualDenoising(base, penalty)
    sigma = torch.full((len(x0),), 0.7, dtype=torch.float64)

    def loss(share):
        return float(objective(Correction(law, share), Batch(x0), sigma, Key(5)).each.mean())

    best = 1 / (1 + penalty)
    curvature = loss(best * 1.5) + loss(best * 0.5) - 2 * loss(best)
    vertex = best - 0.25 * best * (loss(best * 1.5) - loss(best * 0.5)) / curvature
    assert vertex == pytest.approx(best, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(("share", "gate"), [(2.0, 0.5), (4.0, 0.25), (0.5, 1.0), (-1.0, 0.0)])
def test_gates_find_the_best_step_and_stay_within_zero_and_one(share, gate):
    law = field()
    base, x0, ids = calibrated(law)
    found = calibrate.gates(base, Correction(law, share), x0, ids, Key(9), draws=1)
    middle = found[2:6]
    torch.testing.assert_close(middle, torch.full_like(middle, gate), rtol=0, atol=0.08)


class Noise(nn.Module):
    """A correction that has nothing to do with what is wrong."""

    def forward(self, x, sigma, seen, unit, cond=None):
        return torch.randn(x.shape, generator=Key(int(1e4 * float(x.sum().abs())) % 10**6).torch()).to(x)


@pytest.mark.slow
def test_a_useless_correction_is_closed_on_most_bins_though_chance_favours_half_of_them():
    """One standard error off an estimate around 0 leaves it above 0 with probability about 0.16, not 0.5."""
    law = field()
    base, x0, ids = calibrated(law)
    opened = [
        float((calibrate.gates(base, Noise(), x0[i : i + 10], ids[i : i + 10], Key(9), draws=1) > 0).double().mean())
        for i in range(0, 400, 10)
    ]
    assert 0.05 < sum(opened) / len(opened) < 0.28


@pytest.mark.slow
def test_gates_need_more_than_one_image():
    base, x0, ids = calibrated(field())
    with pytest.raises(ValueError, match="hold out more"):
        calibrate.gates(base, Noise(), x0[:1], ids[:1], Key(9))


@pytest.mark.slow
def test_base_plus_exact_residual_is_the_exact_denoiser():
    law = field()
    base, _, _ = calibrated(law)
    config = Composed.Config(SHAPE, base.config, Residual.Config(SHAPE, 2, unet.Config(width=8)))
    composed = config.build().double().eval()
    composed.base, composed.residual = base, Correction(law, 1.0)
    _, x, sigma = noised(law)
    torch.testing.assert_close(composed(x, sigma), law(x, sigma), rtol=1e-9, atol=1e-9)


@pytest.mark.slow
def test_an_untrained_residual_leaves_the_base_as_it_is():
    law = field()
    base, _, _ = calibrated(law)
    composed = (
        Composed.Config(SHAPE, base.config, Residual.Config(SHAPE, 2, unet.Config(width=8))).build().double().eval()
    )
    composed.base = base
    _, x, sigma = noised(law)
    assert torch.equal(composed(x, sigma), base(x, sigma))


@pytest.mark.slow
def test_residual_energy_of_two_marginals_integrates_to_their_mutual_information():
    """½ ∫ E|r|² dσ² = −½ ln(1 − ρ²) for a 2-d Gaussian seen through its two coordinates (methods, F3)."""
    rho = 0.8
    law = Gaussian(torch.zeros(2).double(), torch.tensor([[1.0, rho], [rho, 1.0]]).double())
    parts = [law.through(torch.eye(2).double()[k : k + 1]) for k in range(2)]
    variances = torch.logspace(-5, 5, 4001, dtype=torch.float64)
    energy = []
    for v in variances:
        C = law.cov + v * torch.eye(2)
        s = v.sqrt().reshape(1)
        full = (law(torch.eye(2).double(), s.expand(2)) - torch.eye(2)) / v
        lifts = torch.diag(torch.stack([((p(torch.ones(1, 1).double(), s) - 1) / v).squeeze() for p in parts]))
        r = full.T - lifts
        energy.append((r @ C @ r.T).trace())
    integral = 0.5 * torch.trapezoid(torch.stack(energy), variances)
    assert float(integral) == pytest.approx(-0.5 * math.log(1 - rho**2), rel=1e-3)


def test_bins_read_their_own_centres_and_are_linear_in_log_sigma():
    bins = Bins(0.1, 10.0, 5)
    table = torch.arange(10.0).reshape(2, 5)
    torch.testing.assert_close(bins.read(table, bins.centres()), table, rtol=0, atol=1e-5)
    between = (bins.centres()[1] * bins.centres()[2]).sqrt().reshape(1)
    torch.testing.assert_close(bins.read(table, between)[:, 0], torch.tensor([1.5, 6.5]), rtol=0, atol=1e-5)
    ends = torch.tensor([1e-3, 1e3])
    torch.testing.assert_close(bins.read(table, ends), table[:, [0, -1]])


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Bins(1.0, 0.5, 4),
        lambda: Base.Config(SHAPE, ()),
        lambda: View(2.0 * LEFT, Preconditioned.Config(LEFT.out_shape, unet.Config())),
        lambda: View(LEFT, Preconditioned.Config((1, 3, 3), unet.Config())),
        lambda: Base.Config((1, 8, 8), (View(LEFT, Preconditioned.Config(LEFT.out_shape, unet.Config())),)),
    ],
)
def test_views_that_do_not_fit_are_refused(wrong):
    with pytest.raises(ValueError, match=r"\w"):
        wrong()
