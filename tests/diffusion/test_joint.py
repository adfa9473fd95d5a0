"""One network for all views: each kind is the denoiser of its own view, and no row's hidden part leaks in or counts."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pipeline.backbones import mlp, unet
from pipeline.diffusion.compose import Base, View
from pipeline.diffusion.denoiser import expand
from pipeline.diffusion.exact import Gaussian
from pipeline.diffusion.joint import Joint
from pipeline.diffusion.precond import EDM
from pipeline.keys import Key
from pipeline.objectives.denoising import Denoising
from pipeline.objectives.joint import JointDenoising
from pipeline.objectives.objective import Batch
from pipeline.physics.linear import Identity
from pipeline.physics.views import Crop, Pool

SHAPE = (1, 4, 4)
VIEWS = (Crop(SHAPE, 0, 0, 4, 3), Pool(SHAPE, 2))


def joint(seed: int = 0) -> Joint:
    """A network whose every weight matters, in double precision where it counts."""
    torch.manual_seed(seed)
    model = Joint.Config(SHAPE, VIEWS, (0.5, 0.8, 0.6), unet.Config(width=8, dropout=0.0)).build().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    model.centre.copy_(torch.randn(3, *SHAPE) * 0.1)
    for k, A in enumerate(VIEWS):
        model.centre[k] = A.adjoint(A(model.centre[k][None]))[0]
    return model.requires_grad_(False)


def rows(count: int = 12):
    generator = Key(1).fold("rows").torch()
    x0 = torch.randn(count, *SHAPE, generator=generator)
    kind = torch.arange(count) % 3
    return x0, kind, torch.linspace(0.1, 3.0, count)


def test_a_row_of_a_view_gives_what_the_view_alone_can_say():
    """D = P D, and what P does not see of the input changes nothing once the input is P x, as it is in training."""
    model, (x0, kind, sigma) = joint(), rows()
    u = model.seen(x0, kind)
    D = model(u, sigma, kind=kind)
    torch.testing.assert_close(model.seen(D, kind), D, rtol=0, atol=1e-6)
    assert torch.equal(model.seen(x0, torch.full((12,), 2)), x0)
    assert (u[kind == 0][..., 3] == 0).all()


def test_rows_of_all_kinds_in_one_batch_are_as_each_alone():
    model, (x0, kind, sigma) = joint(), rows()
    u = model.seen(x0, kind)
    together = model(u, sigma, kind=kind)
    for i in range(len(x0)):
        alone = model(u[i : i + 1], sigma[i : i + 1], kind=kind[i : i + 1])
        torch.testing.assert_close(alone, together[i : i + 1], rtol=1e-4, atol=1e-5)


def test_without_kinds_a_row_is_a_whole_image():
    model, (x0, _, sigma) = joint(), rows()
    whole = torch.full((12,), 2)
    torch.testing.assert_close(model(x0, sigma), model(x0, sigma, kind=whole))
    assert not torch.allclose(model(x0, sigma), model(x0, sigma, kind=torch.zeros(12, dtype=torch.long)), atol=1e-2)


def test_an_untrained_network_is_the_best_linear_isotropic_denoiser_of_each_kind():
    """F = 0: D = μ + s²/(σ² + s²)(u − μ), with the s and μ of the row's own kind."""
    model = Joint.Config(SHAPE, VIEWS, (0.5, 0.8, 0.6), unet.Config(width=8)).build().eval()
    x0, kind, sigma = rows()
    u = model.seen(x0, kind)
    s = torch.tensor([0.5, 0.8, 0.6])[kind]
    torch.testing.assert_close(model(u, sigma, kind=kind), expand(s**2 / (sigma**2 + s**2), u) * u)


@pytest.mark.parametrize("k", [0, 1, 2])
def test_the_loss_of_a_kind_is_the_denoising_loss_of_its_view(k):
    """|P e|²/m = |A e|²/m with the EDM weight for the view's own s: as if its model were trained alone."""
    model, (x0, _, sigma) = joint(), rows()
    A, s = (*VIEWS, Identity(SHAPE))[k], (0.5, 0.8, 0.6)[k]
    kind = torch.full((12,), k)
    canvas = model.seen(x0, kind)
    objective = JointDenoising(model, kind)
    found = objective(model, Batch(canvas, index=torch.arange(12)), sigma, Key(7)).each

    z = Batch(canvas).normal(Key(7).fold("noise"))
    v0, v = A(x0), A(x0 + expand(sigma, x0) * z)
    D = A(model(A.adjoint(v), sigma, kind=kind))
    want = EDM(s).weight(sigma) * ((D - v0) ** 2).flatten(1).mean(1)
    torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-5)
    if k == 2:
        plain = Denoising(EDM(s))(model, Batch(x0), sigma, Key(7)).each
        torch.testing.assert_close(found, plain, rtol=1e-4, atol=1e-5)


def test_every_kind_is_stationary_at_its_views_posterior_mean():
    """The gradient along D itself vanishes at E[u₀ | u] of each kind, and not 10% away."""
    cov = 0.3 * torch.eye(16).double() + 0.2
    law = Gaussian(torch.linspace(-0.3, 0.3, 16).double(), cov)
    x0 = law.sample(60_000, Key(1)).reshape(-1, *SHAPE)
    kind = torch.arange(len(x0)) % 3
    model = joint()
    parts = [law.through(A.dense()) for A in VIEWS] + [law]

    def exact(u, sigma, cond=None, kind=None):
        out = torch.zeros_like(u)
        for k, (A, part) in enumerate(zip((*VIEWS, Identity(SHAPE)), parts, strict=True)):
            mine = kind == k
            v = A(u[mine])
            out[mine] = A.adjoint(part(v, sigma[mine]).reshape(v.shape))
        return out

    sigma = torch.full((len(x0),), 0.7, dtype=torch.float64)
    objective = JointDenoising(model, kind)
    batch = Batch(model.seen(x0, kind), index=torch.arange(len(x0)))

    def loss(a):
        return objective(lambda *given, **more: a * exact(*given, **more), batch, sigma, Key(3)).each

    for at, still in ((1.0, True), (0.9, False), (1.1, False)):
        each = (loss(at + 1e-3) - loss(at - 1e-3)) / 2e-3
        for k in range(3):
            value, error = each[kind == k].mean(), each[kind == k].std() / (kind == k).sum() ** 0.5
            assert (abs(value) < 4 * error) == still, (at, k)


def test_the_joint_model_is_a_view_of_everything():
    model = joint()
    base = Base.Config(SHAPE, (View(Identity(SHAPE), model.config),)).build().eval().requires_grad_(False)
    base.models[0].load_state_dict(model.state_dict())
    x, _, sigma = rows()
    torch.testing.assert_close(base(x, sigma), model(x, sigma), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Joint.Config(SHAPE, VIEWS, (0.5, 0.5), mlp.Config()),
        lambda: Joint.Config(SHAPE, VIEWS, (0.5, 0.0, 0.5), mlp.Config()),
        lambda: Joint.Config(SHAPE, (2.0 * VIEWS[0],), (0.5, 0.5), mlp.Config()),
        lambda: Joint.Config((1, 8, 8), VIEWS, (0.5, 0.5, 0.5), mlp.Config()),
        lambda: JointDenoising(joint(), torch.zeros(4))(
            nn.Identity(), Batch(torch.zeros(4, *SHAPE)), torch.ones(4), Key(0)
        ),
    ],
)
def test_what_does_not_fit_is_refused(wrong):
    with pytest.raises(ValueError, match=r"\w"):
        wrong()
