"""Grids of σ and the transitions between them: from noise, or from any σ, to images.

The probability-flow ODE is dx/dσ = (x − D(x, σ))/σ. A sampler is a grid σ_max = σ₀ > ... > σ_{N−1} = σ_min > σ_N = 0
and a step from one σ to the next; every step is a Gaussian `Transition`, of zero width where the step is deterministic.
Noise belongs to the sample (one key each), so sample i is the same alone and in any batch. Here are the samplers of one
step; `churn.py` has the one that goes back up, `multistep.py` the one that remembers.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.diffusion.denoiser import Denoiser, expand, noise
from pipeline.keys import Key

LEAST_RHO = 0.1  # below, σ_max^(1/rho) is soon beyond any number


@dataclass(frozen=True)
class Transition:
    """The law N(mean, std²) of the next x: mean (B, *), std (B,), or None where the step has no randomness."""

    mean: Tensor
    std: Tensor | None = None

    def draw(self, z: Tensor | None = None) -> Tensor:
        """The next x, mean + std z (B, *), for white z (B, *), which only a random step needs."""
        if self.std is None:
            return self.mean
        if z is None:
            raise ValueError("this step is random: give draw() white noise z shaped as the mean.")
        return self.mean + expand(self.std, self.mean) * z

    def log_prob(self, x: Tensor) -> Tensor:
        """The log-density log N(x; mean, std² I) (B,), summed over all entries; raises ValueError where std is 0."""
        if self.std is None or not bool((self.std > 0).all()):
            raise ValueError("a step of zero width has no density: ask a random sampler, and leave out its last step.")
        each = ((x - self.mean) / expand(self.std, x)) ** 2 + math.log(2 * math.pi)
        return -0.5 * each.flatten(1).sum(1) - each[0].numel() * self.std.log()


@dataclass(frozen=True)
class Grid:
    """Noise levels evenly spaced in σ^(1/rho) (Karras et al. 2022, eq. 5), then 0; σ in data units."""

    steps: int = 18
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0

    def __post_init__(self) -> None:
        sound = isinstance(self.steps, int) and self.steps >= 2 and 0 < self.sigma_min < self.sigma_max < math.inf
        if not sound or not LEAST_RHO <= self.rho < math.inf:
            raise ValueError(
                f"{self} is no grid: it needs a whole number of steps from 2, 0 < sigma_min < sigma_max, and rho from "
                f"{LEAST_RHO}, all of them finite."
            )

    def sigmas(self, start: float | Tensor | None = None) -> Tensor:
        """The grid (T+1, 1), or (T+1, B) for a tensor of starts (B,): from start, by the levels below it, to 0.

        A row that starts lower than another waits at its start: a step from σ to σ does nothing. float64, CPU.
        Raises ValueError unless 0 < start <= sigma_max.
        """
        ramp = torch.linspace(0, 1, self.steps, dtype=torch.float64)
        top, bottom = self.sigma_max ** (1 / self.rho), self.sigma_min ** (1 / self.rho)
        grid = torch.cat([(top + ramp * (bottom - top)) ** self.rho, torch.zeros(1, dtype=torch.float64)])[:, None]
        grid[0], grid[-2] = self.sigma_max, self.sigma_min
        if start is None:
            return grid
        first = torch.as_tensor(start, dtype=torch.float64).cpu().reshape(1, -1)
        if not bool(((first > 0) & (first <= self.sigma_max)).all()):
            raise ValueError(f"start must lie above 0 and at most at sigma_max = {self.sigma_max}: raise sigma_max.")
        grid = torch.minimum(grid, first)
        idle = int((grid[:-1] == grid[1:]).all(1).long().cumprod(0).sum())
        return grid[idle:]


class Sampler(Grid, ABC):
    """A grid and a step along it; subclasses are frozen dataclasses."""

    @abstractmethod
    def step(self, D: Denoiser, x: Tensor, sigma: Tensor, down: Tensor, cond: Tensor | None) -> Transition:
        """The law of x (B, *) at noise `down` (B,) given x at noise `sigma` (B,)."""

    def begin(self) -> Callable[[Denoiser, Tensor, Tensor, Tensor, Tensor | None], Transition]:
        """What is called as `step` along one grid, from its start: a multistep sampler returns one that remembers."""
        return self.step

    def evaluations(self, start: float | None = None) -> int:
        """How often D is called from noise `start` (default sigma_max) on, counted on a single number."""
        calls = 0

        def nothing(x: Tensor, sigma: Tensor, cond: Tensor | None = None) -> Tensor:
            nonlocal calls
            calls += 1
            return torch.zeros_like(x)

        self(nothing, torch.zeros(1, 1), start, keys=[Key(0)])
        return calls

    @torch.no_grad()
    def __call__(
        self,
        D: Denoiser,
        x: Tensor,
        start: float | Tensor | None = None,
        cond: Tensor | None = None,
        keys: Sequence[Key] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """x₀ (B, *) from x (B, *) at noise `start` (default sigma_max; one number or (B,)).

        The state is float64; D is called, and x₀ returned, in the dtype of x. `keys` (one per sample) feed random
        steps; `progress(done, steps)` is called after each step. Raises ValueError: these are not one per sample.
        """
        starts = 1 if start is None else torch.as_tensor(start).numel()
        for name, rows in {"start": starts, "keys": keys, "cond": cond}.items():
            found = rows if isinstance(rows, int) else len(x) if rows is None else len(rows)
            if found != len(x) and not (name == "start" and found == 1):
                raise ValueError(f"{name} has {found} rows for {len(x)} samples: give one per sample.")
        dtype = x.dtype
        grid = self.sigmas(start).expand(-1, len(x))
        sigmas, steps, x = grid.to(x.device), len(grid) - 1, x.double()
        sources = None if keys is None else [key.fold("steps").numpy() for key in keys]

        def precise(x: Tensor, sigma: Tensor, cond: Tensor | None = None) -> Tensor:
            return D(x.to(dtype), sigma.to(dtype), cond).double()

        step = self.begin()
        for i in range(steps):
            move = step(precise, x, sigmas[i], sigmas[i + 1], cond)
            z = None
            if move.std is not None:
                if sources is None:
                    raise ValueError(f"{type(self).__name__} draws noise: give it keys, one per sample.")
                # A row that waits for others at its start draws nothing, so that its noise is what it is alone.
                moving = (grid[i] != grid[i + 1]).tolist()
                z = normal(x.shape[1:], [source if goes else None for source, goes in zip(sources, moving)], x.device)
            x = move.draw(z)
            if progress is not None:
                progress(i + 1, steps)
        return x.to(dtype)


@dataclass(frozen=True)
class Heun(Sampler):
    """The probability-flow ODE by Heun's second-order method, 2·steps − 1 calls of D (Karras et al. 2022, Alg. 1)."""

    def step(self, D: Denoiser, x: Tensor, sigma: Tensor, down: Tensor, cond: Tensor | None) -> Transition:
        """An Euler step, then (except into σ = 0) the mean of the slopes at its two ends."""
        h, slope = expand(down - sigma, x), noise(D, x, sigma, cond)
        ahead = x + h * slope
        if not bool((down > 0).all()):
            return Transition(ahead)
        return Transition(x + h * (slope + noise(D, ahead, down, cond)) / 2)


@dataclass(frozen=True)
class Euler(Sampler):
    """The probability-flow ODE by Euler's first-order method, `steps` calls of D; the same as DDIM with eta = 0."""

    def step(self, D: Denoiser, x: Tensor, sigma: Tensor, down: Tensor, cond: Tensor | None) -> Transition:
        """Along the slope at σ."""
        return Transition(x + expand(down - sigma, x) * noise(D, x, sigma, cond))


@dataclass(frozen=True)
class Ancestral(Sampler):
    """The reverse diffusion with D for x₀: x′ ~ N(x + (σ_d − σ)(x − D)/σ, σ_u²), σ_u² = σ′²(σ² − σ′²)/σ².

    σ_d² = σ′² − σ_u². This is q(x′ | x, x₀ = D) of Ho et al. 2020 (eq. 7) with x = x₀ + σz. Weak order 1, `steps` calls
    of D.
    """

    def step(self, D: Denoiser, x: Tensor, sigma: Tensor, down: Tensor, cond: Tensor | None) -> Transition:
        """Down to σ_d along the slope, then up by fresh noise σ_u."""
        return _down_and_up(D, x, sigma, down, cond, 1.0)


@dataclass(frozen=True)
class DDIM(Sampler):
    """Song et al. 2021 (arXiv 2010.02502), eq. 12 with the width of eq. 16: that of `Ancestral` times eta.

    With x = x₀ + σz in place of their √α x₀ + √(1 − α) z, eq. 12 at eta = 0 is Euler's method in σ (their eq. 13): it
    is `Euler`, under the name by which people ask for it. eta = 1 is `Ancestral`. First order in either case (weak
    where eta > 0), `steps` calls of D.
    """

    eta: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta is {self.eta}: give it from 0, which draws no noise, to 1, the ancestral sampler.")

    def step(self, D: Denoiser, x: Tensor, sigma: Tensor, down: Tensor, cond: Tensor | None) -> Transition:
        """Down to σ_d along the slope, then up by fresh noise eta σ_u; deterministic at eta = 0."""
        move = _down_and_up(D, x, sigma, down, cond, self.eta)
        return move if self.eta else Transition(move.mean)


def _down_and_up(D: Denoiser, x: Tensor, sigma: Tensor, down: Tensor, cond: Tensor | None, eta: float) -> Transition:
    up = eta * (down**2 * (sigma**2 - down**2) / sigma**2).clamp_min(0).sqrt()
    target = (down**2 - up**2).clamp_min(0).sqrt()
    return Transition(x + expand(target - sigma, x) * noise(D, x, sigma, cond), up)


def normal(
    shape: tuple[int, ...], sources: Sequence[np.random.Generator | None], device: str | torch.device = "cpu"
) -> Tensor:
    """White noise (B, *shape) float32, row i from sources[i] alone (None: zeros); the same on every device."""
    still = np.zeros(shape, np.float32)
    rows = [still if source is None else source.standard_normal(shape, dtype=np.float32) for source in sources]
    return torch.from_numpy(np.stack(rows)).to(device)


def samples(
    D: Denoiser,
    sampler: Sampler,
    shape: tuple[int, ...],
    ids: Sequence[int | str],
    seed: int,
    batch: int = 64,
    cond: Tensor | None = None,
    device: str | torch.device = "cpu",
) -> Tensor:
    """One image (len(ids), *shape) float32 on the CPU for every id, `batch` at a time; `cond` has a row per id.

    Sample `ids[i]` depends on the seed, its id and its condition only. `range(n)` makes n of them.
    """
    if batch < 1:
        raise ValueError(f"batch is {batch}: draw at least one sample at a time.")
    if cond is not None and len(cond) != len(ids):
        raise ValueError(f"cond has {len(cond)} rows for {len(ids)} samples: give one per sample.")
    done = []
    for at in range(0, len(ids), batch):
        keys = [Key(seed).fold("sample", i) for i in ids[at : at + batch]]
        x = normal(shape, [key.fold("start").numpy() for key in keys], device) * sampler.sigma_max
        rows = None if cond is None else cond[at : at + batch].to(device)
        done.append(sampler(D, x, cond=rows, keys=keys).cpu())
    return torch.cat(done) if done else torch.empty(0, *shape)
