"""One network told a row's mask or place: its lifts are the views' scores, nothing hidden leaks, its loss has them."""

from __future__ import annotations

import copy

import pytest
import torch
from known import KnownTold, exact_views
from torch import nn

from pipeline.backbones import mlp, unet
from pipeline.diffusion import unseen
from pipeline.diffusion.bins import Bins
from pipeline.diffusion.combine import Mode
from pipeline.diffusion.compose import Base, View
from pipeline.diffusion.denoiser import expand
from pipeline.diffusion.exact import Gaussian
from pipeline.diffusion.precond import Preconditioned
from pipeline.diffusion.telling import Masks, Windows
from pipeline.diffusion.told import Asked, Told
from pipeline.keys import Key
from pipeline.learning.weights import pack, unpack
from pipeline.objectives.objective import Batch
from pipeline.objectives.told import ToldDenoising
from pipeline.physics.boxes import KeepPatch
from pipeline.physics.corruption import corrupt
from pipeline.physics.linear import Identity
from pipeline.physics.masks import PixelMask
from pipeline.physics.views import Crop, Frames, Pool
from pipeline.physics.visible import Visible
from pipeline.physics.windows import RandomCrop, ShortClip

SHAPE = (1, 4, 4)
MASKS, WINDOWS = Masks(SHAPE), Windows(SHAPE, (3, 2))
HOLES = Visible(SHAPE, PixelMask(0.5), seed=1)
CASES = [
    (MASKS, HOLES),
    (MASKS, Crop(SHAPE, 1, 0, 2, 3)),
    (MASKS, Identity(SHAPE)),
    (WINDOWS, Crop(SHAPE, 1, 2, 3, 2)),
    (WINDOWS, Crop(SHAPE, 0, 1, 3, 2)),
]


def field() -> Gaussian:
    """A stationary Gaussian field on the 4x4 grid, about a mean that says where one is."""
    points = torch.cartesian_prod(torch.arange(4.0), torch.arange(4.0)).double()
    cov = 0.25 * torch.exp(-torch.cdist(points, points) / 2) + 0.05 * torch.eye(16)
    return Gaussian(torch.linspace(-0.8, 0.8, 16).double(), cov)


def noised(law, count=24, level=0.7):
    x0 = law.sample(count, Key(0).fold("x0")).reshape(count, *SHAPE)
    z = torch.randn(x0.shape, generator=Key(0).fold("z").torch(), dtype=x0.dtype)
    return x0, x0 + level * z, torch.full((count,), level, dtype=x0.dtype)


def learned(telling, seed=0) -> Told:
    """A network whose every weight matters."""
    torch.manual_seed(seed)
    model = Told.Config(telling, unet.Config(width=8, dropout=0.0)).build().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    model.centre.normal_()
    return model.requires_grad_(False)


@pytest.mark.parametrize(("telling", "A"), CASES, ids=str)
def test_a_lift_of_the_told_network_is_the_score_of_the_view_pulled_back(telling, A):
    """Aᵀ(D(Ax; A) − Ax)/σ² = ∇ log p(Ax) = −Aᵀ (A C Aᵀ)⁻¹ A (x − μ), C = Σ + σ² I (methods, 1.2)."""
    law = field()
    _, x, sigma = noised(law)
    asked = Asked.Config(A, None, telling).build()
    asked.borrow(KnownTold(law, telling))
    dense = A.dense()
    C = law.cov + sigma[0] ** 2 * torch.eye(16, dtype=torch.float64)
    expected = -(x.flatten(1) - law.mean) @ dense.T @ torch.linalg.inv(dense @ C @ dense.T) @ dense
    lift = A.adjoint(asked(A(x), sigma) - A(x)) / expand(sigma, x) ** 2
    torch.testing.assert_close(lift.flatten(1), expected, rtol=1e-8, atol=1e-8)


def test_windows_and_their_overlap_from_one_network_of_masks_count_once():
    law, maps = field(), [Crop(SHAPE, 0, 0, 4, 3), Crop(SHAPE, 0, 1, 4, 3), Crop(SHAPE, 0, 1, 4, 2)]
    views = tuple(
        View(A, Asked.Config(A, None if k else Told.Config(MASKS, mlp.Config(8, 1)), MASKS)) for k, A in enumerate(maps)
    )
    base = Base.Config(SHAPE, views, Bins()).build().double().eval()
    for model in base.models:
        model.borrow(KnownTold(law, MASKS))
    assert base.mode is Mode.BETHE
    _, x, sigma = noised(law)
    torch.testing.assert_close(base(x, sigma), exact_views(law, maps, Bins())(x, sigma), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("telling", "corruption"), [(MASKS, PixelMask(0.5)), (MASKS, KeepPatch(0.4, 0.8)), (WINDOWS, RandomCrop(3, 2))]
)
def test_the_loss_is_least_at_what_rows_with_such_a_mask_or_place_can_say(telling, corruption):
    """Its vertex along x + a (D* − x) is at a = 1, whatever was drawn for each row."""
    law, count = field(), 800
    x0 = law.sample(count, Key(1)).reshape(count, *SHAPE)
    y, rows = corrupt(corruption, x0, [str(i) for i in range(count)], seed=0)
    codes = telling.code(corruption.at(rows, SHAPE))
    exact, index = KnownTold(law, telling), torch.arange(count)
    sigma = torch.full((count,), 0.7, dtype=torch.float64)
    objective, found = ToldDenoising(telling, codes), {}

    def loss(share):
        def D(x, sigma, cond, code):
            guess = found.setdefault("D", exact(telling.seen(x, code), sigma, cond, code))
            return x + share * (guess - x)

        return float(objective(D, Batch(y, index=index), sigma, Key(5)).each.mean())

    above, below, at = loss(1.5), loss(0.5), loss(1.0)
    vertex = 1 - 0.25 * (above - below) / (above + below - 2 * at)
    assert vertex == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize("hidden", [1e6, float("nan")])
def test_nothing_hidden_reaches_the_network_or_the_loss(hidden):
    model, count = learned(MASKS), 12
    x0 = torch.randn(count, *SHAPE, generator=Key(1).torch())
    _, rows = corrupt(PixelMask(0.5), x0, [str(i) for i in range(count)], 0)
    code = MASKS.code(PixelMask(0.5).at(rows, SHAPE))
    other, sigma = torch.where(code, x0, hidden), torch.linspace(0.1, 3, count)
    D = model(x0, sigma, code=code)
    assert torch.equal(model(other, sigma, code=code), D)
    assert (D[~code] == 0).all()
    assert (D[code] != 0).all()
    objective = ToldDenoising(MASKS, code)
    losses = [objective(model, Batch(x, index=torch.arange(count)), sigma, Key(2)).each for x in (x0, other)]
    assert torch.equal(*losses)


@pytest.mark.parametrize("together", [True, False])
def test_what_all_channels_hide_together_is_told_once_and_counts_for_each(together):
    shape = (3, 4, 4)
    how, corruption = Masks(shape, together), PixelMask(0.5, per_channel=not together)
    x = torch.randn(6, *shape, generator=Key(1).torch())
    y, rows = corrupt(corruption, x, [str(i) for i in range(6)], 0)
    code = how.code(corruption.at(rows, shape))
    assert code.shape[1] == how.planes == (1 if together else 3)
    assert torch.equal(how.seen(x, code), y)
    assert torch.equal(how.cut(x[2], code)[2], y[2])
    assert torch.equal(how.counts(code), (y != 0).flatten(1).sum(1))
    assert torch.equal(how.added(y, code)[1], (y != 0).sum(0))
    assert Told.Config(how, unet.Config()).channels == (3 + how.planes, 3)
    if together:
        with pytest.raises(ValueError, match="one by one"):
            how.code(Visible(shape, PixelMask(0.5, per_channel=True)))


def test_the_mask_and_the_place_are_told():
    sigma, x = torch.ones(2), torch.ones(2, *SHAPE)
    code = torch.ones(2, *SHAPE, dtype=torch.bool)
    code[1, :, 3, 3] = False
    D = learned(MASKS)(x, sigma, code=code)
    assert not torch.allclose(D[0, :, 0, 0], D[1, :, 0, 0], atol=1e-4)
    model = learned(WINDOWS)
    model.centre.zero_()
    D = model(torch.ones(2, *WINDOWS.rows), sigma, code=torch.tensor([[0, 0], [1, 2]]))
    assert not torch.allclose(D[0], D[1], atol=1e-4)


def test_a_network_that_is_told_nothing_says_so():
    with pytest.raises(ValueError, match="must be told"):
        learned(MASKS)(torch.ones(1, *SHAPE), torch.ones(1))


@pytest.mark.parametrize(
    ("shape", "corruption", "sides"),
    [
        ((3, 5, 6), RandomCrop(3, 2), (3, 2)),
        ((2, 5, 4, 4), ShortClip(2), (2, 4, 4)),
        ((1, 3, 4, 6), RandomCrop(3, 4), (3, 3, 4)),
    ],
)
def test_windows_of_images_and_clips_are_found_cut_and_laid_back(shape, corruption, sides):
    how = Windows(shape, sides)
    x = torch.randn(7, *shape, generator=Key(0).torch())
    y, rows = corrupt(corruption, x, [str(i) for i in range(7)], 0)
    A = corruption.at(rows, shape)
    code = how.code(A)
    assert len(code.unique(dim=0)) > 1
    assert torch.equal(how.cut(x[3], code)[3], y[3])
    total, number = how.added(y, code)
    torch.testing.assert_close(total, A.adjoint(y).sum(0))
    assert torch.equal(number, A.adjoint(torch.ones_like(y)).sum(0))
    axes = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in shape[1:]), indexing="ij")
    for k, axis in enumerate(axes):
        assert torch.equal(how.told(code)[:, k], A(axis.expand(7, *shape))[:, 0])


@pytest.mark.parametrize(
    ("telling", "A"),
    [
        (MASKS, Pool(SHAPE, 2)),
        (MASKS, 2.0 * Identity(SHAPE)),
        (WINDOWS, Crop(SHAPE, 0, 0, 2, 3)),
        (Windows((1, 4, 2, 2), (2, 2, 2)), Frames((1, 4, 2, 2), (0, 2))),
    ],
)
def test_what_is_no_mask_and_no_window_is_refused(telling, A):
    with pytest.raises(ValueError, match=r"neither masks nor selects|no window|is no view"):
        Asked.Config(A, None, telling)


def combined() -> Base:
    told = Told.Config(MASKS, mlp.Config(width=8, blocks=1))
    maps = [Visible(SHAPE, PixelMask(0.5), 0, k) for k in range(3)]
    views = [View(A, Asked.Config(A, None if k else told, MASKS)) for k, A in enumerate(maps)]
    plain = View(Pool(SHAPE, 2), Preconditioned.Config((1, 2, 2), mlp.Config(width=8, blocks=1)))
    base = Base.Config(SHAPE, (*views[:2], plain, views[2])).build().eval()
    for parameter in base.parameters():
        nn.init.normal_(parameter, std=0.3)
    return base.requires_grad_(False)


def test_views_that_share_a_network_keep_its_weights_once_and_answer_alike_when_read_again():
    base = combined()
    x, sigma = torch.randn(3, *SHAPE, generator=Key(0).torch()), torch.ones(3)
    once = Told.Config(MASKS, mlp.Config(width=8, blocks=1)).build()
    assert sum("into.weight" in name and "net.into" in name for name in base.state_dict()) == 2, (
        "the shared and the plain"
    )
    assert base.models[3].lent[0] is base.models[0].told
    assert len(base.models[0].told.state_dict()) == len(once.state_dict())
    files = pack(base)
    torch.testing.assert_close(unpack(files.__getitem__)(x, sigma), base(x, sigma))
    twin = copy.deepcopy(base)
    twin.models[0].told.net.out.weight.zero_()
    assert twin.models[3].lent[0] is twin.models[0].told
    assert not torch.equal(twin(x, sigma), base(x, sigma))


def test_a_network_to_share_must_come_before():
    told = Told.Config(MASKS, mlp.Config(width=8, blocks=1))
    shared, own = (View(HOLES, Asked.Config(HOLES, net, MASKS)) for net in (None, told))
    with pytest.raises(ValueError, match="order them"):
        Base.Config(SHAPE, (shared, own)).build()


def test_below_its_noise_a_view_is_as_if_it_were_not_there():
    """White data of variance 0.3: the fallback is exact there, with the variance of what only the silent view sees."""
    law = Gaussian(torch.linspace(-0.3, 0.3, 16).double(), 0.3 * torch.eye(16, dtype=torch.float64))
    left, right = Crop(SHAPE, 0, 0, 4, 2), Crop(SHAPE, 0, 2, 4, 2)
    net = mlp.Config(width=8, blocks=1)
    views = tuple(View(A, Preconditioned.Config(A.out_shape, net), least) for A, least in ((left, 0.0), (right, 0.5)))
    exact = exact_views(law, [left, right], Bins())
    base = Base.Config(SHAPE, views).build().double().eval().requires_grad_(False)
    base.models = exact.models
    x0, x, _ = noised(law, 4000)
    found = unseen.fill(base, x0)
    assert base.null.tolist() == [pytest.approx(0.3, abs=0.01), pytest.approx(1e-8)]
    assert found["unseen_share"] < 1e-6, "above, all is seen"
    base.mean.copy_(law.mean.reshape(SHAPE))
    base.null[0] = 0.3
    for level in (0.3, 0.7):
        sigma = torch.full((len(x),), level, dtype=torch.float64)
        torch.testing.assert_close(base(x, sigma), law(x, sigma), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("telling", [MASKS, WINDOWS], ids=["masks", "windows"])
def test_a_traced_view_takes_any_number_of_rows(telling):
    A = HOLES if telling is MASKS else Crop(SHAPE, 1, 2, 3, 2)
    asked = Asked.Config(A, None, telling).build().eval()
    asked.borrow(learned(telling))
    rows = [(torch.randn(n, *A.out_shape, generator=Key(n).torch()), torch.linspace(0.1, 2, n)) for n in (2, 5)]
    traced = torch.jit.trace(asked, rows[0], check_trace=False)
    torch.testing.assert_close(traced(*rows[1]), asked(*rows[1]))


def test_above_its_noise_a_view_leaves_what_none_sees_alone():
    """Of the third and fourth columns only a noisy view sees the third: there the fallback is that of the fourth."""
    variance = torch.tensor([0.2, 0.2, 0.3, 0.1], dtype=torch.float64).repeat(4)
    law = Gaussian(torch.linspace(-0.3, 0.3, 16).double(), torch.diag(variance))
    maps = [Crop(SHAPE, 0, 0, 4, 2), Crop(SHAPE, 0, 2, 4, 1)]
    net = mlp.Config(width=8, blocks=1)
    views = tuple(View(A, Preconditioned.Config(A.out_shape, net), least) for A, least in zip(maps, (0.0, 0.5)))
    base = Base.Config(SHAPE, views).build().double().eval().requires_grad_(False)
    base.models = exact_views(law, maps, Bins()).models
    x0, x, sigma = noised(law, 4000)
    unseen.fill(base, x0)
    assert base.null.tolist() == [pytest.approx(0.2, abs=0.01), pytest.approx(0.1, abs=0.01)]
    base.mean.copy_(law.mean.reshape(SHAPE))
    base.null[1] = 0.1
    torch.testing.assert_close(base(x, sigma), law(x, sigma), rtol=1e-5, atol=1e-5)
