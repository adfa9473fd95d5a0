"""ridge: a linear denoiser of digits in closed form, whose one option can be searched in no time."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from sklearn.datasets import load_digits

from pipeline.graph import Context, Stage, Step, step

faults: list[Callable[[float], None]] = []  # what a test lets happen in the middle of a trial


@dataclass(frozen=True)
class Rows(Stage):
    count: int

    def run(self, at: Context) -> None:
        buffer = io.BytesIO()
        np.save(buffer, load_digits().data[: self.count] / 8 - 1)
        at.out.write("rows.npy", buffer.getvalue())


@dataclass(frozen=True)
class Ridge(Stage):
    rows: Step
    penalty: float
    noise: float

    def run(self, at: Context) -> None:
        for fault in faults:
            fault(self.penalty)
        if self.penalty < 0:
            raise RuntimeError(f"a penalty of {self.penalty} cannot be")
        x0 = np.load(io.BytesIO(at.open(self.rows).read("rows.npy")))
        x = x0 + self.noise * np.random.default_rng(0).standard_normal(x0.shape)
        half = len(x) // 2
        gram = x[:half].T @ x[:half] + self.penalty * np.eye(x.shape[1])
        error = x[half:] @ np.linalg.solve(gram, x[:half].T @ x0[:half]) - x0[half:]
        at.tracker.metrics({"loss": 1.0, "done": 1.0}, at=half)
        at.out.write("metrics.json", json.dumps({"error": float((error**2).mean())}))


def ridge(penalty: float = 1.0, noise: float = 0.5, rows: int = 200) -> Step:
    """Fit a linear denoiser.

    Args:
        penalty: of its square.
        noise: that it removes.
        rows: digits.
    """
    return step(Ridge(step(Rows(rows), "rows"), penalty, noise), "fitted")
