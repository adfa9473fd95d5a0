"""Modes of combination on Gaussian fields, whose every error is a trace; and G⁺ against the dense pseudo-inverse."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from known import exact_base

from pipeline.diffusion.combine import Mode, Normal, counting, disjoint, resolve
from pipeline.diffusion.exact import Gaussian
from pipeline.diffusion.unseen import fill
from pipeline.keys import Key
from pipeline.physics.blur import GaussianBlur
from pipeline.physics.linear import Identity
from pipeline.physics.views import Channel, Crop, Pool

SHAPE = (1, 8, 8)
LEFT, RIGHT = Crop(SHAPE, 0, 0, 8, 5), Crop(SHAPE, 0, 3, 8, 5)
OVERLAP, POOL = Crop(SHAPE, 0, 3, 8, 2), Pool(SHAPE, 2)


def field() -> Gaussian:
    """A Gaussian field of unit variance on the 8x8 grid (methods, 1.4)."""
    points = torch.cartesian_prod(torch.arange(8.0), torch.arange(8.0)).double()
    return Gaussian(torch.zeros(64), torch.exp(-torch.cdist(points, points) / 3) + 1e-3 * torch.eye(64))


def error(law, maps, mode, sigma2):
    """E|D_base − D*|² a pixel, from the matrices of both linear maps: tr((B − W) C (B − W)ᵀ)/n."""
    n = law.mean.numel()
    eye = torch.eye(n, dtype=torch.float64).reshape(n, *maps[0].in_shape)
    sigma = torch.full((n,), sigma2**0.5, dtype=torch.float64)
    difference = (exact_base(law, maps, mode, sigma2)(eye, sigma).reshape(n, n) - law(eye, sigma).reshape(n, n)).T
    return float((difference @ (law.cov + sigma2 * torch.eye(n)) * difference).sum()) / n


CASES = [
    ([LEFT, RIGHT], Mode.SUM, [0.0057, 0.169, 2.32]),
    ([LEFT, RIGHT], Mode.LS, [0.0002, 0.0025, 0.0089]),
    ([LEFT, RIGHT, OVERLAP], Mode.BETHE, [1.4e-6, 5.3e-5, 0.0032]),
]


@pytest.mark.parametrize(("maps", "mode", "wanted"), CASES, ids=["sum", "ls", "bethe"])
def test_errors_are_those_computed_by_hand(maps, mode, wanted):
    """The table of methods 1.4: an overlap counted twice costs more than all else."""
    found = [error(field(), maps, mode, sigma2) for sigma2 in (0.1, 1.0, 10.0)]
    for value, want in zip(found, wanted, strict=True):
        assert value == pytest.approx(want, rel=0.04, abs=5e-5 if want > 1e-4 else 5e-7)


def test_a_view_summed_twice_is_as_bad_as_no_denoising_at_all_and_least_squares_do_not_care():
    """D = x + 2(D* − x): as far from D* on one side as x is on the other."""
    law, whole = field(), Crop(SHAPE, 0, 0, 8, 8)
    C = law.cov + torch.eye(64)
    raw = torch.linalg.inv(C).trace() / 64  # E|x − D*|² = σ⁴ tr C⁻¹
    assert error(law, [whole, whole], Mode.SUM, 1.0) == pytest.approx(float(raw), rel=1e-9)
    assert error(law, [whole, whole], Mode.LS, 1.0) < 1e-9


@pytest.mark.parametrize("sigma2", [1e-3, 1e-4])
def test_counting_regions_is_exact_for_a_markov_chain_as_noise_vanishes(sigma2):
    """x₁ → x₂ → x₃ with views (1, 2) and (2, 3): the score of the density falls apart at σ = 0 and only there."""
    cov = 0.9 ** torch.cdist(torch.arange(3.0)[:, None], torch.arange(3.0)[:, None]).double()
    law, shape = Gaussian(torch.zeros(3), cov), (1, 1, 3)
    views = [Crop(shape, 0, 0, 1, 2), Crop(shape, 0, 1, 1, 2)]
    middle = Crop(shape, 0, 1, 1, 1)
    score = error(law, [*views, middle], Mode.BETHE, sigma2) * 3 / sigma2**2  # of scores, not of denoisers
    assert score < 30 * sigma2
    assert score < 0.1 * error(law, views, Mode.SUM, sigma2) * 3 / sigma2**2


WEIGHED = {
    "crops": [LEFT, RIGHT],
    "gaps": [Crop(SHAPE, 0, 0, 8, 3), Crop(SHAPE, 2, 4, 3, 3)],
    "pooled": [POOL],
    "pooled twice": [POOL, POOL],
    "crop and pooled": [Crop(SHAPE, 1, 0, 6, 5), POOL],
    "crops and pooled": [LEFT, RIGHT, POOL, Identity(SHAPE)],
}


@pytest.mark.parametrize("maps", WEIGHED.values(), ids=WEIGHED)
@pytest.mark.parametrize("zero", [None, 0])
def test_the_pseudo_inverse_of_selections_and_blocks_is_exact(maps, zero):
    normal = Normal(maps)
    assert normal.exact
    weights = [10.0 ** torch.linspace(-3, 1, 5).roll(k).double().reshape(5, 1, 1, 1) for k in range(len(maps))]
    if zero is not None:
        weights[zero] = torch.zeros_like(weights[zero])
    u = torch.randn(5, *SHAPE, generator=Key(1).torch(), dtype=torch.float64)
    right = normal(u, weights)
    found = normal.solve(right, weights)
    for i in range(5):
        G = sum(float(w[i]) * A.dense().T @ A.dense() for A, w in zip(maps, weights, strict=True))
        want = torch.linalg.pinv(G, rtol=1e-12, hermitian=True) @ right[i].flatten()
        torch.testing.assert_close(found[i].flatten(), want, rtol=1e-8, atol=1e-8)


def test_other_views_are_solved_by_conjugate_gradients():
    maps = [LEFT, POOL, Pool(SHAPE, 4)]
    normal = Normal(maps)
    assert not normal.exact
    assert not Normal([GaussianBlur(SHAPE, 1.0)]).exact
    weights = [torch.full((2, 1, 1, 1), w, dtype=torch.float64) for w in (1.0, 0.3, 2.0)]
    u = torch.randn(2, *SHAPE, generator=Key(1).torch(), dtype=torch.float64)
    right = normal(u, weights)
    torch.testing.assert_close(normal(normal.solve(right, weights), weights), right, rtol=1e-4, atol=1e-4)


def test_a_projection_is_onto_what_some_view_sees():
    normal, u = Normal([Crop(SHAPE, 0, 0, 8, 3), POOL]), torch.randn(4, *SHAPE, generator=Key(2).torch())
    seen = normal.project(u)
    torch.testing.assert_close(seen[..., :3], u[..., :3])
    torch.testing.assert_close(POOL(seen), POOL(u))
    torch.testing.assert_close(normal.project(seen), seen)
    inside = seen[..., 4:].unflatten(-1, (-1, 2)).unflatten(-3, (-1, 2))
    assert float(inside.std((-1, -3)).max()) < 1e-6, "a pooled view says nothing within its blocks"


def test_what_auto_stands_for():
    halves = [Crop(SHAPE, 0, 0, 8, 4), Crop(SHAPE, 0, 4, 8, 4)]
    assert disjoint(halves)
    assert not disjoint([LEFT, RIGHT])
    assert resolve(Mode.AUTO, halves) is Mode.SUM
    assert resolve(Mode.AUTO, [LEFT, RIGHT]) is Mode.LS
    assert resolve(Mode.AUTO, [LEFT, RIGHT, OVERLAP]) is Mode.BETHE
    assert resolve(Mode.AUTO, [LEFT, RIGHT, OVERLAP, Identity(SHAPE)]) is Mode.LS, "the crops would have no say"
    assert resolve(Mode.AUTO, [LEFT, POOL]) is Mode.LS
    assert resolve(Mode.SUM, [LEFT, RIGHT]) is Mode.SUM


def test_counting_numbers():
    assert counting([LEFT, RIGHT, OVERLAP]) == [1, 1, -1]
    assert counting([Identity(SHAPE), LEFT, RIGHT]) == [1, 0, 0]
    assert counting([LEFT, RIGHT]) is None
    assert counting([LEFT, LEFT]) is None
    three = [Crop(SHAPE, 0, at, 8, 4) for at in (0, 2, 4)]
    between = [Crop(SHAPE, 0, at, 8, 2) for at in (2, 4)]
    assert counting([*between, *three]) == [-1, -1, 1, 1, 1]
    channels = [Channel((3, 2, 2), c) for c in ((0, 1), (1, 2), (1,))]
    assert counting(channels) == [1, 1, -1]
    with pytest.raises(ValueError, match="a view for every overlap"):
        resolve(Mode.BETHE, [LEFT, RIGHT])


@pytest.mark.parametrize("mode", [Mode.LS, Mode.SUM])
def test_directions_that_no_view_sees_are_filled_alike(mode):
    """Unseen pixels that are white and of variance v: the fallback is exact there, whatever the mode."""
    cov = torch.eye(64).double() * 0.3
    law, half = Gaussian(torch.zeros(64), cov), Crop(SHAPE, 0, 0, 8, 4)
    base = exact_base(law, [half], mode, 0.5)
    fill(base, law.sample(20_000, Key(3)).reshape(-1, *SHAPE))
    x = law.sample(8, Key(4)).reshape(-1, *SHAPE)
    sigma = torch.full((8,), 0.5**0.5, dtype=torch.float64)
    torch.testing.assert_close(base(x, sigma), law(x, sigma), rtol=0, atol=0.02)


@pytest.mark.parametrize("mode", [Mode.LS, Mode.SUM, Mode.STACK])
def test_a_view_that_arrived_noisy_has_no_say_below_its_noise_and_its_own_above(mode):
    law, halves = field(), [Crop(SHAPE, 0, 0, 8, 4), Crop(SHAPE, 0, 4, 8, 4)]
    base, clean = exact_base(law, halves, mode, 1.0), exact_base(law, halves[1:], mode, 1.0)
    views = (replace(base.config.views[0], least=0.8), base.config.views[1])
    base.config = replace(base.config, views=views)
    for each in (base, clean):
        each.stack.fill_(0.5)
        each.null.fill_(0.4)
    x = law.sample(4, Key(5)).reshape(-1, *SHAPE)
    below, above = (torch.full((4,), s, dtype=torch.float64) for s in (0.79, 0.81))
    assert torch.equal(base.heard(below)[0], torch.zeros(4).double())
    assert not torch.allclose(base(x, above)[..., :4], clean(x, above)[..., :4], atol=1e-3)
    torch.testing.assert_close(base(x, below), clean(x, below))
