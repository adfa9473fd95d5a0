"""Measurements that are no masks teach what each alone never shows; three Gaussian numbers are enough to prove it."""

from __future__ import annotations

import itertools

import pytest
import torch

from pipeline.backbones import unet
from pipeline.data.joint import check_joint
from pipeline.diffusion.precond import EDM
from pipeline.diffusion.sighted import Sighted, through
from pipeline.keys import Key
from pipeline.objectives.masking import Masking
from pipeline.objectives.measuring import Measuring, Taken
from pipeline.objectives.objective import Batch

N = 20_000
COV = torch.tensor([[1.0, 0.6, 0.2], [0.6, 0.8, -0.3], [0.2, -0.3, 0.7]], dtype=torch.float64)
MEAN = torch.tensor([0.2, -0.1, 0.4], dtype=torch.float64)
TURN, _ = torch.linalg.qr(torch.randn(3, 3, generator=Key(9).torch(), dtype=torch.float64))  # no axis is a pixel's
SKEW = torch.tensor([[1.0, 0.5, 0.0], [0.0, 0.7, 0.3], [0.4, 0.0, 0.6]], dtype=torch.float64)  # A Aᵀ is not I
OBJECTIVE = Measuring(EDM(0.9), share=0.3)
SIGMA = torch.linspace(-1.0, 1.0, N, dtype=torch.float64).exp()


def batch(rows: torch.Tensor, noise: float = 0.0, hidden: float = 0.4) -> Taken:
    """Of three rows of a matrix each example has some, the others are 0."""
    generator = Key(1).torch()
    x0 = MEAN + torch.randn(N, 3, generator=generator, dtype=torch.float64) @ torch.linalg.cholesky(COV).T
    A = (torch.rand(N, 3, 1, generator=generator) >= hidden) * rows
    y = (A @ x0[..., None])[..., 0] + noise * torch.randn(N, 3, generator=generator, dtype=torch.float64)
    y = torch.where(A.square().sum(2) > 0, y, 1e6)  # what was not measured is nothing at all
    return Taken(torch.zeros(N, 1, 1, 3).double(), floor=torch.full((N,), noise).double(), y=y, A=A)


def exact(rows: torch.Tensor, weight: float = 1.0):
    """E[x₀ | Ã(x₀ + σz), Ã] for three Gaussian numbers, from u = Ãᵀỹ and G = ÃᵀÃ; 0.9 is the same, a tenth short."""

    def D(u, sigma, cond=None, gram=None):
        flat, out = u.flatten(1).double(), MEAN.repeat(len(u), 1)
        for pattern in itertools.product([False, True], repeat=3):
            A = rows[list(pattern)]
            at = (gram - A.T @ A).abs().amax((1, 2)) < 1e-9
            if not len(A) or not at.any():
                continue
            y = flat[at] @ torch.linalg.pinv(A)
            C = A @ COV @ A.T + sigma[at].double()[:, None, None] ** 2 * (A @ A.T)
            off = (y - A @ MEAN)[..., None]
            out[at] = MEAN + (COV @ A.T @ torch.linalg.solve(C, off))[..., 0]
        return (weight * out).view_as(u)

    return D


def slope(D, direction, rows, eps=1e-4):
    each = [
        OBJECTIVE(lambda u, s, c, gram, a=a: D(u, s, c, gram) + a * direction(u, s, c, gram), rows, SIGMA, Key(3)).each
        for a in (eps, -eps)
    ]
    found = (each[0] - each[1]) / (2 * eps)
    return float(found.mean()), float(found.std() / N**0.5)


WORLDS = pytest.mark.parametrize(
    ("rows", "noise"), [(TURN, 0.0), (TURN, 0.3), (SKEW, 0.0)], ids=["turned", "noisy", "any"]
)


@WORLDS
def test_stationary_at_the_posterior_mean_and_not_ten_percent_away(rows, noise):
    D, data = exact(rows), batch(rows, noise)

    def bump(u, s, cond, gram):
        return torch.tanh(u.sum(-1, keepdim=True) + torch.linspace(-1, 1, 3).double() + gram[:, :1, :1, None])

    for direction in (D, bump):
        value, error = slope(D, direction, data)
        assert abs(value) < 4 * error
    for at in (0.9, 1.1):
        value, error = slope(exact(rows, at), D, data)
        assert value * (at - 1) > 0
        assert abs(value) > 8 * error


def test_of_masks_it_is_masking():
    g = Key(5).torch()
    y, mask = torch.randn(16, 1, 2, 2, generator=g), torch.rand(16, 1, 2, 2, generator=g) > 0.3
    sigma, floor = torch.linspace(0.5, 2.0, 16), torch.full((16,), 0.3)
    masked = Batch(y, floor=floor, mask=mask)
    A = torch.diag_embed(mask.flatten(1).float())
    rows = Taken(torch.zeros_like(y), floor=floor, y=y.flatten(1), A=A)
    kept = torch.rand(16, 1, 2, 2, generator=g) > 0.3
    drawn = {"noise": torch.randn(16, 1, 2, 2, generator=g)}
    want = Masking(EDM(0.9)).loss(
        lambda x, s, c, mask: 0.5 * x + 0.1,
        masked,
        sigma,
        drawn | {"kept": kept, "spared": torch.zeros(16, dtype=torch.bool)},
    )
    found = OBJECTIVE.loss(lambda u, s, c, gram: 0.5 * u + 0.1, rows, sigma, drawn | {"kept": kept.flatten(1)})
    torch.testing.assert_close(found.each, want.each)


def network(**more) -> Sighted:
    torch.manual_seed(0)
    model = Sighted.Config((2, 2, 2), unet.Config(width=8, dropout=0.0), **more).build().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.requires_grad_(False)


def test_what_was_not_measured_reaches_no_output_and_what_was_reaches_all():
    model, x, sigma = network(), torch.randn(3, 2, 2, 2), torch.tensor([0.1, 1.0, 5.0])
    A = torch.linalg.qr(torch.randn(8, 8, generator=Key(1).torch())).Q[:3]
    G = (A.T @ A).expand(3, 8, 8)
    unseen = x - through(G, x)
    found = model(through(G, x), sigma, gram=G)
    torch.testing.assert_close(model(through(G, x + unseen), sigma, gram=G), found, atol=1e-4, rtol=1e-4)
    model.gram.copy_(G[0])
    torch.testing.assert_close(model(x, sigma), found)
    far = (model(through(G, x + through(G, torch.ones_like(x))), sigma, gram=G) - found).flatten(1)
    assert float((far - far @ G[0]).norm()) > 1e-2, "what is not seen is told by what is"


def test_what_is_seen_is_next_to_what_was_measured_where_there_is_no_noise():
    """D = μ + v + c_out G F + s (1 − G) F with c_out next to 0: what the network says moves hidden directions alone."""
    model, x, sigma = network(), torch.randn(3, 2, 2, 2), torch.full((3,), 1e-4)
    A = torch.linalg.qr(torch.randn(8, 8, generator=Key(1).torch())).Q[:3]
    G = (A.T @ A).expand(3, 8, 8)
    found = model(through(G, x), sigma, gram=G)
    torch.testing.assert_close(through(G, found), through(G, x), atol=1e-3, rtol=1e-3)


def test_other_measurements_of_the_same_numbers_are_told_apart():
    model, u, sigma = network(), torch.zeros(1, 2, 2, 2), torch.ones(1)
    some = [torch.linalg.qr(torch.randn(8, 8, generator=Key(k).torch())).Q[:3] for k in range(2)]
    one, other = (model(u, sigma, gram=(A.T @ A)[None]) for A in some)
    assert (one - other).abs().max() > 1e-3


def test_directions_that_no_row_shows_or_none_with_another_are_refused():
    eye = torch.eye(4, dtype=torch.float64)
    every = eye[None].repeat(3, 1, 1)
    check_joint(every, (1, 2, 2))
    mean = torch.full((3, 1, 4), 0.5).double()
    with pytest.raises(ValueError, match=r"no row shows 3 of 4 directions .* at \(0, 0, 0\)"):
        check_joint(mean, (1, 2, 2))
    halves = torch.stack([torch.diag(torch.tensor(d)).double() for d in ([1.0, 1, 0, 0], [0.0, 0, 1, 1])])
    halves = halves.repeat(4, 1, 1)
    with pytest.raises(ValueError, match=r"together with .* no row shows 2 of 4"):
        check_joint(halves, (1, 2, 2))
    check_joint(halves, (1, 2, 2), apart=True)


def test_what_makes_no_sense_is_refused():
    for share in (0.0, 1.0, float("nan")):
        with pytest.raises(ValueError, match="give the part of the measurements"):
            Measuring(share=share)
    with pytest.raises(ValueError, match="give `Taken` ones"):
        Measuring()(network(), Batch(torch.zeros(1, 1, 2, 2)), torch.ones(1), Key(0))
