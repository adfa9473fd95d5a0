"""Every law of `check_operator` can be broken, and the broken law is the one that is named."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from cases import Blend
from torch import Tensor

from pipeline.physics.check import check_operator
from pipeline.physics.linear import Identity, LinearMap


@dataclass(frozen=True)
class Honest(Blend):
    """The parent of the broken: every law holds."""


class NotLinear(Honest):
    def __call__(self, x: Tensor) -> Tensor:
        return super().__call__(x) + 1


class Mixing(Honest):
    def __call__(self, x: Tensor) -> Tensor:
        return super().__call__(x) + 0.1 * super().__call__(x.flip(0))


class MeanAdjoint(Honest):
    def adjoint(self, y: Tensor) -> Tensor:
        return super().adjoint(y) / 5

    def pinv(self, y: Tensor) -> Tensor:
        return Blend().pinv(y)


class AdjointAsInverse(Honest):
    def pinv(self, y: Tensor) -> Tensor:
        return self.adjoint(y)


class RidgedInverse(Honest):
    def pinv(self, y: Tensor) -> Tensor:
        return super().pinv(y) * (1 - 1e-6)


class InverseWithNullSpace(Honest):
    """A generalised inverse (A G A = A) that is not the smallest one."""

    def pinv(self, y: Tensor) -> Tensor:
        e = torch.ones(1, *self.in_shape, dtype=y.dtype)
        return super().pinv(y) + (e - Blend().project(e)) * y.sum(1).reshape(-1, 1, 1, 1)


class OtherProject(Honest):
    def project(self, x: Tensor) -> Tensor:
        return x


class Obliquely(Honest):
    """G = A⁺ + N with A N = 0 and N A A⁺ = N: A G A = A and G A G = G hold, but G A is an oblique projection."""

    def pinv(self, y: Tensor) -> Tensor:
        e = torch.ones(1, *self.in_shape, dtype=y.dtype)
        seen = self(super().pinv(y))
        return super().pinv(y) + (e - Blend().project(e)) * seen.sum(1).reshape(-1, 1, 1, 1)


class InverseOfRange(Honest):
    """G = A⁺ + A⁺N, N vanishing on the range of A: A G A = A, G A G = G, P symmetric, but A G is oblique."""

    def pinv(self, y: Tensor) -> Tensor:
        unseen = y - self(super().pinv(y))
        ones = torch.ones_like(y)
        return super().pinv(y) + super().pinv(ones) * (unseen * (y.new_tensor([1.0, 2, 3, 4, 5]))).sum(1).reshape(
            -1, 1, 1, 1
        )


class Doubled(Honest):
    def __call__(self, x: Tensor) -> Tensor:
        return super().__call__(x.double())


class Flat(Honest):
    def adjoint(self, y: Tensor) -> Tensor:
        return super().adjoint(y).flatten(1)

    def pinv(self, y: Tensor) -> Tensor:
        return Blend().pinv(y)


class Boastful(Honest):
    orthonormal = True

    def pinv(self, y: Tensor) -> Tensor:
        return Blend().pinv(y)


BROKEN: dict[type[LinearMap], str] = {
    NotLinear: "A \\(a x",
    Mixing: "each example alone",
    MeanAdjoint: "⟨A x, y⟩ = ⟨x, Aᵀ y⟩",
    AdjointAsInverse: "A A⁺ A = A",
    RidgedInverse: "A A⁺ A = A",
    InverseWithNullSpace: "A⁺ A A⁺ = A⁺",
    OtherProject: "P = A⁺ A",
    Obliquely: "P = Pᵀ",
    InverseOfRange: "A A⁺ = \\(A A⁺\\)ᵀ",
    Doubled: "dtype",
    Flat: "Aᵀ y has shape",
    Boastful: "A Aᵀ = I",
}


@pytest.mark.slow
@pytest.mark.parametrize("broken", BROKEN, ids=lambda c: c.__name__)
def test_a_broken_law_is_named(broken):
    with pytest.raises(ValueError, match=f"{broken.__name__} breaks '.*{BROKEN[broken]}"):
        check_operator(broken())


def test_the_parent_of_the_broken_is_sound():
    check_operator(Honest())
    with pytest.raises(ValueError, match="use a small shape"):
        check_operator(Identity((3, 64, 64)))
