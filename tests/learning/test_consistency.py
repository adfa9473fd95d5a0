"""The consistency product is unbiased where a square is not, and nothing but a true denoiser makes it zero."""

from __future__ import annotations

import pytest
import torch
from test_denoising import bump
from tiny_backbone import LAW

from pipeline.diffusion.sample import Ancestral
from pipeline.keys import Key
from pipeline.objectives.ambient import Ambient
from pipeline.objectives.consistency import Consistent
from pipeline.objectives.objective import Batch

N, S = 60_000, 0.5
FLOOR = torch.full((N,), S, dtype=torch.float64)
Y = LAW.sample(N, Key(1)).double() + S * torch.randn(N, 2, generator=Key(2).torch(), dtype=torch.float64)
BATCH = Batch(Y, floor=FLOOR)
SIGMA = torch.full((N,), 0.8, dtype=torch.float64)


def wrong(x, sigma, cond=None):
    return 0.7 * LAW(x, sigma) + 0.1


def product(D, objective, batch=BATCH, sigma=SIGMA):
    """What consistency adds to the loss, for each row."""
    key = Key(3)
    plain = Ambient(objective.precond, objective.weighting, objective.cap)(D, batch, sigma, key).each
    return (objective(D, batch, sigma, key).each - plain) / objective.precond.weight(sigma)


def test_two_paths_give_the_square_of_the_mean_without_bias():
    """T5, for a wrong denoiser and one step: the mean of D(x_s, s) over a Gaussian x_s is D at the mean, D affine."""
    objective = Consistent(steps=1, share=1.0, low=0.2)
    drawn = objective.draw(BATCH, Key(3))
    x, _ = objective.noised(BATCH, SIGMA, drawn)
    s = torch.exp(SIGMA.log() + drawn["depth"] * (torch.log(torch.tensor(0.2)) - SIGMA.log()))
    move = Ancestral(steps=2).step(wrong, x, SIGMA, s, None)
    exact = ((wrong(move.mean, s) - wrong(x, SIGMA)) ** 2).mean(1)
    gap = product(wrong, objective) - exact
    assert abs(gap.mean()) < 4 * gap.std() / N**0.5
    one = ((wrong(move.draw(drawn["path.0.0"]), s) - wrong(x, SIGMA)) ** 2).mean(1) - exact
    assert one.mean() > 20 * one.std() / N**0.5


@pytest.mark.parametrize("direction", [bump, LAW], ids=["bump", "D"])
def test_stationary_at_the_truth(direction):
    objective = Consistent(steps=8, share=1.0, low=0.05, weight=3.0)
    eps = 1e-3
    slopes = [
        objective(lambda x, s, c=None, a=a: LAW(x, s) + a * direction(x, s), BATCH, SIGMA, Key(3)).each / (2 * a)
        for a in (eps, -eps)
    ]
    each = slopes[0] + slopes[1]
    assert abs(each.mean()) < 4 * each.std() / N**0.5


def test_every_step_of_a_path_has_noise_of_its_own():
    """Of D = x/2, where D(x_s) is linear in the noise of each step: by hand, from the numbers that are drawn."""
    objective = Consistent(steps=2, share=1.0, low=0.2)
    rows, sigma = Batch(Y[:8], floor=FLOOR[:8]), SIGMA[:8]
    drawn = objective.draw(rows, Key(3))
    names = [f"path.{path}.{k}" for path in range(2) for k in range(2)]
    assert len({float(drawn[name][0, 0]) for name in names}) == 4

    def product(changed):
        return objective.loss(lambda x, s, c=None: x / 2, rows, sigma, drawn | changed).each

    for name in names:
        moved = product({name: drawn[name] + 1}) - product({})
        assert (moved.abs() > 1e-6).all(), f"{name} is heard"


def test_it_vanishes_at_the_truth_and_not_for_a_denoiser_that_is_wrong_below_the_noise_alone():
    objective = Consistent(steps=8, share=1.0, low=0.05)

    def below(x, sigma, cond=None):
        return torch.where((sigma < S)[:, None], 0.8, 1.0) * LAW(x, sigma)

    true, off = product(LAW, objective), product(below, objective)
    assert abs(true.mean()) < 4 * true.std() / N**0.5 + 1e-4
    assert off.mean() > 10 * off.std() / N**0.5


def test_only_a_share_of_the_rows_is_followed_and_the_mean_is_that_of_all():
    part, all_ = (product(wrong, Consistent(steps=1, share=share)) for share in (0.25, 1.0))
    assert (part.reshape(-1, 4)[:, 1:] == 0).all()
    assert part.mean() == pytest.approx(float(all_.mean()), rel=0.05)


def test_pieces_and_workers_follow_the_rows_that_one_would():
    objective, rows = Consistent(share=0.25), Batch(Y[:16].float(), floor=FLOOR[:16].float())
    whole = objective(LAW, rows, SIGMA[:16].float(), Key(3)).each
    for size in (1, 3, 8):
        parts = [objective(LAW, p, SIGMA[: len(p)].float(), Key(3)).each for p in rows.split(size)]
        torch.testing.assert_close(torch.cat(parts), whole)


def test_no_gradient_goes_through_the_paths():
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    calls = []

    def D(x, sigma, cond=None):
        calls.append(torch.is_grad_enabled())
        return scale * LAW(x, sigma)

    few = Batch(Y[:8], floor=FLOOR[:8])
    Consistent(steps=3, share=0.5)(D, few, SIGMA[:8], Key(3)).each.mean().backward()
    assert calls == [True] + [False] * 6 + [True] * 2
    assert scale.grad is not None


@pytest.mark.parametrize("bad", [{"weight": 0.0}, {"share": 0.0}, {"share": 1.5}, {"steps": 0}, {"low": 0.0}])
def test_what_makes_no_sense_is_refused(bad):
    with pytest.raises(ValueError, match="a step at least"):
        Consistent(**bad)
