"""Every regulariser's optimum in closed form, where the levels are drawn, and what a residual is shown."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from known import exact_base
from test_compose import OVER_LEFT, OVER_RIGHT, POOL, SHAPE, field
from torch import nn

from pipeline.backbones.mlp import Config as MLP
from pipeline.diffusion.combine import Mode, visible
from pipeline.diffusion.compose import Evidence
from pipeline.diffusion.denoiser import expand
from pipeline.diffusion.levels import Stratified, Tabulated
from pipeline.diffusion.residual import Feature, Residual
from pipeline.keys import Key
from pipeline.objectives.objective import Batch
from pipeline.objectives.residual import ResidualDenoising

SIGMA = 0.7


class Linear(nn.Module):
    """F = (x − μ) Wᵀ / c_r with a matrix W (n, n)."""

    def __init__(self, law, W):
        super().__init__()
        self.law, self.W = law, nn.Parameter(W.clone())

    def forward(self, x, sigma, seen, unit, cond=None):
        centred = x.flatten(1) - self.law.mean
        return (centred @ self.W.T).reshape(x.shape) / expand(unit, x)


@pytest.fixture(scope="module")
def setting():
    """A base of two overlapping crops, images, and the matrix of the best correction: W* = D* − D_base."""
    law = field()
    base = exact_base(law, [OVER_LEFT, OVER_RIGHT], Mode.SUM, SIGMA**2)
    base.mean.copy_(law.mean.reshape(SHAPE))
    base.scale.fill_(0.3)
    eye = law.mean + torch.eye(16, dtype=torch.float64)
    sigma = torch.full((16,), SIGMA, dtype=torch.float64)
    best = (law(eye, sigma) - base(eye.reshape(-1, *SHAPE), sigma).flatten(1)).T
    return law, base, law.sample(60_000, Key(1)).reshape(-1, *SHAPE), best


def slope(setting, W, **regularisation):
    """The gradient of the mean loss in W."""
    law, base, x0, _ = setting
    F = Linear(law, W)
    sigma = torch.full((len(x0),), SIGMA, dtype=torch.float64)
    ResidualDenoising(base, **regularisation)(F, Batch(x0), sigma, Key(5)).each.mean().backward()
    return F.W.grad


def shrunk(setting, output_l2=0.0, jacobian=0.0, dropout=0.0):
    """The minimiser: W* times a number, and times C (C + κ)⁻¹."""
    law, _, _, best = setting
    C = law.cov + SIGMA**2 * torch.eye(16)
    return best @ C @ torch.linalg.inv((1 + output_l2 + dropout / (1 - dropout)) * C + jacobian * torch.eye(16))


@pytest.mark.slow
@pytest.mark.parametrize(
    "regularisation",
    [{}, {"output_l2": 0.5}, {"dropout": 0.4}, {"jacobian": 0.6}, {"output_l2": 1.0, "jacobian": 0.3, "dropout": 0.2}],
    ids=["none", "output", "branch", "jacobian", "all"],
)
def test_the_loss_is_stationary_at_the_shrunk_correction_and_nowhere_near(setting, regularisation):
    best = setting[3]
    at = slope(setting, shrunk(setting, **regularisation), **regularisation).norm()
    reference = slope(setting, torch.zeros_like(best), **regularisation).norm()
    assert at < 0.05 * reference
    if regularisation:
        assert slope(setting, best, **regularisation).norm() > 0.2 * reference


def test_a_branch_is_dropped_by_rows_that_no_world_size_changes():
    batch = Batch(torch.zeros(4096, 1, 2, 2))
    objective = ResidualDenoising(nn.Module(), dropout=0.3)
    kept = objective.draw(batch, Key(1))["kept"]
    assert set(kept.tolist()) == {0.0, 1.0}
    assert float(kept.mean()) == pytest.approx(0.7, abs=0.03)
    parts = [objective.draw(part, Key(1))["kept"] for part in batch.split(1024)]
    assert torch.equal(torch.cat(parts), kept)
    assert set(objective.draw(batch, Key(1))) == {"noise", "kept"}


@pytest.mark.parametrize("values", [(1.0, 1.0), (0.0, 1.0, 3.0, 0.5), (2.0, 0.0, 0.0, 1.0), (0.0, 5.0)])
def test_tabulated_levels_are_distributed_as_their_density(values):
    levels = Tabulated(0.05, 8.0, values)
    u = torch.linspace(0.001, 0.999, 999, dtype=torch.float64)
    at = levels.quantile(u)
    grid = torch.linspace(*torch.tensor([0.05, 8.0], dtype=torch.float64).log().tolist(), 200_001, dtype=torch.float64)
    cumulated = torch.cumulative_trapezoid(levels.density(grid), grid)
    assert float(cumulated[-1]) == pytest.approx(1, abs=1e-4)
    reached = torch.from_numpy(np.interp(at.numpy(), grid[1:].numpy(), cumulated.numpy()))
    torch.testing.assert_close(reached, u, rtol=0, atol=1e-4)
    assert bool((at[1:] >= at[:-1]).all())
    assert float(levels.density(torch.tensor([-9.0, 9.0])).sum()) == 0
    drawn = Stratified(levels).draw(1000, Key(1)).log()
    assert float(drawn.mean()) == pytest.approx(float(at.mean()), abs=0.02)


@pytest.mark.parametrize("wrong", [(1.0,), (0.0, 0.0), (-1.0, 2.0), (float("nan"), 1.0)])
def test_what_is_no_density_is_refused(wrong):
    with pytest.raises(ValueError, match="value"):
        Tabulated(0.1, 1.0, wrong)


def test_a_residual_is_shown_the_features_it_asks_for():
    every = tuple(Feature)
    F = Residual.Config(SHAPE, 2, MLP(width=8, blocks=1), features=every).build()
    given = []
    F.net.forward = lambda planes, *more: given.append(planes) or planes[:, :1]
    evidence = Evidence(torch.rand(3, *SHAPE), torch.rand(3, 2, 4, 4), torch.rand(3, *SHAPE))
    F(torch.rand(3, *SHAPE), torch.ones(3), evidence, torch.full((3,), 0.5))
    planes = given[0]
    assert planes.shape[1] == F.config.channels[0] == 2 + 2 + 1 + 2
    torch.testing.assert_close(planes[:, 2:4], evidence.objections / 0.5)
    torch.testing.assert_close(planes[:, 4:5], evidence.coverage)
    torch.testing.assert_close(planes[0, 5], torch.linspace(-1, 1, 4)[:, None].expand(4, 4))
    torch.testing.assert_close(planes[0, 6], torch.linspace(-1, 1, 4)[None, :].expand(4, 4))
    with pytest.raises(ValueError, match="each once"):
        Residual.Config(SHAPE, 2, MLP(), features=(Feature.COVERAGE,) * 2)


def test_coverage_is_the_share_of_the_precision_that_bears_on_an_entry():
    law = field()
    base = exact_base(law, [OVER_LEFT, OVER_RIGHT], Mode.LS, SIGMA**2)
    base.error.copy_(torch.tensor([1.0, 3.0])[:, None].expand_as(base.error))
    seen = base.see(torch.zeros(1, *SHAPE).double(), torch.tensor([SIGMA]).double())
    torch.testing.assert_close(seen.coverage[0, 0, 0], torch.tensor([0.75, 1.0, 1.0, 0.25]).double())
    for A in (OVER_LEFT, POOL):
        torch.testing.assert_close(visible(A).flatten().double(), (A.dense().T @ A.dense()).diagonal())


def test_a_denoiser_of_a_view_that_knows_nothing_covers_nothing():
    law = field()
    base = exact_base(law, [OVER_LEFT], Mode.LS, SIGMA**2)
    object.__setattr__(base.config.views[0], "least", 2.0)
    seen = base.see(torch.zeros(1, *SHAPE).double(), torch.tensor([SIGMA]).double())
    assert float(seen.coverage.abs().max()) == 0
