"""Every operator obeys the laws of its matrix, products and stacks are those of matrices, no operator is forgotten."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re

import pytest
import torch
from cases import CORRUPTIONS, MAPS, Blend, mask
from hypothesis import given, settings
from hypothesis import strategies as st

import pipeline.physics
from pipeline.keys import Key
from pipeline.physics.check import check_operator
from pipeline.physics.corruption import Corruption, corrupt
from pipeline.physics.linear import Identity, LinearMap, Shape, Stacked, unit
from pipeline.physics.masks import Masked, PixelMask
from pipeline.physics.views import Channel, Crop, Frames, Pool

QUICK = settings(max_examples=25, deadline=None, derandomize=True, database=None)


@pytest.mark.parametrize("name", MAPS)
def test_every_law_of_every_map(name):
    check_operator(MAPS[name])


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_every_law_of_every_operator_that_a_corruption_draws(name):
    corruption, shape = CORRUPTIONS[name]
    _, rows = corrupt(corruption, torch.zeros(3, *shape), ["a", "b", "c"], seed=1)
    A = corruption.at(rows, shape)
    check_operator(A)
    assert A.in_shape == shape
    assert A.out_shape == corruption.out_shape(shape)


# ---- Completeness -------------------------------------------------------------------------------------------------


def concrete(base: type) -> set[type]:
    """Every class in the modules of pipeline.physics that is a `base` and can be instantiated."""
    modules = [
        importlib.import_module(m.name) for m in pkgutil.walk_packages(pipeline.physics.__path__, "pipeline.physics.")
    ]
    classes = {c for module in modules for _, c in inspect.getmembers(module, inspect.isclass)}
    return {c for c in classes if issubclass(c, base) and not inspect.isabstract(c)}


def without_case(classes: set[type], cases: list[object]) -> list[str]:
    return sorted(c.__name__ for c in classes if c not in {type(case) for case in cases})


def test_no_operator_and_no_corruption_is_without_a_case():
    maps, corruptions = list(MAPS.values()), [corruption for corruption, _ in CORRUPTIONS.values()]
    assert {Crop, Masked, Stacked} <= concrete(LinearMap)
    assert without_case(concrete(LinearMap), maps) == [], "add a case to tests/laws/cases.py"
    assert without_case(concrete(Corruption), corruptions) == [], "add a case to tests/laws/cases.py"
    assert without_case({Crop, PixelMask}, [*maps]) == ["PixelMask"]


# ---- Composition, stacking, multiples -----------------------------------------------------------------------------


def test_a_product_is_the_product_of_the_matrices():
    for A, B in ((Crop((1, 4, 4), 1, 0, 2, 3), Pool((1, 8, 8), 2)), (Blend(), Crop((3, 4, 6), 1, 2, 2, 2))):
        torch.testing.assert_close((A @ B).dense(), A.dense() @ B.dense(), rtol=0, atol=1e-14)
    per_row = Pool((1, 8, 8), 2) @ Masked((1, 8, 8), mask((1, 8, 8), 3))
    expected = per_row.outer.dense() @ per_row.inner.dense()
    assert expected.shape == (3, 16, 64)
    torch.testing.assert_close(per_row.dense(), expected, rtol=0, atol=1e-14)


def test_a_stack_is_the_vertical_concatenation_of_the_matrices():
    maps = (Crop((3, 4, 6), 0, 1, 3, 2), Channel((3, 4, 6), (2,)), Pool((3, 4, 6), 2))
    torch.testing.assert_close(Stacked(maps).dense(), torch.cat([A.dense() for A in maps]), rtol=0, atol=0)
    y = torch.randn(2, *Stacked(maps).out_shape)
    assert [tuple(part.shape[1:]) for part in Stacked(maps).split(y)] == [A.out_shape for A in maps]


def test_products_of_orthonormal_maps_are_orthonormal_and_others_do_not_claim_to_be():
    view, blend = Pool((1, 8, 8), 2), Blend()
    assert (Crop((1, 4, 4), 0, 0, 2, 2) @ view).orthonormal
    assert (-1 * view).orthonormal
    assert not (0.5 * view).orthonormal
    assert not (blend @ Identity((3, 2, 2))).orthonormal
    assert not (Identity((5,)) @ blend).orthonormal
    assert not Stacked((view,)).orthonormal
    assert (2.0 * (0.5 * view)).orthonormal


BY_CHANCE = {"bicubic of a clip, all of it one pixel", "no blur"}  # of their sizes and widths


@pytest.mark.parametrize("name", sorted(MAPS.keys() - BY_CHANCE))
def test_a_map_is_isotropic_with_c_if_and_only_if_its_matrix_says_so_and_then_has_a_unit(name):
    A = MAPS[name]
    M = A.dense().expand(A.rows, -1, -1) if A.rows == 1 else A.dense()
    gram, one = M @ M.mT, torch.eye(M.shape[1], dtype=M.dtype)
    c = float(gram.diagonal(dim1=1, dim2=2).mean())
    assert (A.isotropy is not None) == (c > 0 and bool(((gram - c * one).abs() < 1e-9).all()))
    if A.isotropy is None:
        with pytest.raises(ValueError, match="A Aᵀ must be I"):
            unit(A)
        return
    assert A.isotropy == pytest.approx(c, rel=1e-12)
    U = unit(A)
    assert U.orthonormal
    check_operator(U)
    torch.testing.assert_close(U.dense() * c**0.5, A.dense())


def test_a_positive_multiple_of_a_view_has_that_view_for_its_unit():
    view = Pool((1, 4, 4), 2)
    assert unit(0.5 * view) == view
    assert unit(3.0 * (0.5 * view)) == view


@QUICK
@given(st.data())
def test_any_chain_of_views_is_a_view(data):
    whole = st.integers
    A: LinearMap = Identity((data.draw(whole(1, 3)), *(data.draw(st.sampled_from((2, 4, 6))) for _ in range(2))))
    for _ in range(data.draw(whole(1, 3))):
        C, H, W = A.out_shape
        top, left = data.draw(whole(0, H - 1)), data.draw(whole(0, W - 1))
        crop = Crop((C, H, W), top, left, data.draw(whole(1, H - top)), data.draw(whole(1, W - left)))
        sizes = [s for s in (1, 2, 3, 4, 6) if H % s == 0 and W % s == 0]
        channels = data.draw(st.permutations(range(C)))[: data.draw(whole(1, C))]
        pool = Pool((C, H, W), data.draw(st.sampled_from(sizes)))
        A = data.draw(st.sampled_from((crop, pool, Channel((C, H, W), tuple(channels))))) @ A
    assert A.orthonormal
    check_operator(A)


# ---- What each view shows -----------------------------------------------------------------------------------------


def test_views_show_what_they_say():
    x = torch.arange(2 * 64.0).reshape(2, 1, 8, 8)
    assert Crop((1, 8, 8), 2, 1, 3, 4)(x).equal(x[:, :, 2:5, 1:5])
    pooled = Pool((1, 8, 8), 2)(x)
    assert pooled.shape == (2, 1, 4, 4)
    assert pooled.equal(2 * torch.nn.functional.avg_pool2d(x, 2))
    clip = torch.arange(2 * 96.0).reshape(2, 2, 3, 4, 4)
    assert Frames((2, 3, 4, 4), (2, 0))(clip).equal(clip[:, :, [2, 0]])
    assert Channel((2, 3, 4, 4), (1,))(clip).equal(clip[:, [1]])


def test_every_view_is_orthonormal():
    seen = [A for A in MAPS.values() if type(A).__module__ == "pipeline.physics.views"]
    assert len({type(A) for A in seen}) == 4
    assert all(A.orthonormal for A in seen)


def test_a_view_of_white_noise_is_white():
    z = torch.randn(20_000, 1, 4, 4, generator=Key(0).torch(), dtype=torch.float64)
    for A in (Pool((1, 4, 4), 2), Crop((1, 4, 4), 0, 1, 2, 2)):
        covariance = A(z).flatten(1).T.cov()
        torch.testing.assert_close(covariance, torch.eye(4, dtype=torch.float64), rtol=0, atol=5 * (2 / 20_000) ** 0.5)


def test_a_hidden_pixel_is_zero_whatever_it_holds():
    seen = torch.tensor([True, False, False]).reshape(1, 1, 1, 3)
    y = Masked((1, 1, 3), seen)(torch.tensor([-2.0, float("nan"), -1.0]).reshape(1, 1, 1, 3))
    assert y.flatten().tolist() == [-2.0, 0.0, 0.0]


def test_gradients_pass_through_every_map():
    """d/dx ⟨A x, y⟩ = Aᵀ y: losses are taken through operators."""
    for A in MAPS.values():
        x = torch.randn(max(A.rows, 2), *A.in_shape, dtype=torch.float64, requires_grad=True)
        y = torch.randn(max(A.rows, 2), *A.out_shape, dtype=torch.float64)
        if A(x).requires_grad:
            torch.testing.assert_close(torch.autograd.grad((A(x) * y).sum(), x)[0], A.adjoint(y))


# ---- Refusals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Crop((1, 8, 8), 5, 0, 4, 4), "inside the 8 x 8 image, got rows 5 to 9"),
        (lambda: Crop((1, 8, 8), -1, 0, 4, 4), "inside the 8 x 8 image"),
        (lambda: Crop((1, 8, 8), 0, 0, 4, 0), "non-empty window"),
        (lambda: Crop((1, 8, 8), 0, 0, 0, 4), "non-empty window"),
        (lambda: Crop((1, 8, 8), 0, 5, 4, 4), "inside the 8 x 8 image, got rows 0 to 4, columns 5 to 9"),
        (lambda: Crop((8,), 0, 0, 4, 4), "Crop needs an image shape"),
        (lambda: Channel((3, 4, 4), (0, 0)), "distinct places from 0 to 2"),
        (lambda: Channel((3, 4, 4), (3,)), "distinct places from 0 to 2"),
        (lambda: Channel((3, 4, 4), ()), "one or more distinct places"),
        (lambda: Frames((3, 4, 4), (0,)), "shape \\(C, T, H, W\\) of a clip"),
        (lambda: Frames((3, 2, 4, 4), (0, -1)), "distinct places from 0 to 1"),
        (lambda: Pool((1, 8, 6), 4), "divides the 8 x 6 image, got 4"),
        (lambda: Pool((1, 8, 8), 0), "divides the 8 x 8 image, got 0"),
        (lambda: Pool((1, 0, 8), 2), "positive lengths"),
        (lambda: Pool((1, 8, 8), 2) @ Pool((1, 8, 8), 2), "Pool gives \\(1, 4, 4\\), Pool expects \\(1, 8, 8\\)"),
        (lambda: Stacked((Pool((1, 8, 8), 2), Pool((1, 4, 4), 2))), "one common input shape"),
        (lambda: Stacked(()), "at least one map"),
        (lambda: 0 * Identity((2,)), "finite factor other than 0"),
        (lambda: Masked((1, 2), torch.ones(1, 1, 2)), "boolean mask"),
        (lambda: Masked((1, 2), torch.ones(1, 1, 3, dtype=torch.bool)), "broadcasts to \\(B, 1, 2\\)"),
        (lambda: Masked((2,), mask((2,), 3)) @ Masked((2,), mask((2,), 4)), "batches of \\[3, 4\\]"),
    ],
)
def test_a_map_that_cannot_be_is_refused_in_one_sentence(make, words):
    with pytest.raises(ValueError, match=words) as refusal:
        make()
    assert str(refusal.value).endswith(".")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", MAPS)
def test_another_shape_is_refused_with_both_shapes_named(name):
    A = MAPS[name]
    batch = max(A.rows, 2)
    for method, shape in ((A, A.in_shape), (A.project, A.in_shape), (A.adjoint, A.out_shape), (A.pinv, A.out_shape)):
        expected = ", ".join(map(str, ("B" if A.rows == 1 else A.rows, *shape)))
        longer: Shape = (*shape[:-1], shape[-1] + 1)
        for size in ((batch, *longer), (batch, 1, *shape), (batch, *shape[1:])):
            with pytest.raises(ValueError, match=re.escape(f"expects a tensor of shape ({expected}), got {size}.")):
                method(torch.zeros(size))
        if A.rows > 1:
            with pytest.raises(ValueError, match="expects a tensor of shape"):
                method(torch.zeros(A.rows + 1, *shape))


def test_only_maps_compose_and_only_numbers_multiply():
    with pytest.raises(TypeError):
        Identity((2,)) @ torch.eye(2)
    with pytest.raises(TypeError):
        "2" * Identity((2,))
