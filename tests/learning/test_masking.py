"""Masked rows teach what they never show, and what is hidden reaches nothing; two pixels are enough to prove it."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.backbones import unet
from pipeline.data.augment import Augment
from pipeline.data.coverage import apart, told_apart
from pipeline.data.hiding import Hidden, check_coverage, check_pairs, visible_moments
from pipeline.data.reader import InMemory
from pipeline.data.records import Examples
from pipeline.diffusion.denoiser import expand
from pipeline.diffusion.filling import Ask, Filling, Further
from pipeline.diffusion.precond import EDM
from pipeline.keys import Key
from pipeline.objectives.ambient import Ambient
from pipeline.objectives.denoising import Denoising
from pipeline.objectives.masking import Masking
from pipeline.objectives.objective import Batch
from pipeline.physics.corruption import Through
from pipeline.physics.masks import BoxMask, FixedMask, PixelMask
from pipeline.physics.views import Crop

COV = torch.tensor([[1.0, 0.6], [0.6, 0.8]], dtype=torch.float64)
MEAN = torch.tensor([0.2, -0.1], dtype=torch.float64)
N, P, S = 60_000, 0.4, 0.3
PAIR = (1, 1, 2)


def exact(x: Tensor, sigma: Tensor, cond=None, mask=None, weight: float = 1.0) -> Tensor:
    """E[x₀ | m ⊙ (x₀ + σz), m] of two Gaussian pixels; `weight` 0.9 is the same, a tenth short of its mean."""
    flat, seen = x.reshape(-1, 2).double(), mask.reshape(-1, 2)
    out = MEAN.expand(len(flat), 2).clone()
    for pattern in itertools.product([False, True], repeat=2):
        at = (seen == torch.tensor(pattern)).all(1)
        show = [i for i in range(2) if pattern[i]]
        if not show or not at.any():
            continue
        s = sigma[at].double()
        C = COV[show][:, show] + s[:, None, None] ** 2 * torch.eye(len(show), dtype=torch.float64)
        off = flat[at][:, show] - MEAN[show]
        out[at] = MEAN + (COV[:, show] @ torch.linalg.solve(C, off[..., None])).squeeze(-1)
    return (weight * out).reshape(x.shape)


def batch(noise: float = 0.0, hidden: float = P) -> Batch:
    generator = Key(1).torch()
    x0 = MEAN + torch.randn(N, 2, generator=generator, dtype=torch.float64) @ torch.linalg.cholesky(COV).T
    y = x0 + noise * torch.randn(N, 2, generator=generator, dtype=torch.float64)
    mask = torch.rand(N, 2, generator=generator) >= hidden
    y = torch.where(mask, y, torch.nan)  # what is hidden is nothing at all
    return Batch(y.reshape(N, *PAIR), floor=torch.full((N,), noise, dtype=torch.float64), mask=mask.reshape(N, *PAIR))


SIGMA = torch.linspace(-1.0, 1.0, N, dtype=torch.float64).exp()
OBJECTIVE = Masking(EDM(0.9), further=Further(0.3))


def slope(direction, at=1.0, noise=0.0, eps=1e-4):
    rows = batch(noise)
    each = [
        OBJECTIVE(
            lambda x, s, c, mask, a=a: exact(x, s, mask=mask, weight=at) + a * direction(x, s, mask),
            rows,
            SIGMA,
            Key(3),
        ).each
        for a in (eps, -eps)
    ]
    found = (each[0] - each[1]) / (2 * eps)
    return float(found.mean()), float(found.std() / N**0.5)


def hidden_only(x, s, mask):
    """A direction at pixels that the network does not see."""
    return torch.where(mask, 0, x.sum(-1, keepdim=True) + 0.3)


DIRECTIONS = [hidden_only, lambda x, s, m: exact(x, s, mask=m), lambda x, s, m: expand(s, x) * (x + 0.1).sin() * m]


@pytest.mark.parametrize("noise", [0.0, S])
@pytest.mark.parametrize("direction", DIRECTIONS, ids=["hidden", "D", "seen"])
def test_stationary_at_the_posterior_mean_of_every_pixel(noise, direction):
    """T7 and T7b: also at pixels that are hidden from the network, though most of those are known in no row."""
    value, error = slope(direction, noise=noise)
    assert abs(value) < 4 * error


@pytest.mark.parametrize("noise", [0.0, S])
@pytest.mark.parametrize("at", [0.9, 1.1])
def test_not_stationary_ten_percent_away(noise, at):
    value, error = slope(DIRECTIONS[1], at, noise)
    assert value * (at - 1) > 0
    assert abs(value) > 8 * error


def test_noise_that_is_not_declared_moves_the_minimum():
    rows = batch(S)
    rows = Batch(rows.x, mask=rows.mask)
    each = [
        OBJECTIVE(lambda x, s, c, mask, a=a: exact(x, s, mask=mask) * (1 + a), rows, SIGMA, Key(3)).each / (2 * a)
        for a in (1e-4, -1e-4)
    ]
    found = each[0] + each[1]
    assert abs(found.mean()) > 4 * found.std() / N**0.5


def test_with_nothing_hidden_it_is_ambient_and_of_clean_rows_denoising(monkeypatch):
    monkeypatch.setattr(Further, "keeps", lambda self, u: torch.ones_like(u, dtype=torch.bool))
    x = torch.randn(16, *PAIR, generator=Key(5).torch())
    sigma = torch.linspace(0.5, 2.0, 16)

    def D(x, sigma, cond=None, mask=None):
        return 0.5 * x

    for floor, plain in ((None, Denoising(EDM(0.9))), (torch.full((16,), 0.3), Ambient(EDM(0.9)))):
        rows = Batch(x, floor=floor, mask=torch.ones_like(x, dtype=torch.bool))
        torch.testing.assert_close(OBJECTIVE(D, rows, sigma, Key(3)).each, plain(D, rows, sigma, Key(3)).each)


def test_what_each_pixel_costs_is_the_formula_by_hand():
    """One that is seen, one that is hidden besides, one that no row shows; no row with such a one is left whole."""
    y = torch.tensor([0.2, -0.6, torch.nan]).reshape(1, 1, 1, 3)
    known, kept = (torch.tensor(seen).reshape(1, 1, 1, 3) for seen in ([True, True, False], [True, False, True]))
    rows = Batch(y, floor=torch.tensor([1.0]), mask=known)
    drawn = {"noise": torch.full_like(y, 0.5), "kept": kept, "spared": torch.tensor([True])}
    found = Masking(EDM(0.5), cap=9.0).loss(lambda x, s, c, mask: 0.1 + 0 * x, rows, torch.tensor([2.0]), drawn)
    k, x = 1 / 4, 0.2 + 3**0.5 * 0.5
    weight = (4 + 0.25) / (2 * 0.5) ** 2 / (1 - k) ** 2
    want = (weight * ((1 - k) * 0.1 + k * x - 0.2) ** 2 + 1 / 0.5**2 * (0.1 + 0.6) ** 2) / 2
    assert float(found.each) == pytest.approx(want, rel=1e-5)
    assert float(found.scalars["filled"]) == pytest.approx(0.49)


def test_what_is_hidden_besides_is_drawn_anew_in_every_step_and_the_same_for_any_pieces():
    rows = Batch(torch.zeros(64, 1, 8, 8))
    first, again, next_step = (OBJECTIVE.draw(rows, Key(0).fold("step", k))["kept"] for k in (0, 0, 1))
    assert torch.equal(first, again)
    assert float((first != next_step).float().mean()) == pytest.approx(2 * 0.3 * 0.7, abs=0.05)
    pieces = [OBJECTIVE.draw(piece, Key(0).fold("step", 0))["kept"] for piece in rows.split(24)]
    assert torch.equal(torch.cat(pieces), first)


def network(**more) -> Filling:
    torch.manual_seed(0)
    config = Filling.Config((2, 4, 4), **{"seen": PixelMask(0.4), "backbone": unet.Config(width=8, dropout=0.0)} | more)
    model = config.build().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.centre.copy_(torch.randn(2, 4, 4))
    return model.requires_grad_(False)


def test_what_is_hidden_reaches_no_output_and_what_is_seen_reaches_hidden_pixels():
    model, x, sigma = network(), torch.randn(3, 2, 4, 4), torch.tensor([0.1, 1.0, 5.0])
    mask = torch.rand(3, 1, 4, 4) > 0.5
    whole = model(x, sigma, mask=mask)
    assert torch.equal(model(torch.where(mask, x, torch.nan), sigma, mask=mask), whole)
    moved = model(torch.where(mask, x + 1, x), sigma, mask=mask)
    assert ((moved - whole).abs().amax(1, keepdim=True) > 1e-6)[~mask].all()


def test_hidden_pixels_keep_their_say_as_the_noise_goes():
    """Times c_out they would end at the mean image, whatever the network knows."""
    model, x = network(), torch.randn(3, 2, 4, 4)
    mask = torch.rand(3, 1, 4, 4) > 0.5
    found = (model(x, torch.full((3,), 1e-3), mask=mask) - model.centre).abs()
    assert found[~mask.expand_as(found)].mean() > 0.05


def test_as_a_denoiser_it_looks_through_its_own_masks():
    x, sigma = torch.randn(3, 2, 4, 4), torch.full((3,), 0.5)
    one = network(ask=Ask(seed=4))
    assert torch.equal(one(x, sigma), one(x, sigma, mask=one.masks.expand(3, -1, -1, -1)))
    assert 0 < int(one.masks.sum()) < one.masks.numel()
    whole = network(ask=Ask(whole=True))
    assert bool(whole.masks.all())
    besides = network(seen=FixedMask(("1111",) * 4), further=Further(0.5))
    assert 0 < int(besides.masks.sum()) < besides.masks.numel(), "trained with further pixels hidden, asked without"


def test_guidance_goes_down_the_distance_between_what_masks_say():
    """D − D₁ = −λ σ² ∇ₓ ½ Σ |D₁ − D_k|², by finite differences."""
    model, sigma = network(ask=Ask(masks=3, guidance=0.5)).double(), torch.full((1,), 0.5, dtype=torch.float64)
    model.float()
    x = torch.randn(1, 2, 4, 4)

    def apart(x):
        each = [model(x, sigma, mask=m[None]) for m in model.masks]
        return float(sum(((each[0] - other) ** 2).sum() for other in each[1:]) / 2)

    first = model(x, sigma, mask=model.masks[:1])
    found = (model(x, sigma) - first) / (-0.5 * 0.25)
    for place in [(0, 0, 1, 1), (0, 1, 3, 2)]:
        step = torch.zeros_like(x)
        step[place] = 1e-2
        assert float(found[place]) == pytest.approx((apart(x + step) - apart(x - step)) / 2e-2, rel=0.05, abs=2e-3)


@pytest.mark.parametrize("further", [Further(0.25), Further(0.25, box=True)])
def test_about_a_share_of_the_image_is_hidden_besides(further):
    kept = further.keeps(torch.rand(4000, 1, 8, 8, generator=Key(2).torch()))
    assert float((~kept).float().mean()) == pytest.approx(0.25, abs=0.01)
    each = (~kept).flatten(1).float().mean(0)
    assert (each > 0).all()
    if further.box:
        assert (~kept[:50]).any(3).sum(2).unique().tolist() == [4]


def rows(corruption, count=40) -> InMemory:
    drawn = [corruption.draw((1, 4, 4), Key(0).fold(i)) for i in range(count)]
    operator = {name: np.stack([row[name] for row in drawn]) for name in drawn[0]} if drawn[0] else {}
    images = np.arange(count * 16).reshape(count, 1, 4, 4).astype(np.float16)
    ids = tuple(map(str, range(count)))
    return InMemory(Examples(ids, images, operator=operator), tuple(f"operator.{name}" for name in operator))


@pytest.mark.parametrize("corruption", [PixelMask(0.5), BoxMask(0.3, 0.6), FixedMask(("1011", "1111", "1111", "1110"))])
def test_masks_are_rebuilt_and_moments_are_of_what_is_seen(corruption):
    hidden = Hidden(rows(corruption), corruption)
    part = next(hidden.spans(0, [(0, 40)]))
    mask, x = part.columns["mask"], part.x().numpy()
    total, square, number = visible_moments([hidden])
    assert np.array_equal(number, mask.sum(0))
    np.testing.assert_allclose(total, (x * mask).sum(0))
    np.testing.assert_allclose(square, (x**2 * mask).sum(0))


def test_pixels_that_no_row_shows_are_named():
    """The rank of E[AᵀA] is that of the pixels which are seen at all."""
    fixed = FixedMask(("1011", "1111", "1111", "1110"))
    with pytest.raises(ValueError, match=r"no row shows 2 of the 16 pixels, at \(0, 1\), \(3, 3\): "):
        check_coverage(visible_moments([Hidden(rows(fixed), fixed)])[2])
    check_coverage(visible_moments([Hidden(rows(fixed), fixed), Hidden(rows(PixelMask(0.1)), None)])[2])


def test_pixels_that_are_never_shown_together_are_refused_and_named(caplog):
    """Halves that each row shows one of cover all pixels, and no row says how the halves go together."""
    left, right = FixedMask(("1100",) * 4), FixedMask(("0011",) * 4)
    halves = [Hidden(rows(half), half) for half in (left, right)]
    check_coverage(visible_moments(halves)[2])
    told = "64 of 136 pairs of pixels are shown together by no row, such as (0, 0) and (0, 2); it concerns (0, 0), (0"
    with pytest.raises(ValueError, match=re.escape(told)):
        check_pairs(halves)
    assert not caplog.text
    check_pairs(halves, apart_too=True)
    assert told in caplog.text
    caplog.clear()
    check_pairs([*halves, Hidden(rows(PixelMask(0.1)), PixelMask(0.1))])
    assert not caplog.text


def test_only_the_pixels_that_are_apart_are_named():
    """Of a mask that never shows the last pixel with the first: those two, found however late the others meet."""
    seen = np.ones((600, 16), bool)
    seen[:, 15] = False
    seen[-1] = True
    seen[-1, 0] = False
    alone = apart((seen[i : i + 64] for i in range(0, 600, 64)), 16)
    assert np.argwhere(np.triu(alone)).tolist() == [[0, 15]]
    places = np.stack(np.unravel_index(np.arange(16), (4, 4)), 1)
    assert "such as (0, 0) and (3, 3); it concerns (0, 0), (3, 3): how" in told_apart(alone, places, "pixels")
    assert told_apart(alone & False, places, "pixels") == ""


def test_what_cuts_is_no_mask():
    with pytest.raises(ValueError, match="does not mask but cuts"):
        Hidden(rows(PixelMask(0.5)), Through(Crop((1, 4, 4), 0, 0, 2, 4)))


def test_turned_images_never_show_what_was_hidden():
    """T9: over many epochs, the pixels that were exposed of an image are those that its mask shows."""
    mask = torch.rand(1, 1, 4, 4, generator=Key(7).torch()) > 0.5
    x = torch.where(mask, torch.arange(1.0, 17.0).reshape(1, 1, 4, 4), 0)
    exposed = set()
    for at in range(64):
        moved = Augment()({"x": x, "mask": mask}, 0, at)
        exposed |= set(moved["x"][moved["mask"]].tolist())
        assert (moved["x"][~moved["mask"]] == 0).all()
    assert exposed == set(x[mask].tolist())


@pytest.mark.parametrize(
    "build",
    [
        lambda: Further(0.0),
        lambda: Further(1.0),
        lambda: Ask(masks=0),
        lambda: Ask(masks=3),
        lambda: Ask(guidance=1.0),
        lambda: Ask(whole=True, masks=2, guidance=1.0),
    ],
)
def test_what_makes_no_sense_is_refused(build):
    with pytest.raises(ValueError, match="give"):
        build()
