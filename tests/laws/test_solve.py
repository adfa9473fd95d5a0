"""Conjugate gradients find A⁺ b: the smallest solution, in rank-many steps, at the stated rate, at any magnitude."""

from __future__ import annotations

import math

import pytest
import torch

from pipeline.keys import Key
from pipeline.physics.solve import conjugate_gradients


def system(eigenvalues: list[float], batch: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """A (n, n) with these eigenvalues in a random basis, and b (batch, n) in its range; float64."""
    generator = Key(7).torch()
    n = len(eigenvalues)
    Q, _ = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))
    A = Q * torch.tensor(eigenvalues, dtype=torch.float64) @ Q.T
    return A, torch.randn(batch, n, generator=generator, dtype=torch.float64) @ A


def test_the_solution_of_a_regular_system():
    A, b = system([1.0, 2, 3, 5, 8, 13])
    x = conjugate_gradients(lambda v: v @ A, b, tol=1e-13)
    torch.testing.assert_close(x, torch.linalg.solve(A, b.T).T, rtol=0, atol=1e-11)


def test_the_smallest_solution_of_a_singular_system():
    A, b = system([0.0, 0, 0, 1, 4, 9])
    x = conjugate_gradients(lambda v: v @ A, b, tol=1e-13)
    torch.testing.assert_close(x, b @ torch.linalg.pinv(A, hermitian=True), rtol=0, atol=1e-11)


def test_as_many_steps_as_distinct_eigenvalues_and_no_fewer():
    A, b = system([0.0] * 4 + [1.0] * 5 + [3.0] * 5 + [10.0] * 6)
    solution = b @ torch.linalg.pinv(A, hermitian=True)
    error = [(conjugate_gradients(lambda v: v @ A, b, 0.0, steps) - solution).norm().item() for steps in (2, 3)]
    assert error[0] > 1e-2
    assert error[1] < 1e-12


def test_the_error_falls_at_the_rate_of_the_condition_number():
    """‖x_k - x‖_A <= 2 ((√κ - 1)/(√κ + 1))^k ‖x‖_A (Trefethen and Bau, Numerical Linear Algebra, theorem 38.5)."""
    eigenvalues = torch.linspace(1, 50, 40, dtype=torch.float64)
    A, b = system(eigenvalues.tolist())
    solution = torch.linalg.solve(A, b.T).T
    rate = (math.sqrt(50) - 1) / (math.sqrt(50) + 1)

    def energy(e: torch.Tensor) -> torch.Tensor:
        return ((e @ A) * e).sum(1).sqrt()

    for k in (1, 3, 6, 12, 24):
        x = conjugate_gradients(lambda v: v @ A, b, 0.0, k)
        assert (energy(x - solution) <= 2 * rate**k * energy(solution)).all()


def test_every_example_has_its_own_steps():
    """Easy, hard and zero examples in one batch are solved as they are alone."""
    A, _ = system([1.0, 10, 100, 1000])
    systems = torch.stack([torch.eye(4, dtype=torch.float64), A, A])
    b = torch.randn(3, 4, generator=Key(1).torch(), dtype=torch.float64)
    b[2] = 0
    x = conjugate_gradients(lambda v: (systems @ v[..., None])[..., 0], b, tol=1e-12)
    torch.testing.assert_close(x, torch.linalg.solve(systems, b), rtol=0, atol=1e-10)
    assert (x[2] == 0).all()
    used = []
    conjugate_gradients(lambda v: used.append(1) or v, b[:1], tol=1e-12)
    assert len(used) == 1


def test_the_tolerance_is_met_and_is_not_overshot():
    A, b = system(torch.linspace(1, 100, 60).tolist())
    for tol in (1e-2, 1e-5):
        x = conjugate_gradients(lambda v: v @ A, b, tol, steps=500)
        residual = (b - x @ A).norm(dim=1) / b.norm(dim=1)
        assert (residual <= 1.001 * tol).all()
        assert (residual > 1e-3 * tol).all()


@pytest.mark.parametrize("magnitude", [1e-30, 1e30])
def test_faint_and_huge_images_are_solved_alike(magnitude):
    A, b = system([1.0, 2, 3])
    A, b = A.float(), b.float()
    x = conjugate_gradients(lambda v: v @ A, b)
    scaled = conjugate_gradients(lambda v: v @ A, magnitude * b)
    torch.testing.assert_close(scaled / magnitude, x, rtol=1e-5, atol=0)


def test_what_lies_outside_the_range_leaves_no_nan():
    """A = 0 sees nothing, so its smallest solution is 0 though no x solves A x = b."""
    assert conjugate_gradients(lambda v: 0 * v, torch.ones(2, 3)).equal(torch.zeros(2, 3))


def test_images_keep_their_shape():
    b = torch.randn(2, 3, 4, 5)
    torch.testing.assert_close(conjugate_gradients(lambda v: 4 * v, b), b / 4)


@pytest.mark.parametrize(
    ("A", "b", "words"),
    [
        (lambda v: v[:, :2], torch.ones(2, 3), r"keep the shape \(2, 3\), got \(2, 2\)"),
        (lambda v: v, torch.tensor([[1.0, float("nan")]]), "finite b"),
        (lambda v: v / 0, torch.ones(2, 3), "NaN or infinity in A x"),
        (lambda v: -v, torch.ones(2, 3), "positive semi-definite"),
        (lambda v: v, torch.ones(3), r"shape \(B, \*\), got \(3,\)"),
    ],
)
def test_what_cannot_be_solved_is_refused(A, b, words):
    with pytest.raises(ValueError, match=words):
        conjugate_gradients(A, b)
