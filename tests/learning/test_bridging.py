"""A picture beside the image: what is learned is the posterior given it, and rounds of it go where theory says."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pipeline.backbones import unet
from pipeline.data.beside import BESIDE
from pipeline.data.beside import Beside as Pairs
from pipeline.data.mix import Mixed
from pipeline.data.reader import InMemory
from pipeline.data.records import Examples
from pipeline.diffusion.beside import Beside
from pipeline.diffusion.denoiser import Network
from pipeline.diffusion.precond import EDM
from pipeline.diffusion.sample import Heun
from pipeline.keys import Key
from pipeline.objectives.bridging import Bridging
from pipeline.objectives.objective import Batch
from pipeline.physics.blackbox import BlackBox, Gamma, Jpeg
from pipeline.physics.corruption import Noisy, corrupt
from stages.train import Fit, reader
from stages.undo import Undo, _undo

N, SIGNAL, NOISE = 60_000, 0.09, 0.4


def exact(x, sigma, cond=None, beside=None, prior=SIGNAL, scale=1.0):
    """E[x₀ | x₀ + σz = x, x₀ + NOISE z' = y] for x₀ ~ N(0, prior): precisions add."""
    level = sigma.reshape(-1, *(1,) * (x.ndim - 1)).double()
    top = x / level**2 + beside / NOISE**2
    return (scale * top / (1 / level**2 + 1 / NOISE**2 + 1 / prior)).to(x.dtype)


@pytest.mark.parametrize(("at", "sign"), [(1.0, 0), (0.9, -1), (1.1, 1)])
def test_stationary_at_the_posterior_mean_given_both_and_nowhere_near(at, sign):
    x0, n = (torch.randn(N, 1, 1, 1, generator=Key(k).torch(), dtype=torch.float64) for k in (1, 2))
    rows = Batch(SIGNAL**0.5 * x0, beside=SIGNAL**0.5 * x0 + NOISE * n)
    sigma = torch.linspace(-2.0, 1.0, N, dtype=torch.float64).exp()

    def loss(scale):
        return Bridging(EDM(SIGNAL**0.5))(lambda *a, **b: exact(*a, **b, scale=scale), rows, sigma, Key(3)).each

    slope = (loss(at + 1e-4) - loss(at - 1e-4)) / 2e-4
    value, error = float(slope.mean()), float(slope.std() / N**0.5)
    assert abs(value) < 4 * error if not sign else value * sign > 8 * error


class Law(Network):
    """The posterior's denoiser under a prior of variance `prior`, as a network."""

    def __init__(self, prior: float, shape: tuple[int, ...]):
        super().__init__()
        self.config, self.prior = SimpleNamespace(shape=shape, out=shape), prior
        self.here = torch.nn.Parameter(torch.zeros(()))

    def forward(self, x, sigma, cond=None, beside=None):
        return exact(x, sigma, beside=beside, prior=self.prior)


def undone(rows: Examples, prior: float, **more) -> torch.Tensor:
    asked = Undo(None, None, Heun(steps=96), **more)  # pyright: ignore[reportArgumentType]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stages.undo.read_shard", lambda *_: rows)
        data = SimpleNamespace(file=lambda _: None)
        return _undo(asked, data, 0, lambda: Law(prior, rows.shape))[0]  # pyright: ignore[reportArgumentType]


def test_rounds_of_draws_have_the_rate_of_em():
    """r' = r² (S + s²)/(r + s²)² + r s²/(r + s²): the error falls by 1 − a², a = S/(S + s²), near the truth."""
    S, s2, shape = SIGNAL, NOISE**2, (1, 8, 8)
    generator = Key(5).torch()
    x = S**0.5 * torch.randn(600, *shape, generator=generator) + NOISE * torch.randn(600, *shape, generator=generator)
    x *= ((S + s2) / x.square().mean()).sqrt()  # the variance that was asked for, whatever was drawn
    rows = Examples.from_x([f"row-{i}" for i in range(600)], x)
    r, found = 0.5 * S, []
    for k in range(3):
        want = r**2 * (S + s2) / (r + s2) ** 2 + r * s2 / (r + s2)
        got = float(undone(rows, r, seed=k).x().square().mean())
        assert got == pytest.approx(want, rel=0.02)
        found.append((S - want) / (S - r))
        r = want
    rate = 1 - (S / (S + s2)) ** 2
    near = 0.99 * S
    last = (S - (near**2 * (S + s2) / (near + s2) ** 2 + near * s2 / (near + s2))) / (S - near)
    assert last == pytest.approx(rate, rel=0.02)


def test_what_is_drawn_depends_on_the_row_and_its_id_alone():
    rows = Examples.from_x([f"row-{i}" for i in range(7)], torch.randn(7, 1, 4, 4, generator=Key(6).torch()))
    whole = undone(rows, SIGNAL)
    turned = undone(rows.take(range(7)[::-1]), SIGNAL, batch=3)
    assert turned.ids == whole.ids[::-1]
    np.testing.assert_allclose(turned.images[::-1], whole.images, atol=1e-3)


def source(count: int = 23) -> InMemory:
    x = torch.rand(count, 1, 8, 8, generator=Key(7).torch()) * 2 - 1
    return InMemory(Examples.from_x([f"id-{i}" for i in range(count)], x, uint8=True))


def test_what_lies_beside_is_the_row_itself_damaged_and_anew_whenever_it_is_read():
    box = BlackBox(Jpeg(20))
    part = next(Pairs(source(), box).spans(3, [(5, 12)]))
    want, _ = corrupt(box, part.x(), [str(i) for i in part.index], 0)
    np.testing.assert_allclose(part.columns[BESIDE], want.numpy())
    noisy = list(itertools.islice(Pairs(source(), Noisy(noise=0.3)).batches(23, 3), 2))  # two epochs
    first, again = ({i: y - x for i, y, x in zip(rows.index, rows.columns[BESIDE], rows.x().numpy())} for rows in noisy)
    assert all(abs(first[i] - again[i]).max() > 0.1 for i in range(23))
    assert np.concatenate([*first.values(), *again.values()]).std() == pytest.approx(0.3, rel=0.05)


def test_pairs_are_the_same_for_any_number_of_workers_and_after_a_restart():
    fit = Fit(images=64, batch=8)
    rows = Pairs(Mixed((source(), source(11)), (2, 1)), Noisy(noise=0.3))

    def stream(start, rank, world, count):
        return list(itertools.islice(reader(rows, fit, 9)(start, rank, world), count))

    whole = torch.cat([batch.beside for batch in stream(0, 0, 1, 4)])
    halves = [stream(0, rank, 2, 4) for rank in range(2)]
    both = torch.cat([part.beside for pair in zip(*halves) for part in pair])
    assert torch.equal(both, whole)
    assert torch.equal(torch.cat([batch.beside for batch in stream(16, 0, 1, 2)]), whole[16:])


def test_the_network_hears_what_is_beside_whatever_its_size_and_refuses_what_is_not():
    torch.manual_seed(0)
    model = Beside.Config((1, 8, 8), (3, 4, 4), unet.Config(width=8)).build().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    x, y, sigma = torch.randn(2, 1, 8, 8), torch.randn(2, 3, 4, 4), torch.tensor([0.3, 2.0])
    one = model(x, sigma, beside=y)
    assert one.shape == x.shape
    assert (model(x, sigma, beside=y + 1) - one).abs().max() > 1e-3
    for wrong in (None, y[:1], torch.randn(2, 3, 8, 8)):
        with pytest.raises(ValueError, match=r"shown a picture \(3, 4, 4\) beside"):
            model(x, sigma, beside=wrong)
    with pytest.raises(ValueError, match="as many axes"):
        Beside.Config((1, 8, 8), (5,), unet.Config())


def test_a_gamma_that_cannot_be_inverted_is_still_learned_from():
    """A black box has no adjoint; pairs need none."""
    part = next(Pairs(source(), BlackBox(Gamma(2.2))).spans(0, [(0, 4)]))
    np.testing.assert_allclose((part.columns[BESIDE] + 1) / 2, ((part.x().numpy() + 1) / 2) ** 2.2, atol=1e-5)
