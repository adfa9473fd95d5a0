"""Networks trained on a discrete variance-preserving schedule, brought to x = x₀ + σz at the door.

Such a network sees x_t = √ᾱ x₀ + √(1 − ᾱ) z at a step t of T, with ᾱ_t = Π (1 − β_s). Divided by √ᾱ that is our x at

    σ_t = √(1 − ᾱ_t)/√ᾱ_t,   x_t = x/√(1 + σ²),   t(σ) = where ln σ lies in the table of ln σ_t, between its entries

and what it predicts is x₀ after a change of coordinates: z (Ho et al. 2020), x₀, or v = √ᾱ z − √(1 − ᾱ) x₀ (Salimans
and Ho 2022), so that D = x − σ F, D = F or D = x/(1 + σ²) − σ/√(1 + σ²) F. Such data have a variance of about one.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

from pipeline.diffusion.precond import Precond

MOST_STEPS = 100_000


class Predicts(Enum):
    """What a network's output is, in the words of the package diffusers (`prediction_type`)."""

    EPSILON = "epsilon"
    SAMPLE = "sample"
    VELOCITY = "v_prediction"


class Betas(Enum):
    """How β runs from its start to its end (`beta_schedule`): evenly, its root evenly, or as ᾱ's cosine says."""

    LINEAR = "linear"
    SCALED = "scaled_linear"
    COSINE = "squaredcos_cap_v2"


@dataclass(frozen=True)
class Discrete(Precond):
    """The schedule of a network that is told a time step, from 0, as c_noise; fractions between steps included.

    Above the table's last σ_T, x is shrunk to hold that much noise, D(x, σ) = D(x σ_T/σ, σ_T), where next to nothing of
    x₀ is seen anyway; below its first the time step is 0.

    Args:
        predicts: what the output is.
        schedule: how β runs.
        beta_start: its first value (unless ᾱ is a cosine, which has its own).
        beta_end: its last.
        steps: T.
    """

    predicts: Predicts = Predicts.EPSILON
    schedule: Betas = Betas.LINEAR
    beta_start: float = 1e-4
    beta_end: float = 0.02
    steps: int = 1000

    def __post_init__(self) -> None:
        if not 0 < self.beta_start <= self.beta_end < 1 or not 2 <= self.steps <= MOST_STEPS:
            raise ValueError(
                f"beta runs from {self.beta_start} to {self.beta_end} in {self.steps} steps: give 0 < start <= end < 1 "
                f"and 2 to {MOST_STEPS} steps"
            )

    def sigmas(self) -> Tensor:
        """σ_t (T,) of every time step, ascending, float64."""
        return _logs(self, torch.device("cpu"), torch.float64).exp()

    @functools.cached_property
    def highest(self) -> float:
        """σ_T."""
        return float(self.sigmas()[-1])

    def time(self, sigma: Tensor) -> Tensor:
        """The time step in [0, T − 1] at σ, shaped as σ."""
        table, at = _logs(self, sigma.device, sigma.dtype), sigma.log()
        above = torch.searchsorted(table, at.detach().contiguous()).clamp(1, self.steps - 1)
        low, high = table[above - 1], table[above]
        return above - 1 + ((at - low) / (high - low)).clamp(0, 1)

    def coefficients(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """c_skip, c_out, c_in and, for c_noise, the time step."""
        known = sigma.clamp(max=self.highest)
        shrunk, total = known / sigma, (1 + known**2).sqrt()
        skip, out = {
            Predicts.EPSILON: (shrunk, -known),
            Predicts.SAMPLE: (torch.zeros_like(sigma), torch.ones_like(sigma)),
            Predicts.VELOCITY: (shrunk / total**2, -known / total),
        }[self.predicts]
        return skip, out, shrunk / total, self.time(sigma)

    def weight(self, sigma: Tensor) -> Tensor:
        """1/c_out², with which the loss of D is the plain one of what the network predicts."""
        return self.coefficients(sigma)[1] ** -2


@functools.lru_cache(maxsize=64)
def _logs(schedule: Discrete, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Ln σ_t (T,)."""
    T = schedule.steps
    if schedule.schedule is Betas.COSINE:  # Nichol and Dhariwal 2021, eq. 17

        def remains(u: float) -> float:
            return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

        each = [min(1 - remains((t + 1) / T) / remains(t / T), 0.999) for t in range(T)]
        beta = torch.tensor(each, dtype=torch.float64, device="cpu")
    else:
        power = 2 if schedule.schedule is Betas.SCALED else 1
        ends = schedule.beta_start ** (1 / power), schedule.beta_end ** (1 / power)
        beta = torch.linspace(*ends, T, dtype=torch.float64, device="cpu") ** power
    kept = torch.log1p(-beta).cumsum(0)  # ln ᾱ
    return ((torch.log(-torch.expm1(kept)) - kept) / 2).to(device=device, dtype=dtype)
