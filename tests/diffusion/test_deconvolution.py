"""The rate at which rounds of restoring come near the truth, on Gaussian data (T3), with the samplers that restore.

In a direction of variance S, seen with noise s, let the model believe r and a = S/(S + s²). The probability flow takes
its error down by 1 − a a round, a draw from the posterior by 1 − a²; with a share c of clean images, which are there
and read as training reads them, by (1 − c) times that. Where only the oldest of P parts is restored anew, a step of
that takes the error down by λ, of which 1 = (1 − c)(1 − a) (λ⁻¹ + λ⁻² + ... + λ⁻ᴾ)/P.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.data.bands import banded
from pipeline.data.reader import InMemory
from pipeline.data.records import Examples
from pipeline.diffusion.exact import Gaussian
from pipeline.diffusion.levels import LogNormal
from pipeline.diffusion.sample import Ancestral, Heun
from pipeline.graph import Given
from pipeline.keys import Key
from stages.ambient import whole
from stages.refresh import turn
from stages.rounds import Rounds, lessons

ROWS = 500
CASES = [(0.25, 0.5), (0.25, 0.2), (0.01, 0.59), (1.0, 1.38)]
GRID = Rounds().sampler
PARTS = 10


def belief(r: float) -> Gaussian:
    return Gaussian(torch.zeros(1), torch.full((1, 1), r))


def exactly(variance: float, seed: int, rows: int = ROWS) -> Tensor:
    """Rows of exactly this mean square."""
    y = torch.randn(rows, 1, generator=Key(seed).torch(), dtype=torch.float64)
    return y * variance**0.5 / y.square().mean().sqrt()


def ends(sampler, r: float, y: Tensor, noise: float) -> Tensor:
    """What a model that believes r makes of rows."""
    return sampler(belief(r), y, start=noise, keys=[Key(0).fold(i) for i in range(len(y))])


def restored(sampler, r: float, S: float, noise: float, rows: int = ROWS) -> float:
    """The variance of what a model that believes r makes of rows of exactly the variance S + s²."""
    return float(ends(sampler, r, exactly(S + noise**2, 1, rows), noise).square().mean())


def learned(found: Tensor, S: float, share: float) -> float:
    """The variance of the rows in the order in which a round learns from them, clean ones having their share."""

    clean, made = (Given(label=label, known=f"rows/{label}") for label in ("clean", "restored"))
    held = {"clean": exactly(S, 2), "restored": found}
    sets = SimpleNamespace(clean=clean if share else None, noisy=None, level=None)
    how = Rounds(share=share or None)
    asked = lessons(sets, made, how)  # pyright: ignore[reportArgumentType]
    parts = [whole(stood_for(len(held[one.data.label])), one, how.objective) for one in asked]
    read = next(banded(parts, LogNormal()).spans(0, [(0, 10_000)]))  # whole epochs of every set
    return float(torch.cat([held[one.data.label] for one in asked])[read.index].square().mean())


def stood_for(count: int) -> InMemory:
    """As many rows, to be read in their order; what they hold would be rounded."""
    return InMemory(Examples(tuple(map(str, range(count))), np.zeros((count, 1, 1), np.uint8)))


def rate(sampler, S: float, noise: float, share: float = 0.0, rows: int = ROWS) -> float:
    """By how much an error at the truth is multiplied in a round: the slope, with the same noise on both sides."""
    eps, y = 0.01 * S, exactly(S + noise**2, 1, rows)
    above, below = (learned(ends(sampler, S + sign * eps, y, noise), S, share) for sign in (1, -1))
    return (above - below) / (2 * eps)


@pytest.mark.parametrize(("S", "noise"), CASES)
@pytest.mark.parametrize("factor", [0.1, 0.8, 1.2, 5.0])
def test_the_flow_maps_a_belief_to_the_one_that_is_derived(S, noise, factor):
    r = factor * S
    want = r * (S + noise**2) / (r + noise**2)
    assert restored(Heun(steps=300, sigma_min=1e-4, sigma_max=noise), r, S, noise) == pytest.approx(want, rel=2e-3)


@pytest.mark.parametrize(("S", "noise"), CASES)
@pytest.mark.parametrize("share", [0.0, 0.1, 0.4])
def test_rounds_come_near_the_truth_at_the_rate_that_is_derived(S, noise, share):
    a = S / (S + noise**2)
    assert rate(GRID, S, noise, share) == pytest.approx((1 - share) * (1 - a), rel=0.02)


@pytest.mark.parametrize(("S", "noise"), CASES)
def test_on_the_grid_of_the_recipe_rounds_leave_the_truth_nearly_where_it_is(S, noise):
    assert restored(GRID, S, S, noise) == pytest.approx(S, rel=0.02)


def test_draws_from_the_posterior_are_slower():
    """Factor 1 − a² instead of 1 − a."""
    found = rate(Ancestral(steps=100, sigma_max=0.5), 0.25, 0.5, rows=4000)
    assert found == pytest.approx(0.75, rel=0.04)


def believed(start: float, S: float, noise: float, share: float, steps: int) -> list[float]:
    """What a model believes after every part that was restored anew, the oldest first, learning it at once."""
    y = torch.cat([exactly(S + noise**2, part, ROWS // PARTS) for part in range(PARTS)])
    fine = Heun(steps=60, sigma_min=1e-3, sigma_max=noise)
    buffer, first = ends(fine, start, y, noise), 0
    found = [learned(buffer, S, share)]
    for _ in range(steps):
        first, count = turn(first, ROWS, 1 / PARTS)
        buffer[first : first + count] = ends(fine, found[-1], y[first : first + count], noise)
        found.append(learned(buffer, S, share))
        first = (first + count) % ROWS
    return found


def errors(law: float, steps: int, parts: int = PARTS) -> np.ndarray:
    """What is left of an error 1 after each step, by the law of a whole round and the parts' recursion."""
    mean, buffer = [law], [1.0] * parts
    for k in range(steps):
        buffer[k % parts] = mean[-1]
        mean.append(law * sum(buffer) / parts)
    return np.array(mean)


def root(law: float, parts: int = PARTS) -> float:
    """λ."""
    return max(z.real for z in np.roots([1.0, *[-law / parts] * parts]) if abs(z.imag) < 1e-9)


@pytest.mark.parametrize(("S", "noise"), CASES)
@pytest.mark.parametrize("share", [0.0, 0.1])
def test_restoring_the_oldest_part_comes_near_the_truth_at_its_rate(S, noise, share):
    eps, law = 0.01 * S, (1 - share) * (1 - S / (S + noise**2))
    above, below = (np.array(believed(S + sign * eps, S, noise, share, 2 * PARTS)) for sign in (1, -1))
    assert (above - below) / (2 * eps) == pytest.approx(errors(law, 2 * PARTS), rel=0.02)
    late = errors(law, 40 * PARTS)
    assert late[-1] / late[-2] == pytest.approx(root(law), rel=1e-3)
    assert root(law) < 1 - (1 - law) / PARTS, "as fast as parts at random would be: 1 − (1 − ρ)/P"


def test_the_oldest_first_is_twice_as_fast_as_rounds_of_as_many_rows_where_both_are_slow():
    """P parts are as many rows as a round, whose error falls by 1 − ρ; λᴾ comes near 1 − 2 (1 − ρ)."""
    assert 1 - root(0.999, 200) ** 200 == pytest.approx(2 * (1 - 0.999), rel=0.01)
