"""What the residual is: facts F1 to F5 of the method on Gaussians and mixtures, and its golden numbers."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from known import exact_views

from pipeline.diffusion.bins import Bins
from pipeline.diffusion.combine import Mode
from pipeline.diffusion.exact import Gaussian, Mixture
from pipeline.diffusion.sample import Heun
from pipeline.keys import Key
from pipeline.physics.views import Crop

TWO = (1, 1, 2)
MARGINALS = [Crop(TWO, 0, 0, 1, 1), Crop(TWO, 0, 1, 1, 1)]


def summed(law, maps):
    """The sum of the exact views' scores."""
    base = exact_views(law, maps, Bins(0.1, 1.0, 2))
    assert base.mode is Mode.SUM
    return base


def pair(rho=0.8):
    return Gaussian(torch.zeros(2).double(), torch.tensor([[1.0, rho], [rho, 1.0]], dtype=torch.float64))


def residual(law, base, x, variance):
    """The residual score r (B, n) = s − Σ lifts at σ² = variance."""
    sigma = torch.full((len(x),), variance**0.5, dtype=torch.float64)
    shaped = x.reshape(-1, *base.config.shape)
    return ((law(shaped, sigma) - base(shaped, sigma)) / variance).flatten(1)


GOLDEN = {0.25: 1.110027, 1.0: 0.190476, 4.0: 0.0105090}


@pytest.mark.parametrize(("variance", "energy"), GOLDEN.items())
def test_golden_energies_of_the_residual_in_two_dimensions(variance, energy):
    """E|r|² = 2ρ²/(a(a² − ρ²)), a = 1 + σ², at ρ = .8."""
    law = pair()
    R = residual(law, summed(law, MARGINALS), torch.eye(2).double(), variance).T
    C = law.cov + variance * torch.eye(2)
    assert float((R @ C * R).sum()) == pytest.approx(energy, abs=1e-6)
    a = 1 + variance
    assert float((R @ C * R).sum()) == pytest.approx(2 * 0.64 / (a * (a**2 - 0.64)), rel=1e-9)


def test_golden_matrix_of_the_residual_at_variance_one():
    law = pair()
    R = residual(law, summed(law, MARGINALS), torch.eye(2).double(), 1.0).T
    want = torch.tensor([[-0.0952381, 0.2380952], [0.2380952, -0.0952381]]).double()
    torch.testing.assert_close(R, want, rtol=1e-6, atol=1e-7)


def test_the_golden_integral_is_the_total_correlation():
    """(F3) ½ ∫ E|r|² dσ² = −½ ln(1 − .64) = .5108256 nats."""
    law = pair()
    base, energies = summed(law, MARGINALS), []
    variances = torch.logspace(-6, 6, 401, dtype=torch.float64)
    for v in variances.tolist():
        R = residual(law, base, torch.eye(2).double(), v).T
        energies.append(float((R @ (law.cov + v * torch.eye(2)) * R).sum()))
    integrand = torch.tensor(energies).double() * variances  # over ln σ²
    integral = 0.5 * torch.trapezoid(integrand, variances.log()) + 0.5 * variances[0] * energies[0]
    assert float(integral) == pytest.approx(0.5108256, abs=1e-6)


MIXTURE = Mixture(
    [0.5, 0.3, 0.2],
    [torch.tensor(m).double() for m in ((2.0, 2.0), (-2.0, -1.0), (1.0, -2.0))],
    [0.09 * torch.eye(2).double()] * 3,
)


@pytest.mark.slow
def test_a_lift_is_the_projection_of_the_score_so_that_nothing_of_a_view_is_left():
    """(F1) E[A r | v] = 0 for a mixture: in every bin of v the mean of A r is 0 within its error."""
    base = summed(MIXTURE, MARGINALS)
    x = MIXTURE.sample(200_000, Key(1))
    x = x + 0.8 * torch.randn(x.shape, generator=Key(2).torch(), dtype=x.dtype)
    r = residual(MIXTURE, base, x, 0.64)
    for axis in range(2):
        order = x[:, axis].argsort()
        parts = r[order, axis].reshape(20, -1)
        error = parts.std(1) / parts.shape[1] ** 0.5
        # Where one component all but has the bin to itself r is nearly always 0, and its error not known.
        assert float((parts.mean(1).abs() - 4.5 * error).max()) < 1e-3
        assert float(parts.std(1).max()) > 0.3


@pytest.mark.slow
def test_the_residuals_energy_is_the_fisher_information_that_the_views_lack():
    """(F2) E|r|² = J(x) − Σ J(v_k) for views that partition, of a mixture, on the same draws."""
    base = summed(MIXTURE, MARGINALS)
    x = MIXTURE.sample(400_000, Key(3))
    x = x + 0.7 * torch.randn(x.shape, generator=Key(4).torch(), dtype=x.dtype)
    sigma = torch.full((len(x),), 0.7, dtype=torch.float64)
    energy = (residual(MIXTURE, base, x, 0.49) ** 2).sum(1)
    whole = (MIXTURE.score(x, sigma) ** 2).sum(1)
    parts = sum((MIXTURE.through(A.dense()).score(x[:, k : k + 1], sigma) ** 2).sum(1) for k, A in enumerate(MARGINALS))
    gap = energy - (whole - parts)
    assert abs(float(gap.mean())) < 4.5 * float(gap.std()) / len(x) ** 0.5
    assert float(gap.mean().abs()) < 0.02 * float(energy.mean())
    assert float(energy.mean()) > 0.1


def test_any_base_that_is_a_density_is_left_with_its_divergence():
    """(F4) ½ ∫ E|s − s_q|² dσ² = KL(p‖q) for q = N(m, diag), which is neither p nor its marginals."""
    p, q = pair(0.6), Gaussian(torch.tensor([0.4, -0.2]).double(), torch.diag(torch.tensor([1.5, 0.7]).double()))
    variances = torch.logspace(-6, 7, 801, dtype=torch.float64)
    energy = []
    for v in variances.tolist():
        Cp, Cq = p.cov + v * torch.eye(2), q.cov + v * torch.eye(2)
        G = torch.linalg.inv(Cq) - torch.linalg.inv(Cp)
        shift = torch.linalg.inv(Cq) @ q.mean
        energy.append(float((G @ Cp * G).sum() + (shift**2).sum()))
    integral = 0.5 * torch.trapezoid(torch.tensor(energy).double() * variances, variances.log())
    inverse = torch.linalg.inv(q.cov)
    kl = 0.5 * ((inverse @ p.cov).trace() + q.mean @ inverse @ q.mean - 2 + torch.logdet(q.cov) - torch.logdet(p.cov))
    assert float(integral) == pytest.approx(float(kl), rel=1e-4)


def test_a_residual_also_repairs_what_views_got_wrong():
    """(F5) E|r*|² = E|r|² + Σ E|ŝ_k − s_k|² for imperfect views that partition."""
    law, wrong = pair(), pair()
    wrong.cov, variance = torch.diag(torch.tensor([1.7, 0.6])).double(), 0.5
    wrong = Gaussian(torch.tensor([0.3, 0.0]).double(), wrong.cov)
    right, imperfect = summed(law, MARGINALS), summed(wrong, MARGINALS)
    C = law.cov + variance * torch.eye(2)

    def energy(first, second):
        """E|f − g|² of two affine denoisers' scores under p."""
        eye, zero = torch.eye(2).double(), torch.zeros(1, 2).double()
        at = torch.cat([eye, zero]).reshape(-1, *TWO)
        sigma = torch.full((3,), variance**0.5, dtype=torch.float64)
        gap = ((first(at, sigma) - second(at, sigma)) / variance).flatten(1)
        constant, matrix = gap[2], (gap[:2] - gap[2]).T
        return float((matrix @ C * matrix).sum() + (constant**2).sum())

    assert energy(law, imperfect) == pytest.approx(energy(law, right) + energy(right, imperfect), rel=1e-9)
    assert energy(right, imperfect) > 0.01


def blocks(n=12, rho=0.95):
    i = torch.arange(n, dtype=torch.float64)
    law = Gaussian(torch.zeros(n), rho ** (i[:, None] - i[None, :]).abs())
    shape = (1, 1, n)
    return law, summed(law, [Crop(shape, 0, 0, 1, n // 2), Crop(shape, 0, n // 2, 1, n // 2)]), shape


@pytest.mark.slow
def test_samples_of_the_base_alone_fall_apart_and_those_of_the_whole_do_not():
    """Without the residual blocks that are all but copies of each other (.95) are drawn independently."""
    law, base, shape = blocks()
    start = 50 * torch.randn(4000, *shape, generator=Key(1).torch(), dtype=torch.float64)
    sampler = Heun(steps=60, sigma_min=1e-3, sigma_max=50.0)
    drawn = {name: sampler(D, start.clone()).flatten(1).T for name, D in (("base", base), ("whole", law))}
    across = {name: float(torch.cov(x)[5, 6]) for name, x in drawn.items()}
    assert across["whole"] == pytest.approx(0.95, abs=0.06)
    assert abs(across["base"]) < 0.06
    assert float(torch.cov(drawn["base"])[0, 1]) == pytest.approx(0.95, abs=0.06)


def experiment():
    path = Path(__file__).parents[2] / "benchmarks/experiments/gaussian.py"
    spec = importlib.util.spec_from_file_location("gaussian", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["gaussian"] = module
    spec.loader.exec_module(module)
    return module


TABLE = {30: (1.585, 0.2765, 1.256), 100: (0.312, 0.165, 0.300), 300: (0.0946, 0.0754, 0.0938)}


@pytest.mark.slow
@pytest.mark.parametrize(("images", "wanted"), TABLE.items())
def test_the_law_of_data_efficiency(images, wanted):
    """The table of methods 1.5, and its point: all that a residual gains comes from regularising it."""
    module = experiment()
    setting = module.Setting()
    residual, scratch, spread = setting.limits
    assert (residual, scratch, spread) == pytest.approx((0.3774, 9.782, 2.218), rel=1e-3)
    found = module.risks(setting, images, 600)
    plain, ridge, from_scratch, ridge_scratch = found.mean(0).tolist()
    for value, want in zip((plain, ridge, ridge_scratch), wanted, strict=True):
        assert value == pytest.approx(want, rel=0.04)
    torch.testing.assert_close(found[:, 0], found[:, 2])  # unregularised, the base changes nothing at all
    assert ridge < min(residual, plain, from_scratch, ridge_scratch)
    harmonic = 1 / (1 / residual + images / (setting.n * spread))
    assert ridge == pytest.approx(harmonic, rel=0.1)
