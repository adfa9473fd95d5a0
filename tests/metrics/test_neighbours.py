"""Precision, recall, density, coverage and memorisation: identities, expectations, planted copies."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from pipeline.metrics import neighbours
from pipeline.metrics.features import TooFew
from pipeline.metrics.memorisation import Nearest, judged, summary

K = 3


def normal(count: int, n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def groups_of(x: torch.Tensor, groups: int = 5) -> torch.Tensor:
    return torch.arange(len(x)) % groups


def values(made: torch.Tensor, real: torch.Tensor, k: int = K) -> dict[str, float]:
    found = neighbours.judged(made, real, groups_of(made), groups_of(real), 5, k)
    return {name: one.value for name, one in found.items()}


def by_definition(made: np.ndarray, real: np.ndarray, k: int) -> dict[str, float]:
    def apart(a, b):
        return np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))

    ball_real, ball_made = (np.sort(apart(x, x), axis=1)[:, k] for x in (real, made))
    inside = apart(real, made) <= ball_real[:, None]
    return {
        "precision": inside.any(0).mean(),
        "recall": (apart(made, real) <= ball_made[:, None]).any(0).mean(),
        "density": inside.sum(0).mean() / k,
        "coverage": inside.any(1).mean(),
    }


def test_all_four_are_as_defined(monkeypatch):
    monkeypatch.setattr(neighbours, "CHUNK", 7)
    made, real = normal(30, 4) * 0.8 + 0.3, normal(41, 4, 1)
    assert values(made, real) == pytest.approx(by_definition(made.numpy(), real.numpy(), K))


def test_what_is_left_without_a_group_is_as_defined_of_the_others(monkeypatch):
    made, real = normal(30, 4) * 0.8 + 0.3, normal(41, 4, 1)
    seen = []
    monkeypatch.setattr(neighbours, "SPARE", 1)  # so that it is not always enough
    monkeypatch.setattr(neighbours, "of_share", lambda found, among: found)
    monkeypatch.setattr(neighbours, "estimate", lambda whole, without, *ends: seen.append(without) or whole)
    neighbours.judged(made, real, groups_of(made), groups_of(real), 5, K)
    for name, without in zip(("precision", "density", "coverage", "recall"), seen, strict=True):
        (real_out, _), (made_out, _) = without if name != "recall" else without[::-1]
        for g in range(5):
            few_real, few_made = real[groups_of(real) != g].numpy(), made[groups_of(made) != g].numpy()
            assert real_out[g] == pytest.approx(by_definition(made.numpy(), few_real, K)[name]), (name, g)
            assert made_out[g] == pytest.approx(by_definition(few_made, real.numpy(), K)[name]), (name, g)


def test_equal_sets_are_perfect_and_far_ones_have_nothing_in_common():
    x = normal(60, 8)
    same = values(x, x.clone())
    assert (same["precision"], same["recall"], same["coverage"]) == (1, 1, 1)
    assert same["density"] == pytest.approx((K + 1) / K), "every ball holds k others and its own centre"
    assert set(values(x + 100, x).values()) == {0}


def test_samples_of_one_mode_are_precise_and_miss_the_other():
    real = torch.cat([normal(60, 4), normal(60, 4, 1) + 30])
    found = values(normal(120, 4, 2), real)
    assert found["recall"] < 0.51 < 0.8 < found["precision"]
    assert found["coverage"] < 0.51


@pytest.mark.slow
def test_the_means_for_one_law_are_those_of_the_paper():
    """E density = 1 and E coverage = 1 − (N−1)…(N−k)/((M+N−1)…(M+N−k)), in any dimension (Naeem et al. 2020)."""
    found = [values(normal(24, 3, 2 * s), normal(18, 3, 2 * s + 1)) for s in range(400)]
    for name, want in (("density", 1.0), ("coverage", neighbours.coverage_of_one_law(K, 24, 18))):
        drawn = np.array([one[name] for one in found])
        error = drawn.std() / 400**0.5
        assert abs(drawn.mean() - want) < 4 * error, name
        assert error < 0.02
    assert neighbours.coverage_of_one_law(1, 10, 10) == pytest.approx(1 - 9 / 19)


def test_too_few_images_are_a_sentence():
    with pytest.raises(TooFew, match="3 neighbours need at least 8 images of each set, not 7"):
        values(normal(7, 2), normal(30, 2))
    values(normal(8, 2), normal(8, 2))


def test_planted_copies_are_found_all_of_them_and_no_others():
    learned, samples = normal(300, 16), normal(100, 16, 1)
    learned[7] = learned[200]  # learned twice: the nearest two are at one distance, 0
    where = torch.arange(0, 100, 4)
    rows = torch.arange(200, 225)
    samples[where] = learned[rows]
    near = Nearest.of(samples, learned)
    found = judged(near)
    assert found["copied"].value == 0.25
    assert [found[f"similar_{t}"].value for t in ("0.99", "0.95")] == [0.25, 0.25]
    assert near.row[where[1:]].tolist() == rows[1:].tolist()
    assert near.row[0] == 7, "of two as near, the first"
    assert summary(near)["similarity_max"] == pytest.approx(1)
    dimmed = judged(Nearest.of(samples * 0.5, learned))
    assert dimmed["similar_0.99"].value == 0.25, "similarity asks for no scale"
    assert dimmed["copied"].value < 0.05, "and distance does"


def test_slightly_changed_copies_are_near_but_not_above_every_threshold():
    learned = normal(200, 64)
    changed = learned[:50] + 0.25 * normal(50, 64, 1)
    found = judged(Nearest.of(changed, learned))
    assert found["similar_0.90"].value == 1
    assert found["similar_0.99"].value == 0
    assert found["copied"].value > 0.9


def test_a_set_in_any_pieces_and_order_has_the_same_nearest():
    learned, samples = normal(61, 5).round(decimals=0), normal(20, 5, 1).round(decimals=0)  # many are as near
    whole = Nearest.of(samples, learned)
    assert torch.equal(whole.distances, torch.cdist(samples, learned).topk(2, largest=False).values.double())
    for seed in range(5):
        rng = np.random.default_rng(seed)
        cuts = [0, *sorted(rng.integers(0, 61, 4).tolist()), 61]
        parts = [Nearest.of(samples, learned[a:b], a) for a, b in pairwise(cuts)]
        found = Nearest.none(20)
        for i in rng.permutation(len(parts)):
            found += parts[i]
        assert torch.equal(found.distances, whole.distances)
        assert torch.equal(found.row, whole.row)
        torch.testing.assert_close(found.similarity, whole.similarity)


def test_features_that_are_zero_are_like_nothing():
    near = Nearest.of(torch.zeros(2, 3), normal(4, 3))
    assert near.similarity.tolist() == [0, 0]


def test_memorisation_needs_two_learned_images():
    with pytest.raises(TooFew, match="at least 1 sample and 2 images"):
        judged(Nearest.of(normal(3, 2), normal(1, 2)))
